"""What stands in deploy/ fits together and fits phasegate: names lead somewhere, times add up, commands exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from control.cli.main import main
from control.plan.settings import parse

Json = dict[str, Any]


@pytest.fixture
def manifests(repository: Path) -> list[Json]:
    """The Kubernetes objects."""
    return [*yaml.safe_load_all((repository / "deploy/kubernetes.yaml").read_text())]


def named(manifests: list[Json], kind: str) -> dict[str, Json]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def dangling(manifests: list[Json]) -> Iterator[str]:
    """Every name in the manifests that leads nowhere."""
    (deployment,) = named(manifests, "Deployment").values()
    pod = deployment["spec"]["template"]
    spec, labels = pod["spec"], pod["metadata"]["labels"]
    (container,) = spec["containers"]
    ports = {port["name"] for port in container["ports"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    if deployment["spec"]["selector"]["matchLabels"] != labels:
        yield "the deployment's selector"
    if spec["serviceAccountName"] not in named(manifests, "ServiceAccount"):
        yield "the service account"
    for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
        (action,) = (container[probe][kind] for kind in ("httpGet", "tcpSocket") if kind in container[probe])
        if action["port"] not in ports:
            yield f"{probe}'s port"
    for mount in container["volumeMounts"]:
        volume = volumes.pop(mount["name"], None)
        if volume is None:
            yield f"volume {mount['name']}"
        elif "configMap" in volume and volume["configMap"]["name"] not in named(manifests, "ConfigMap"):
            yield "the config map"
        elif "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] not in named(
            manifests, "PersistentVolumeClaim"
        ):
            yield "the claim"
    yield from (f"unused volume {name}" for name in volumes)
    for name, service in named(manifests, "Service").items():
        if not service["spec"]["selector"].items() <= labels.items():
            yield f"the selector of {name}"
        yield from (f"port of {name}" for port in service["spec"]["ports"] if port["targetPort"] not in ports)


def test_every_name_in_the_manifests_leads_somewhere(manifests: list[Json]) -> None:
    for each in manifests:
        assert {"apiVersion", "kind", "metadata"} <= each.keys()
    assert [*dangling(manifests)] == []


@pytest.mark.parametrize("kind", ["ServiceAccount", "ConfigMap", "PersistentVolumeClaim"])
def test_a_missing_object_is_found(kind: str, manifests: list[Json]) -> None:
    assert len([*dangling([each for each in manifests if each["kind"] != kind])]) == 1


def test_the_container_can_write_where_it_has_to_and_has_time_to_drain(manifests: list[Json]) -> None:
    (config,) = named(manifests, "ConfigMap").values()
    settings = parse(tomllib.loads(config["data"]["phasegate.toml"]))
    (deployment,) = named(manifests, "Deployment").values()
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert str(settings.proxy.run_dir) in writable
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert str(ports["http"]) == settings.proxy.listen[0].rpartition(":")[2]
    assert str(ports["control"]) == settings.control.listen.rpartition(":")[2]
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert float(settings.proxy.drain_timeout_s) + float(pause) < spec["terminationGracePeriodSeconds"]
    assert deployment["spec"]["strategy"]["type"] == "Recreate", "two would share a run directory for a moment"


def test_the_unit_runs_a_command_that_exists_and_waits_for_the_drain(repository: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # as the standard library documents it
    unit.read_string((repository / "deploy/phasegate.service").read_text())
    service = unit["Service"]
    program, command, *options = shlex.split(service["ExecStart"])
    assert Path(program).name == "phasegate"
    known = {option for parameter in main.commands[command].params for option in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known
    settings = parse(
        {
            "app": {"origin": "http://127.0.0.1:3000"},
            "backends": {"a": {"kind": "mock"}, "b": {"kind": "mock"}},
            "migrations": {"m": {"source": "a", "target": "b", "routes": ["/*"]}},
        }
    )
    assert float(settings.proxy.drain_timeout_s) < int(service["TimeoutStopSec"])
    assert service["KillMode"] == "mixed", "the supervisor alone is told to end"
    assert "HUP" in service["ExecReload"]


def test_every_alert_says_how_bad_what_and_what_to_do(repository: Path) -> None:
    (group,) = yaml.safe_load((repository / "deploy/alerts.yaml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) > 5
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["expr"].strip()
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]


def test_the_panels_of_the_dashboard_lie_beside_one_another(repository: Path) -> None:
    panels = json.loads((repository / "deploy/grafana.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        apart = any(
            one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at]
            for at, size in (("x", "w"), ("y", "h"))
        )
        assert apart, (one, other)
    # A row is a title alone: the panels below it are its own.
    assert all(panel["title"] and (panel["type"] == "row" or panel["targets"]) for panel in panels)


def test_every_yaml_that_a_page_shows_can_be_read(repository: Path) -> None:
    shown = [
        block
        for page in sorted((repository / "docs").glob("*.md"))
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert shown
    for block in shown:
        assert isinstance(yaml.safe_load(block), dict)
