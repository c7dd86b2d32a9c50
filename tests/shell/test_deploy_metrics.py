"""The dashboard and the alerts ask for series that /metrics has, with labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from control.data.messages import TaskProgress
from tests.support.played_task import PlayedData

Make = Callable[..., Any]
SERIES = re.compile(r"\b(phasegate_[a-z0-9_]+)(?:\{([^}]*)\})?")


def dashboard(repository: Path) -> Iterator[str]:
    document = json.loads((repository / "deploy/grafana.json").read_text())
    for panel in document["panels"]:
        for target in panel.get("targets", ()):  # a row has none
            yield target["expr"]
    yield from (note["expr"] for note in document["annotations"]["list"])


def alerts(repository: Path) -> Iterator[str]:
    text = (repository / "deploy/alerts.yaml").read_text()
    yield from re.findall(r"expr: (?:\|\n)?((?:.|\n)*?)\n +(?:for|labels):", text)


def asked(expressions: Iterator[str]) -> list[tuple[str, set[str]]]:
    found = [match for expression in expressions for match in SERIES.findall(expression)]
    return [(name, set(re.findall(r"(\w+)(?:=~|!=|=)", labels))) for name, labels in found]


async def exposed(control_plane: Make) -> dict[str, set[str]]:
    """The series of /metrics, with their labels, after a run that went wrong and beside a task on the data."""
    data = PlayedData(gate=False)
    plane = await control_plane(data=data.setup())
    await plane.call("POST", "data", {"action": "copy"})
    data.runner.progress = TaskProgress(4, 12)
    plane.workers.rate, plane.workers.target_faults = 2000, 0.5
    await plane.act("start")
    await plane.until(lambda s: s["state"] == "rolled_back")
    text = (await plane.call("GET", "/metrics"))[1]
    return {name: set(re.findall(r"(\w+)=", labels)) for name, labels in SERIES.findall(text)}


@pytest.mark.parametrize("source", [dashboard, alerts])
async def test_what_is_asked_for_is_there(
    control_plane: Make, repository: Path, source: Callable[[Path], Iterator[str]]
) -> None:
    there = await exposed(control_plane)
    wanted = asked(source(repository))
    assert len(wanted) > 8
    for name, labels in wanted:
        assert name in there, name
        assert labels <= there[name], (name, labels)


async def test_the_dashboard_shows_every_figure_of_the_data(control_plane: Make, repository: Path) -> None:
    figures = {name for name in await exposed(control_plane) if name.startswith("phasegate_data_")}
    assert len(figures) > 8
    assert figures - {name for name, _ in asked(dashboard(repository))} == set()
