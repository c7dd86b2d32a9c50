"""A conversation means the same however its bytes are cut; and whatever is sent, nothing breaks, hangs or stays.

Here the transports are played, so that a thousand cuttings cost a second; ``test_requests`` and its neighbours have
real sockets.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.kinds.firestore.settings import Firestore
from backends.kinds.mock.settings import Mock
from proxy.http1.downstream import Downstream
from proxy.http1.pool import Pool
from proxy.http1.upstream import Upstream
from proxy.migration.routes import layout
from proxy.process.gateway import Gateway
from proxy.settings import App, Plan, Proxy


class Transport:
    """A transport that keeps what was written and calls nobody back."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.eof = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.closing:
            assert not self.eof, "nothing may be written behind the end"
            self.written += data

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Stage:
    """A gateway with one client and, when it asks for one, a connection to the origin."""

    def __init__(self) -> None:
        plan = Plan(App("http://127.0.0.1:1"), Proxy(), {"mock": Mock(), "firestore": Firestore("demo")}, ())
        shape = layout(plan, 1)
        self.gateway = Gateway(plan, memoryview(bytearray(8 * shape.cells())).cast("Q"), shape.worker(0))
        self.gateway.date = b"date: x\r\n"
        self.ups: list[Upstream] = []
        self.gateway.app = Pool(plan.app, self.gateway.heads, lambda: self.gateway.now, self.dial)
        self.gateway.pools = [self.gateway.app]
        self.client = Transport()
        self.down = Downstream(self.gateway)
        self.client.protocol = self.down
        self.down.connection_made(self.client)  # type: ignore[arg-type] # what of a transport is used
        self.fin = False

    async def dial(self, up: Upstream) -> None:
        """Open a connection that leads nowhere."""
        transport = Transport()
        transport.protocol = up
        up.connection_made(transport)  # type: ignore[arg-type] # what of a transport is used
        self.ups.append(up)

    def send(self, data: bytes) -> None:
        """The client's bytes, as long as anybody reads and it has not said that it would send no more."""
        if not (self.client.closing or self.fin):
            self.down.data_received(data)

    def answer(self, data: bytes) -> None:
        """The origin's bytes on its newest connection, as long as anybody reads and it has not ended."""
        if self.ups and not self.ups[-1].transport.is_closing() and not self.ups[-1]._ended:
            self.ups[-1].data_received(data)

    @property
    def reached(self) -> list[bytes]:
        return [up.transport.written for up in self.ups]  # type: ignore[attr-defined] # it is ours

    async def settle(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """The client leaves: nothing may stay behind."""
        if not self.client.closing:
            self.client.abort()
        await self.settle()
        pool = self.gateway.app
        idle = [up for up in pool._idle if not up.closed]
        assert not self.gateway.clients
        assert pool.opened == len(idle)
        assert asyncio.all_tasks() == {asyncio.current_task()}


Run = Callable[[Any], Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines, one after the other in the same event loop: a loop an example would be most of its cost."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nx-t: 1\r\n\r\n"
)
EXCHANGES: tuple[tuple[bytes, bytes], ...] = (
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", OK),
    (b"\r\nGET /x HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nConnection: keep-alive, x-b\r\nX-B: 1\r\n\r\n", CHUNKED),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", HEAD),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n\r\n0\r\n\r\nGET /",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ),
    (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n\r\n0\r\r\nA;x\r\n0123456789\r\n0\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
    ),
    (b"GET http://a/abs HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED),
)


def payload(wire: bytes) -> bytes:
    """Chunked bodies with their chunks joined: how a payload is cut into chunks means nothing."""
    head, end, rest = wire.partition(b"transfer-encoding: chunked\r\n")
    if not end:
        return wire
    fields, blank, body = rest.partition(b"\r\n\r\n") if not rest.startswith(b"\r\n") else (b"", b"\r\n", rest[2:])
    joined = b""
    while match := re.match(rb"([0-9a-f]+)\r\n", body):
        size = int(match[1], 16)
        at = match.end()
        if not size:
            return head + end + fields + blank + joined + b"|" + payload(body[at:])
        joined += body[at : at + size]
        body = body[at + size + 2 :]
    return head + end + fields + blank + joined + body


async def converse(chosen: list[int], cuts: list[int]) -> tuple[list[bytes], bytes]:
    stage = Stage()
    await stage.settle()
    for i in chosen:
        request, answer = EXCHANGES[i]
        for piece in pieces(request, cuts):
            stage.send(piece)
        await stage.settle()
        for piece in pieces(answer, cuts):
            stage.answer(piece)
        await stage.settle()
    result = [payload(wire) for wire in stage.reached], payload(stage.client.written)
    await stage.end()
    return result


@settings(max_examples=150)
@given(
    chosen=st.lists(st.integers(0, len(EXCHANGES) - 1), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 400), max_size=30),
)
def test_a_conversation_means_the_same_however_it_is_cut(run: Run, chosen: list[int], cuts: list[int]) -> None:
    whole = run(converse(chosen, []))
    assert whole[1].count(b"HTTP/1.1 ") >= len(chosen), "the conversation itself is sound"
    assert run(converse(chosen, cuts)) == whole


