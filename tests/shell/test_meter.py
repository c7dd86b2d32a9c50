"""The meter before the emulator charges as the service does."""

from __future__ import annotations

from typing import Any

import pytest

from backends.kinds.firestore.messages import firestore
from tests.support.meter import Bill, Meter, charged


def reply(kind: str, **fields: Any) -> bytes:
    message: bytes = getattr(firestore, kind).pb()(**fields).SerializeToString()
    return message


def document(name: str, seconds: int) -> dict[str, Any]:
    return {"name": name, "update_time": {"seconds": seconds}}


def counted(entries: int) -> bytes:
    return reply("RunAggregationQueryResponse", result={"aggregate_fields": {"n": {"integer_value": entries}}})


RESULT = reply("RunQueryResponse", document={"name": "a"})
NOTHING = reply("RunQueryResponse", read_time={"seconds": 1})
FOUND = reply("BatchGetDocumentsResponse", found={"name": "a"})
MISSING = reply("BatchGetDocumentsResponse", missing="b")
COMMIT = reply(
    "CommitRequest",
    writes=[
        {"update": {"name": "a"}, "update_transforms": [{"field_path": "n", "increment": {"integer_value": 1}}]},
        {"delete": "b"},
    ],
)


@pytest.mark.parametrize(
    ("method", "requests", "replies", "bill"),
    [
        ("GetDocument", [], [b""], Bill(reads=1)),
        ("BatchGetDocuments", [], [FOUND, MISSING], Bill(reads=2)),
        ("RunQuery", [], [RESULT, RESULT, NOTHING], Bill(reads=2)),
        ("RunQuery", [], [NOTHING], Bill(reads=1)),
        ("RunAggregationQuery", [], [counted(0)], Bill(reads=1)),
        ("RunAggregationQuery", [], [counted(1000)], Bill(reads=1)),
        ("RunAggregationQuery", [], [counted(1001)], Bill(reads=2)),
        ("Commit", [COMMIT], [b""], Bill(writes=1, deletes=1)),
    ],
)
def test_a_call_is_charged(method: str, requests: list[bytes], replies: list[bytes], bill: Bill) -> None:
    assert charged(f"/google.firestore.v1.Firestore/{method}", requests, replies) == bill


def test_a_call_that_nobody_knows_the_price_of_is_not_free() -> None:
    with pytest.raises(KeyError):
        charged("/google.firestore.v1.Firestore/PartitionQuery", [], [])


def test_a_listener_pays_for_each_change_once_and_for_everything_when_it_does_not_resume() -> None:
    meter = Meter("nowhere")
    query = {"structured_query": {"limit": {"value": 5}}}
    anew = reply("ListenRequest", add_target={"query": query})
    resumed = reply("ListenRequest", add_target={"query": query, "resume_token": b"t"})

    def listened(request: bytes, *changes: tuple[str, int]) -> int:
        before = meter.bill.listened
        meter._begins("worker", request)
        for name, seconds in changes:
            change = {"document": document(name, seconds), "target_ids": [1]}
            meter._listened("worker", request, reply("ListenResponse", document_change=change))
        return meter.bill.listened - before

    assert listened(anew, ("a", 1), ("b", 1), ("a", 1)) == 2
    assert listened(resumed, ("a", 1), ("b", 2)) == 1
    assert listened(anew, ("a", 1), ("b", 2)) == 2
    left = {"document": document("a", 3), "removed_target_ids": [1]}
    before = meter.bill
    meter._listened("worker", anew, reply("ListenResponse", document_change=left))
    assert meter.bill == before
