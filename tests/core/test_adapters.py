"""The table of adapters: one that lacks a part, or claims what is another's, is refused, and told what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError, Example, Spec
from backends.adapters.replies import Written, reply
from backends.adapters.requests import Choice
from backends.documents.port import Context, DocumentStore, Query
from backends.operations import Answer, Call

HERE = __file__


class Thing(msgspec.Struct):
    """An answer and a body."""

    n: int


class Things:
    """The handlers of ``things.*``."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store

    async def one(self, call: Call, ctx: Context) -> Answer:
        return reply(200, {"n": 1})

    async def make(self, call: Call, ctx: Context) -> Written:
        return reply(200, {"n": 1}), None

    async def stream(self, call: Call, ctx: Context) -> Answer:
        return reply(200, {})

    def helper(self, call: Call, ctx: Context) -> Answer:
        return reply(200, {})


async def stray(self: object, call: Call, ctx: Context) -> Answer:
    return reply(200, {})


ONE = Spec(Things.one, "GET", "/api/things/{id}", "read", Thing, example=Example(of=Things.make))
MAKE = Spec(Things.make, "POST", "/api/things", "write", Thing, body=Thing, example=Example('{"n": 1}'))
STREAM = Spec(Things.stream, "GET", "/api/things/stream", "stream")


def things(**changes: Any) -> Adapter:
    """An adapter with nothing missing, but for the changes."""
    parts: dict[str, Any] = {
        "name": "things",
        "handlers": Things,
        "serves": (ONE, MAKE, STREAM),
        "collections": ("things",),
        "views": (Query("things"),),
    }
    return Adapter(**(parts | changes))


def one(**changes: Any) -> dict[str, Any]:
    return {"serves": (dataclasses.replace(ONE, **changes), MAKE, STREAM)}


def make(**changes: Any) -> dict[str, Any]:
    return {"serves": (ONE, dataclasses.replace(MAKE, **changes), STREAM)}


def stream(**changes: Any) -> dict[str, Any]:
    return {"serves": (ONE, MAKE, dataclasses.replace(STREAM, **changes))}


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """The built-in table afterwards."""
    yield
    registry.install(registry.BUILT_IN)


def test_a_whole_adapter_is_one_and_its_operations_are_always_the_same_objects() -> None:
    adapter = things()
    registry.install((*registry.BUILT_IN, adapter))
    assert [operation.name for operation in registry.operations()[-3:]] == [
        "things.one",
        "things.make",
        "things.stream",
    ]
    assert all(one is two for one, two in zip(registry.operations(), registry.operations(), strict=True))
    assert registry.specs()["things.make"] is MAKE
    assert Query("things") in registry.views()
    claiming = registry.claiming("things/1/parts/2")
    assert claiming is adapter


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an operation without a handler": (one(handler=stray), "stray: an operation without a handler"),
    "a handler that is not async": (one(handler=Things.helper), "helper: expected an async method"),
    "a handler without an operation": ({"serves": (ONE, MAKE)}, "stream: a handler without an operation"),
    "an operation without an answer": (one(answer=None), "one: answer: missing"),
    "a stream with a shape": (stream(answer=Thing), "stream: answer: a stream answers with server-sent events"),
    "an answer that cannot be described": (one(answer=Things), "one: answer: cannot be described"),
    "a body that cannot be described": (make(body=Things), "make: body: cannot be described"),
    "a path without an example": (one(example=Example()), "one: example: id of the path is missing"),
    "a body without an example": (make(example=Example()), "make: example: the body is missing"),
    "an example without a body's shape": (make(body=None), "make: body: missing"),
    "an example of another shape": (
        make(example=Example('{"n": "x"}')),
        "make: example: the body is not of its shape",
    ),
    "an example of nobody's answer": (one(example=Example(of=stray)), "one: example.of"),
    "a parameter of no path": (one(in_path={"uid": {}}), "one: in_path: uid is not in the path"),
    "a parameter twice": (one(parameters=(Choice("a", ()), Choice("a", ()))), "one: parameters: a is there twice"),
    "a kind that is none": (one(kind="scan"), "one: kind: expected one of read, write, stream"),
    "a method that is none": (one(method="get"), "one: method"),
    "a path that is none": (one(path="api/things/{id}"), "one: path: expected a path such as"),
    "a placeholder twice": (one(path="/api/{id}/{id}"), "one: path: {id} is there twice"),
    "a status that is none": (one(refuses=(299,)), "one: expected HTTP statuses, found 299"),
    "two operations of a handler": ({"serves": (ONE, ONE, MAKE, STREAM)}, "one: there are two operations"),
    "two operations of a request": (one(method="POST", path=MAKE.path), "POST /api/things: there are two operations"),
    "no collection": ({"collections": (), "views": ()}, "collections: expected"),
    "a nested collection": ({"collections": ("things", "things/1/parts")}, "collections: expected the name"),
    "a view of another's documents": (
        {"views": (Query("others"),)},
        "views: others is not in one of its collections",
    ),
    "an order of another's documents": ({"newer": {"others": lambda a, b: True}}, "newer: others is not one"),
    "a name that is none": ({"name": "the things"}, "name: expected"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_missing_or_does_not_fit_is_told_with_the_file(what: str) -> None:
    changes, message = WRONG[what]
    with pytest.raises(AdapterError) as refused:
        things(**changes)
    assert message in str(refused.value)
    assert all(line.startswith(f"{HERE}: adapter ") for line in str(refused.value).splitlines())


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(AdapterError) as refused:
        things(name="", serves=(dataclasses.replace(ONE, answer=None, example=Example()),), collections=())
    assert len(str(refused.value).splitlines()) >= 5


CLAIMS: dict[str, tuple[Callable[[], Adapter], str]] = {
    "its name and so its operations": (lambda: things(name="scans"), "the name belongs to adapter 'scans' already"),
    "a path": (lambda: things(**make(path="/api/scans")), "the path /api/scans belongs to adapter 'scans' already"),
    "a path that one of its fits": (
        lambda: things(**stream(path="/api/scans/stream")),
        "the path /api/scans/stream belongs to adapter 'scans' already",
    ),
    "a collection": (
        lambda: things(collections=("things", "scans")),
        "the collection scans belongs to adapter 'scans' already",
    ),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_two_adapters_that_claim_the_same_are_told_with_both_files_and_the_table_stays(what: str) -> None:
    claiming, message = CLAIMS[what]
    before = registry.adapters()
    with pytest.raises(AdapterError) as refused:
        registry.install((*before, claiming()))
    assert message in str(refused.value)
    assert HERE in str(refused.value)
    assert "backends/adapters/scans.py" in str(refused.value)
    assert registry.adapters() is before