@pytest.mark.parametrize("i", range(len(EXCHANGES)))
def test_it_may_come_byte_by_byte(run: Run, i: int) -> None:
    assert run(converse([i, i], list(range(400)))) == run(converse([i, i], []))


async def together(chosen: list[int], cuts: list[int]) -> bytes:
    """All requests at once, each answered in its turn."""
    stage = Stage()
    for piece in pieces(b"".join(EXCHANGES[i][0] for i in chosen), cuts):
        stage.send(piece)
    await stage.settle()
    for i in chosen:
        stage.answer(EXCHANGES[i][1])
        await stage.settle()
    written = stage.client.written
    await stage.end()
    return written


@settings(max_examples=50)
@given(
    chosen=st.lists(st.integers(0, len(EXCHANGES) - 1), min_size=2, max_size=5),
    cuts=st.lists(st.integers(0, 900), max_size=30),
)
def test_a_pipeline_is_answered_like_one_after_the_other(run: Run, chosen: list[int], cuts: list[int]) -> None:
    assert payload(run(together(chosen, cuts))) == run(converse(chosen, []))[1]


# What is sent that nobody would send: turns of a request and an answer, most of them sound by themselves but seldom
# meant for each other, cut anywhere, with noise in them and everything that can happen between two bytes.
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
REQUESTS = (
    *(request for request, _ in EXCHANGES),
    UPGRADE,
    EXPECT,
    EXPECT + b"abc",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 30000,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n" * 40,
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3,
)
ANSWERS = (
    *(answer for _, answer in EXCHANGES),
    b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil close",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 30000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"",
)
NOISE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        (b"\r\n", b"\n", b"\r", b"\0", b"0\r\n\r\n", b"5\r\n", b"x" * 40000, b"f" * 16 + b"\r\n", b" a: b\r\n")
    ),
)
EVENTS = ("client eof", "origin eof", "origin lost", "pause", "resume", "choke", "unchoke", "drain", "soon", "late")


@st.composite
def bytes_of(draw: Any, sound: tuple[bytes, ...]) -> list[bytes]:
    """One of the sound ones, or not quite, in pieces."""
    data = draw(st.sampled_from(sound))
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(NOISE) + data[at + draw(st.integers(0, 3)) :]
    return pieces(data, draw(st.lists(st.integers(0, 200), max_size=3)))


TURN = st.tuples(
    bytes_of(REQUESTS),
    st.lists(st.sampled_from(EVENTS), max_size=2),
    bytes_of(ANSWERS),
    st.lists(st.sampled_from(EVENTS), max_size=2),
)


class Play:
    """A stage on which everything happens that can, and what must hold whatever does."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.paused = False
        self.choked: Any = None

    def happen(self, event: str) -> None:
        stage, down = self.stage, self.stage.down
        up = stage.ups[-1] if stage.ups and not stage.ups[-1].transport.is_closing() else None
        alive = not stage.client.closing
        if event == "client eof" and alive and not stage.fin:
            stage.fin = True
            if not down.eof_received():
                stage.client.abort()
        elif event == "origin eof" and up is not None and not up._ended:
            if not up.eof_received():
                up.transport.abort()
        elif event == "origin lost" and up is not None:
            up.transport.abort()
        elif event in ("pause", "resume") and alive and self.paused is (event == "resume"):
            self.paused = not self.paused
            (down.pause_writing if self.paused else down.resume_writing)()
        elif event == "choke" and up is not None and self.choked is None:
            self.choked = up
            up.pause_writing()
        elif event == "unchoke" and self.choked is not None:
            if not self.choked.transport.is_closing():
                self.choked.resume_writing()
            self.choked = None
        elif event == "drain":
            stage.gateway.drain()
        elif event in ("soon", "late"):
            stage.gateway.now += 5 if event == "soon" else 100
            stage.gateway.sweep()

    async def turn(self, request: list[bytes], before: list[str], answer: list[bytes], after: list[str]) -> None:
        stage = self.stage
        for piece in request:
            stage.send(piece)
        await stage.settle()
        for event in before:
            self.happen(event)
            await stage.settle()
        for piece in answer:
            stage.answer(piece)
        await stage.settle()
        for event in after:
            self.happen(event)
            await stage.settle()
        assert len(stage.down._held) < 400_000
        assert stage.gateway.app.opened == sum(not up.closed for up in stage.ups)


async def play(turns: list[Any]) -> None:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    scene = Play()
    for turn in turns:
        await scene.turn(*turn)
    written = scene.stage.client.written
    assert not written or written.startswith(b"HTTP/1.1 ")
    await scene.stage.end()
    assert not failures, failures


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(turns=st.lists(TURN, max_size=6))
def test_whatever_happens_nothing_breaks_or_stays(run: Run, turns: list[Any]) -> None:
    run(play(turns))


def test_a_breach_of_the_rules_would_be_seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard above can fail: a connection that is counted and never given back is one too many."""
    dial = Stage.dial

    async def forget(stage: Stage, up: Upstream) -> None:
        stage.gateway.app.opened += 1
        await dial(stage, up)

    monkeypatch.setattr(Stage, "dial", forget)
    turn = ([UPGRADE], ["late"], [], [])
    with pytest.raises(AssertionError):
        run(play([turn]))
