"""An adapter that is added from outside the product has everything that a built-in one has, in one process."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends import extensions
from backends.adapters import registry
from backends.adapters.adapter import ANCHOR, AdapterError, MadeUp, Spec, example_call
from backends.adapters.adapter import made_up as made_request
from backends.adapters.openapi import document
from backends.arm import SOURCE, TARGET, Arm
from backends.copy.fixtures import documents, made_up
from backends.documents.port import Context
from backends.kinds.firestore.settings import Firestore
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from backends.operations import Answer, Call
from backends.pair.manager import Source, build_arm
from backends.pair.storearm import StoreArm
from control.plan.settings import parse
from proxy.http1.head import Line
from proxy.migration.routes import Endpoint, NotAllowed, Router, layout
from proxy.settings import App, Plan, Proxy, Route
from tests.support.orders.adapter import ADAPTER, Order, Orders
from tests.support.patience import WITHIN_S

ORDERS = "tests.support.orders.adapter:ADAPTER"


@pytest.fixture(autouse=True)
def orders() -> Iterator[None]:
    """The adapter of orders beside the built-in ones."""
    extensions.use([ORDERS])
    yield
    extensions.use(())


def call(name: str, body: Any = None, **params: str) -> Call:
    operation = next(operation for operation in registry.operations() if operation.name == name)
    content = b"" if body is None else json.dumps(body).encode()
    return Call(operation, name.encode(), params, {}, content, time.time(), secrets.token_hex(10))


def plan(*routes: str) -> Plan:
    backends = {"mock": Mock(), "firestore": Firestore("p")}
    return Plan(App("http://127.0.0.1:1"), Proxy(), backends, (Route("m", routes, "mock", "firestore"),))


async def ask_examples(arm: Arm) -> dict[str, tuple[Spec, Answer]]:
    """Every operation's example, answered."""
    answered: dict[str, dict[str, Any]] = {}
    answers: dict[str, tuple[Spec, Answer]] = {}
    for adapter in registry.adapters():
        for spec in sorted(adapter.serves, key=lambda spec: spec.example.of is not None):  # what makes things first
            request = example_call(adapter, spec, answered, time.time(), secrets.token_hex(10))
            answer = await arm.answer(request)
            answers[request.operation.name] = spec, answer
            if spec.kind != "stream":
                answered[request.operation.name] = json.loads(answer.body)
    return answers


async def test_every_operations_example_is_answered_as_it_is_declared_and_examples_are_all_that_it_takes() -> None:
    arm = build_arm(Mock())
    await arm.start()
    answers = await ask_examples(arm)
    assert answers.keys() == {operation.name for operation in registry.operations()}
    assert "orders.move" in answers
    for name, (spec, answer) in answers.items():
        assert answer.status == spec.status, (name, answer.body)
        if spec.kind != "stream":
            assert answer.stream is None
            msgspec.json.decode(answer.body, type=spec.answer)
        else:
            assert answer.stream is not None
            assert await anext(answer.stream) == b"retry: 1000\n\n"
            assert (await anext(answer.stream)).startswith(b"event: ")
            await answer.stream.aclose()  # type: ignore[attr-defined]
    await arm.close()


async def test_it_is_answered_on_the_mock_and_its_refusals_are_its_own() -> None:
    arm = StoreArm(MemoryStore(), WITHIN_S)
    order = json.loads((await arm.answer(call("orders.place", {"item": "tea"}))).body)
    assert msgspec.convert(order, Order, strict=False).state == "placed"
    assert (await arm.answer(call("orders.get", id=order["id"]))).status == 200
    assert (await arm.answer(call("orders.get", id="another"))).status == 404
    refused = await arm.answer(call("orders.place", {"item": ""}))
    assert (refused.status, json.loads(refused.body)["error"]["code"]) == (400, "invalid_body")


async def test_its_writes_are_mirrored_and_an_order_never_goes_back() -> None:
    built = Source(StoreArm(MemoryStore(), WITHIN_S), StoreArm(MemoryStore(), WITHIN_S), hybrid=True)
    await built.start()
    order = json.loads((await built.answer(SOURCE, call("orders.place", {"item": "tea"}))).answer.body)["id"]
    await built.answer(TARGET, call("orders.move", {"state": "sent"}, id=order))
    await built.answer(SOURCE, call("orders.move", {"state": "paid"}, id=order))
    for arm in (SOURCE, TARGET):
        answer = (await built.answer(arm, call("orders.get", id=order))).answer
        assert json.loads(answer.body)["state"] == "sent", arm
    await built.close()


def test_it_is_in_the_document_and_the_others_are_as_they_were() -> None:
    described = document("1")
    extensions.use(())
    built_in = document("1")
    assert set(described["paths"]) - set(built_in["paths"]) == {spec.path for spec in ADAPTER.serves}
    assert {path: described["paths"][path] for path in built_in["paths"]} == built_in["paths"]
    assert described["components"]["schemas"].keys() >= {*built_in["components"]["schemas"], "Order", "OrderPage"}
    placed = described["paths"]["/api/orders"]["post"]
    assert placed["operationId"] == "orders.place"
    assert placed["responses"].keys() == {"201", "400", "503"}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references == set(described["components"]["schemas"])


class Scan(msgspec.Struct):
    """A struct with the name of a built-in adapter's."""

    barcode: str


class Error(msgspec.Struct):
    """A struct with the name of every adapter's error, which leads to others with a built-in one's name."""

    scans: list[Scan]


