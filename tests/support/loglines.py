"""Reads phasegate's log lines, and the table of allowed events in docs/operations.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
ON_EVERY_LINE = {"timestamp", "level", "process", "pid", "event"}
AS_SAID = "as it was said"  # the level of lines from libraries


def table(text: str | None = None) -> dict[str, tuple[str, str, frozenset[str]]]:
    """The rows of the page: event -> level, processes, fields."""
    text = PAGE.read_text() if text is None else text
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return {row[0]: (row[1], row[2], frozenset(re.findall(r"`(\w+)`", row[3]))) for row in rows}


def lines(text: str) -> list[dict[str, Any]]:
    """Every line of a log; fails if one is not as documented."""
    rows = table()
    entries = []
    for line in text.splitlines():
        entry = json.loads(line)
        assert entry.keys() >= ON_EVERY_LINE, line
        assert entry["event"] in rows, line
        level, processes, fields = rows[entry["event"]]
        assert level in (entry["level"], AS_SAID), line
        assert processes == "any" or entry["process"].partition("-")[0] in processes.split(", "), line
        assert entry.keys() - ON_EVERY_LINE - {"exception"} <= fields <= entry.keys() | {"exception"}, line
        entries.append(entry)
    return entries
