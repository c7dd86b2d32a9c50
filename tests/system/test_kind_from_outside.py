"""A kind of backend from outside is migrated to by real processes: none of the product's files knows of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import urllib.request
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from backends.kinds.registry import KINDS

Wait = Callable[..., None]

SHELF = "boards = 3"
ILL = "boards = 3\nill = true"


class Scene(NamedTuple):
    """What is migrated to a shelf: the command line, and operations on it."""

    module: str
    routes: tuple[str, ...]
    write: tuple[str, str, dict[str, Any]]  # method, path, body
    read: str  # the path by which what was written is read, with its id
    listing: str


SCENES = {
    "a built-in adapter": Scene(
        "tests.support.with_a_shelf",
        ("/api/scans/*",),
        ("POST", "/api/scans", {"root": "/photos"}),
        "/api/scans/{id}",
        "/api/scans",
    ),
    "an adapter from outside": Scene(
        "tests.support.orders.on_a_shelf",
        ("/api/orders/*",),
        ("POST", "/api/orders", {"item": "tea"}),
        "/api/orders/{id}",
        "/api/orders",
    ),
}


def ask(running: Any, method: str, path: str, body: object = None) -> tuple[int, str, Any]:
    """One data request: its status, who answered, and what."""
    with closing(http.client.HTTPConnection(running.listen, timeout=30)) as connection:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"x-user-id": "u", "content-type": "application/json"})
        response = connection.getresponse()
        source = response.getheader("x-data-source") or "the app"
        return response.status, source, json.loads(response.read() or b"null")


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Scene:
    return SCENES[request.param]


@pytest.fixture
def running(scene: Scene, serving: Callable[..., Any]) -> Any:
    """A phasegate that knows the kind, with a seeded shelf as target; its only phase is all on it."""
    return serving("", [("all", 100, "10m")], scene.module, routes=scene.routes, target="shelf", settings=SHELF)


def refit(running: Any, old: str, new: str, until: Wait) -> None:
    """Give the shelf other settings, and wait for the control plane that has read them."""
    text = running.config.read_text()
    assert text.count(old) == 1
    running.config.write_text(text.replace(old, new))
    (before,) = running.processes("control.serve")
    os.kill(running.pid, signal.SIGHUP)
    until(
        lambda: [found.pid for found in running.processes("control.serve")] not in ([], [before.pid]), 60, "control"
    )
    until(running.client.ready, 60, "the control plane")


def shelf_check(running: Any) -> dict[str, dict[str, Any]]:
    """What ``phasegate check`` says of the shelf."""
    done = running.phasegate("check", "--json", "--config", str(running.config))
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_migration_goes_to_it_and_back_through_check_gate_and_rollback(
    scene: Scene, running: Any, until: Wait
) -> None:
    assert "shelf" not in KINDS, "this process knows nothing of it"
    checks = shelf_check(running)
    assert checks["backend shelf"]["found"].startswith("shelf: 3 boards, within 2 s (")
    assert checks["backend shelf"]["ok"], checks
    assert checks["backend shelf, permissions"]["ok"], checks

    refit(running, SHELF, ILL, until)
    ill = shelf_check(running)["backend shelf"]
    assert (ill["ok"], ill["mend"]) == (False, "Screw its 3 boards on.")
    refused = running.phasegate("start", "--detach")
    assert refused.returncode == 3, refused.stdout
    assert "it leans" in refused.stderr, "the gate before a raise asks it too"
    assert ask(running, "GET", scene.listing)[:2] == (200, "mock")
    refit(running, ILL, SHELF, until)

    method, path, body = scene.write
    status, source, written = ask(running, method, path, body)
    assert (status, source) == (201, "mock"), written
    started = running.phasegate("start", "--detach")
    assert started.returncode == 0, started.stderr
    path = scene.read.format(id=written["id"])
    until(lambda: ask(running, "GET", path) == (200, "shelf", written), 60, "what was written, on the shelf")
    status, source, later = ask(running, method, scene.write[1], body)
    assert (status, source) == (201, "shelf")
    assert ask(running, "GET", scene.listing)[:2] == (200, "shelf")
    with urllib.request.urlopen(f"http://{running.control}/openapi-data.json") as answer:
        described = json.load(answer)["paths"][scene.listing]["get"]["responses"]["200"]
    assert "shelf" in described["headers"]["x-data-source"]["schema"]["enum"]

    back = running.phasegate("rollback")
    assert back.returncode == 0, back.stderr
    assert ask(running, "GET", scene.listing)[:2] == (200, "mock")
    path = scene.read.format(id=later["id"])
    until(
        lambda: ask(running, "GET", path) == (200, "mock", later), 60, "what was written on the shelf, at the source"
    )


def test_a_worker_and_a_control_plane_that_take_a_dead_ones_place_know_it_too(
    scene: Scene, running: Any, until: Wait
) -> None:
    method, path, body = scene.write
    written = ask(running, method, path, body)[2]
    assert running.phasegate("start", "--detach").returncode == 0
    path = scene.read.format(id=written["id"])
    until(lambda: ask(running, "GET", path) == (200, "shelf", written), 60, "what was written, on the shelf")
    running.kill_children(until)
    assert ask(running, "GET", path) == (200, "shelf", written), "kept by the machine's processes together"


def test_without_it_the_same_configuration_has_a_mistake(running: Any) -> None:
    """The positive control: it is the kind that was added, and nothing of the product's, that is served."""
    running.module = "tests.support.orders"
    refused = running.phasegate("check", "--config", str(running.config))
    assert refused.returncode == 2
    assert 'backends.shelf.kind: found "shelf"; expected "mock", "firestore" or "http"' in refused.stderr