def test_shapes_with_the_names_of_built_in_ones_leave_the_document_whole() -> None:
    """Each keeps its own schema, under a name that tells the two apart."""
    before = document("1")
    changed = {"get": Error, "move": Scan}
    serves = tuple(dataclasses.replace(spec, answer=changed.get(spec.call, spec.answer)) for spec in ADAPTER.serves)
    registry.install((*registry.BUILT_IN, dataclasses.replace(ADAPTER, serves=serves)))
    described = document("1")
    schemas = described["components"]["schemas"]

    def answer(path: str, method: str, status: str = "200") -> Any:
        content = described["paths"][path][method]["responses"][status]["content"]["application/json"]
        return schemas[content["schema"]["$ref"].removeprefix("#/components/schemas/")]

    assert answer("/api/orders/{id}", "get")["properties"].keys() == {"scans"}
    assert answer("/api/orders/{id}/state", "put")["properties"].keys() == {"barcode"}
    for name, shape in (
        ("Error", answer("/api/orders/{id}", "get", "404")),
        ("Scan", answer("/api/scans/{id}", "get")),
    ):
        assert shape["properties"].keys() == before["components"]["schemas"][name]["properties"].keys(), name
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert references == set(schemas)
    assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", name) for name in schemas), "names that OpenAPI 3.1 allows"
    assert len(schemas) == len(before["components"]["schemas"]) + 2, "two more, and Order is still in OrderPage"


def test_its_requests_are_routed_and_have_cells_on_the_board() -> None:
    migration = plan("/api/orders/*")
    assert layout(migration, 1).migrations == (("m", tuple(operation.name for operation in ADAPTER.operations)),)
    router = Router(migration)

    def resolve(method: bytes, target: bytes) -> Any:
        return router.resolve(Line(method, target, None, False))

    found = resolve(b"PUT", b"/api/orders/7/state")
    assert isinstance(found, Endpoint)
    assert (found.operation.name, found.params) == ("orders.move", {"id": "7"})
    assert isinstance(resolve(b"DELETE", b"/api/orders/7"), NotAllowed)
    assert resolve(b"GET", b"/api/scans") is None  # not of these routes


def test_a_configuration_may_route_it_and_the_plan_carries_it_to_other_processes() -> None:
    config = {
        "app": {"origin": "http://127.0.0.1:1"},
        "backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "firestore", "project": "p"}},
        "migrations": {"m": {"source": "mock", "target": "firestore", "routes": ["/api/orders/*"]}},
    }
    assert parse(config).plan().extensions == (ORDERS,)
    extensions.use(())
    with pytest.raises(Exception, match="covers no data operation"):
        parse(config)


async def test_its_made_up_data_is_a_mocks_and_leaves_the_others_as_it_is() -> None:
    whole = made_up(3)
    assert whole[: -len(orders_of(whole))] == documents(3, registry.BUILT_IN)
    assert len(orders_of(whole)) == 10
    arm = build_arm(Mock(seed=3))
    await arm.start()
    page = json.loads((await arm.answer(call("orders.newest"))).body)
    assert [order["state"] for order in page["orders"]] == ["paid", *["placed"] * 9]
    await arm.close()


def orders_of(mutations: Any) -> list[Any]:
    return [mutation for mutation in mutations if mutation.path.startswith("orders/")]


def test_made_up_data_that_its_own_adapter_refuses_is_told() -> None:
    def nothing(dice: random.Random) -> Iterator[MadeUp]:
        yield made_request(dice, Orders.place, ANCHOR, {"item": ""})

    with pytest.raises(AdapterError, match=r"adapter\.py: made-up data: place is refused"):
        documents(1, (dataclasses.replace(ADAPTER, made_up=nothing),))


async def test_its_fixtures_are_read_with_the_times_that_it_names(tmp_path: Path) -> None:
    order = {"item": "tea", "count": 1, "state": "paid", "placed": "2026-01-01T00:00:00Z"}
    (tmp_path / "orders.json").write_text(json.dumps({"a": order}))
    arm = build_arm(Mock(fixtures=str(tmp_path)))
    await arm.start()
    page = json.loads((await arm.answer(call("orders.newest"))).body)
    assert page["orders"] == [{"id": "a", **order}]
    await arm.close()


async def test_a_bucket_of_events_in_a_fixture_is_found_by_its_time(tmp_path: Path) -> None:
    now = time.time()
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - 1))
    bucket = {"start": start, "items": {"tea": 3}}
    (tmp_path / "analytics_minutes.json").write_text(json.dumps({"a": bucket}))
    arm = build_arm(Mock(fixtures=str(tmp_path)))
    await arm.start()
    trending = json.loads((await arm.answer(call("analytics.trending"))).body)
    assert trending["items"] == [{"item": "tea", "events": 3}]
    await arm.close()


async def test_the_order_by_newness_is_the_one_that_its_changes_keep() -> None:
    store = MemoryStore()
    arm = StoreArm(store, WITHIN_S)
    order = json.loads((await arm.answer(call("orders.place", {"item": "tea"}))).body)["id"]
    placed = await store.get(f"orders/{order}", Context(0.0))
    await arm.answer(call("orders.move", {"state": "sent"}, id=order))
    sent = await store.get(f"orders/{order}", Context(0.0))
    assert placed is not None
    assert sent is not None
    adapter = registry.claiming(sent.path)
    assert adapter is not None
    newer = adapter.newer["orders"]
    assert newer(sent.fields, placed.fields)
    assert not newer(placed.fields, sent.fields)
