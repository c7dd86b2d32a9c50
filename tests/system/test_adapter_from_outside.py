"""An adapter in a package of its own is migrated by real processes: none of the product's files knows of it."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from backends.adapters.registry import operations

Start = Callable[..., Any]
Wait = Callable[..., None]

MODULE = "tests.support.orders"


def ask(running: Any, method: str, path: str, body: object = None) -> tuple[int, str, Any]:
    """One data request: its status, who answered, and what."""
    host, _, port = running.listen.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"x-user-id": "u", "content-type": "application/json"})
        response = connection.getresponse()
        return (
            response.status,
            response.getheader("x-data-source") or "the app",
            json.loads(response.read() or b"null"),
        )
    finally:
        connection.close()


@pytest.fixture
def running(serving: Start, emulated: str) -> Any:
    """A phasegate with the adapter of orders, which has been seeded; its only phase is all on Firestore."""
    return serving(emulated, [("all", 100, "10m")], MODULE, routes=["/api/orders/*", "/api/scans/*"])


def test_orders_are_routed_seeded_mirrored_described_judged_and_read_from_a_live_view(
    running: Any, until: Wait
) -> None:
    assert "orders" not in {operation.adapter for operation in operations()}, "this process knows nothing of it"
    status, source, order = ask(running, "POST", "/api/orders", {"item": "tea"})
    assert (status, source, order["state"]) == (201, "mock", "placed")
    assert running.phasegate("start", "--detach").returncode == 0
    path = f"/api/orders/{order['id']}"
    until(lambda: ask(running, "GET", path) == (200, "firestore", order), 60, "the order on Firestore")
    status, source, moved = ask(running, "PUT", f"{path}/state", {"state": "paid"})
    assert (status, source, moved["state"]) == (200, "firestore", "paid")
    status, source, refused = ask(running, "PUT", f"{path}/state", {"state": "eaten"})
    assert (status, source, refused["error"]["code"]) == (400, "firestore", "invalid_body")

    def view_reads() -> int:
        assert ask(running, "GET", "/api/orders")[:2] == (200, "firestore")
        return sum(running.client.metrics().gauges["view_reads"])

    until(view_reads, 60, "an answer from the live view")
    page = ask(running, "GET", "/api/orders")[2]["orders"]
    assert page[0] == moved
    assert len(page) == 11, "and the ten that the adapter made up"
    assert ask(running, "GET", "/api/scans")[:2] == (200, "firestore"), "beside it a built-in one"

    with urllib.request.urlopen(f"http://{running.control}/openapi-data.json") as answer:
        described = json.load(answer)["paths"]
    assert described["/api/orders/{id}/state"]["put"]["operationId"] == "orders.move"
    requests = {row.operation: row.arms.target.requests for row in running.client.metrics().operations}
    assert requests["orders.move"] == 2
    assert "orders" in str(running.client.report().criteria)
    assert running.phasegate("check", "--config", str(running.config)).returncode != 2, "a mistake in it"


def test_a_worker_and_a_control_plane_that_take_a_dead_ones_place_know_it_too(running: Any, until: Wait) -> None:
    order = ask(running, "POST", "/api/orders", {"item": "tea"})[2]
    running.kill_children(until)
    assert ask(running, "GET", f"/api/orders/{order['id']}") == (200, "mock", order)


def test_without_it_the_same_routes_cover_nothing(running: Any) -> None:
    """The positive control: it is the adapter that was added, and nothing of the product's, that answers."""
    running.module = "control.cli"
    refused = running.phasegate("check", "--config", str(running.config))
    assert refused.returncode == 2
    assert "'/api/orders/*' covers no data operation" in refused.stderr.replace('"', "'")
