"""The connection's table of states: that it is whole, and that a connection does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from typing import Final

import pytest

from proxy.http1.states import (
    ANSWERED,
    BODY,
    BODY_ENDED,
    BUSY,
    CLOSED,
    EVENTS,
    GAVE_UP,
    HEAD,
    LINGER,
    LOST,
    NEXT,
    REQUEST,
    REQUEST_BEGUN,
    STATES,
    SWITCHED,
    TRANSITIONS,
    TUNNEL,
)
from tests.support.played import Stage

Step = Callable[[Stage], None]

PAIRS: Final = list(product(STATES, EVENTS))


def client(data: bytes) -> Step:
    return lambda stage: stage.send(data)


def origin(data: bytes) -> Step:
    return lambda stage: stage.answer(data)


def lost(stage: Stage) -> None:
    stage.client.abort()


def origin_lost(stage: Stage) -> None:
    stage.ups[-1].transport.abort()


GET: Final = client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
LAST_GET: Final = client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
POST_BEGUN: Final = client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
UPGRADE: Final = client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
NO_REQUEST: Final = client(b"nonsense\r\n\r\n")
OK: Final = origin(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
SWITCH: Final = origin(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")

# By row: what happens from a fresh connection on. The last step is the row's event.
CONVERSATIONS: Final[dict[tuple[int, int], tuple[Step, ...]]] = {
    (HEAD, REQUEST): (GET,),
    (HEAD, REQUEST_BEGUN): (POST_BEGUN,),
    (HEAD, GAVE_UP): (NO_REQUEST,),
    (HEAD, LOST): (lost,),
    (BODY, BODY_ENDED): (POST_BEGUN, client(b"llo")),
    (BODY, GAVE_UP): (POST_BEGUN, OK),
    (BODY, LOST): (POST_BEGUN, lost),
    (BUSY, ANSWERED): (GET, OK),
    (BUSY, SWITCHED): (UPGRADE, SWITCH),
    (BUSY, GAVE_UP): (LAST_GET, OK),
    (BUSY, LOST): (GET, lost),
    (TUNNEL, GAVE_UP): (UPGRADE, SWITCH, origin_lost),
    (TUNNEL, LOST): (UPGRADE, SWITCH, lost),
    (LINGER, LOST): (NO_REQUEST, lost),
}


def test_the_table_that_is_looked_up_is_the_table_that_is_written() -> None:
    assert len({state + event for state, event in PAIRS}) == len(PAIRS), "each pair has a number of its own"
    written = {(row.state, row.event): row.to for row in TRANSITIONS}
    assert len(written) == len(TRANSITIONS), "one row for a pair"
    assert {(s, e): NEXT[s + e] for s, e in PAIRS if s + e in NEXT} == written


def test_every_connection_can_end_and_what_has_ended_stays_so() -> None:
    assert {row.state for row in TRANSITIONS if row.event == LOST} == set(STATES) - {CLOSED}
    assert {row.to for row in TRANSITIONS if row.event == LOST} == {CLOSED}
    assert [row for row in TRANSITIONS if row.state == CLOSED] == []


def test_a_connection_that_gave_up_takes_no_further_request() -> None:
    assert [row.event for row in TRANSITIONS if row.state == LINGER] == [LOST]


def test_every_state_can_be_reached() -> None:
    reached = {HEAD}
    for _ in STATES:
        reached |= {row.to for row in TRANSITIONS if row.state in reached}
    assert reached == set(STATES)


def test_each_row_has_its_conversation() -> None:
    assert set(CONVERSATIONS) == {(row.state, row.event) for row in TRANSITIONS}


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{STATES[row.state]}, {EVENTS[row.event]}")
async def test_a_connection_does_what_the_row_says(row: tuple[int, int, int]) -> None:
    state, event, to = row
    stage = Stage()
    *before, last = CONVERSATIONS[state, event]
    for step in before:
        step(stage)
        await stage.settle()
    assert stage.down.state == state
    last(stage)
    await stage.settle()
    assert stage.down.state == to
    await stage.end()


async def test_what_has_no_row_is_a_mistake_and_changes_nothing() -> None:
    stage = Stage()
    with pytest.raises(KeyError):
        stage.down.end_answer(b"")  # of no request
    assert stage.down.state == HEAD
    await stage.end()
    assert asyncio.all_tasks() == {asyncio.current_task()}
