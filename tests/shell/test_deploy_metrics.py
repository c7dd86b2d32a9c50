"""The dashboard and the alerts ask for series that /metrics has, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Any]
SERIES = re.compile(r"\b(phasegate_[a-z0-9_]+)(?:\{([^}]*)\})?")


def dashboard(repository: Path) -> Iterator[str]:
    document = json.loads((repository / "deploy/grafana.json").read_text())
    for panel in document["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    yield from (note["expr"] for note in document["annotations"]["list"])


def alerts(repository: Path) -> Iterator[str]:
    text = (repository / "deploy/alerts.yaml").read_text()
    yield from re.findall(r"expr: (?:\|\n)?((?:.|\n)*?)\n +(?:for|labels):", text)


def asked(expressions: Iterator[str]) -> list[tuple[str, set[str]]]:
    found = [match for expression in expressions for match in SERIES.findall(expression)]
    return [(name, set(re.findall(r"(\w+)(?:=~|!=|=)", labels))) for name, labels in found]


@pytest.mark.parametrize("source", [dashboard, alerts])
async def test_what_is_asked_for_is_there(
    control_plane: Make, repository: Path, source: Callable[[Path], Iterator[str]]
) -> None:
    plane = await control_plane()
    plane.workers.rate, plane.workers.target_faults = 2000, 0.5
    await plane.act("start")
    await plane.until(lambda s: s["state"] == "rolled_back")
    text = (await plane.call("GET", "/metrics"))[1]
    exposed = {name: set(re.findall(r"(\w+)=", labels)) for name, labels in SERIES.findall(text)}
    wanted = asked(source(repository))
    assert len(wanted) > 8
    for name, labels in wanted:
        assert name in exposed, name
        assert labels <= exposed[name], (name, labels)
