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
COLUMNS = 24  # of Grafana's grid
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


async def exposed(control_plane: Make) -> dict[str, set[str]]:
    """What /metrics has of a migration that was rolled back, and whose data is being copied: names, with labels."""
    data = PlayedData(gate=False)
    plane = await control_plane(data=data.setup())
    plane.workers.rate, plane.workers.target_faults = 2000, 0.5
    await plane.act("start")
    await plane.until(lambda s: s["state"] == "rolled_back")
    await plane.call("POST", "data", {"action": "copy"})
    data.runner.progress = TaskProgress(4, 12)
    text = (await plane.call("GET", "/metrics"))[1]
    found: dict[str, set[str]] = {}
    for name, labels in SERIES.findall(text):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


@pytest.mark.parametrize("source", [dashboard, alerts])
async def test_what_is_asked_for_is_there(
    control_plane: Make, repository: Path, source: Callable[[Path], Iterator[str]]
) -> None:
    known = await exposed(control_plane)
    wanted = asked(source(repository))
    assert len(wanted) > 8
    for name, labels in wanted:
        assert name in known, name
        assert labels <= known[name], (name, labels)


async def test_the_dashboard_has_every_figure_of_the_data(control_plane: Make, repository: Path) -> None:
    shown = {name for name, _ in asked(dashboard(repository))}
    of_data = {name for name in await exposed(control_plane) if name.startswith("phasegate_data_")}
    assert len(of_data) > 8
    assert of_data - shown == {"phasegate_data_compare_every_seconds"}  # a setting: the alerts' business


def test_panels_lie_on_no_other_and_each_has_an_id_of_its_own(repository: Path) -> None:
    panels = json.loads((repository / "deploy/grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= COLUMNS, panel["title"]
        cells = [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
        assert [taken[cell] for cell in cells if cell in taken] == [], panel["title"]
        taken |= dict.fromkeys(cells, panel["title"])
