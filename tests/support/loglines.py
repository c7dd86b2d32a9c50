"""Reads what phasegate logs, and the table of docs/operations.md that says what that may be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
ON_EVERY_LINE = {"timestamp", "level", "process", "pid", "event"}
AS_SAID = "as it was said"  # the level of what libraries say


def table(text: str | None = None) -> dict[str, tuple[str, str, frozenset[str]]]:
    """The rows of the page: event -> level, processes, fields."""
    text = PAGE.read_text() if text is None else text
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return {row[0]: (row[1], row[2], frozenset(re.findall(r"`(\w+)`", row[3]))) for row in rows}


def lines(text: str) -> list[dict[str, Any]]:
    """Every line of a log; fails where one is not as the page says."""
    rows = table()
    found = []
    for line in text.splitlines():
        told = json.loads(line)
        assert told.keys() >= ON_EVERY_LINE, line
        assert told["event"] in rows, line
        level, processes, fields = rows[told["event"]]
        assert level in (told["level"], AS_SAID), line
        assert processes == "any" or told["process"].partition("-")[0] in processes.split(", "), line
        assert told.keys() - ON_EVERY_LINE - {"exception"} <= fields <= told.keys() | {"exception"}, line
        found.append(told)
    return found
