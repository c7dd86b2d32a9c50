"""A raw client and a recording raw origin around one gateway, in one event loop; nothing between them parses for us.

``rig`` makes a ``Rig``; each ends with a look at what must not be left: clients, connections, tasks, errors in
callbacks. ``rig.talk`` is one conversation; its outcome is what reached the origin and what came back, as bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest
import uvloop

from backends.backend import Backend
from backends.kinds.firestore.settings import Firestore
from backends.kinds.mock.settings import Mock
from proxy.http1.head import HEAD_END
from proxy.migration.routes import layout
from proxy.process.gateway import Gateway
from proxy.process.listening import bind
from proxy.settings import App, Plan, Proxy, Route
from tests.support.patience import WITHIN_S


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """These tests run on the loop that workers run on."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Answer:
    """A response as the client saw it. ``complete``: it ended as its framing said."""

    status: int
    head: bytes
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: bytes = b""
    complete: bool = True

    def __getitem__(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key.lower() == name]
        assert len(values) < 2, f"{name} comes {len(values)} times"
        return values[0] if values else None


def _fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def parse_answers(raw: bytes, methods: list[str], closed: bool) -> tuple[list[Answer], bytes]:
    """Take apart what a client received, strictly, one a request beside interim ones; and what is left."""
    answers: list[Answer] = []
    methods = list(methods)
    while raw and methods:
        end = raw.find(HEAD_END)
        if end < 0:
            break
        head, rest = raw[:end], raw[end + 4 :]
        assert re.fullmatch(rb"[^\r\n]*(\r\n[!#-'*+.^-`|~\w-]+:[^\r\n]*)*", head), head
        version, status, _ = (head.split(b"\r\n")[0] + b" ").split(b" ", 2)
        assert version == b"HTTP/1.1", head
        answer = Answer(int(status), head, _fields(head))
        answers.append(answer)
        if 100 <= answer.status < 200:
            raw = rest
            if answer.status == 101:
                answer.body = rest
                return answers, b""
            continue
        method = methods.pop(0)
        length, coding = answer["content-length"], answer["transfer-encoding"]
        assert length is None or coding is None, head
        if method == "HEAD" or answer.status in (204, 304):
            raw = rest
        elif coding is not None:
            assert coding == "chunked", head
            raw = _chunked(answer, rest)
        elif length is not None:
            answer.body, raw = rest[: int(length)], rest[int(length) :]
            answer.complete = len(answer.body) == int(length)
        else:
            answer.body, answer.complete, raw = rest, closed, b""
        if not answer.complete:
            break
    return answers, raw


def _chunked(answer: Answer, raw: bytes) -> bytes:
    answer.complete = False
    while True:
        match = re.match(rb"([0-9a-f]+)\r\n", raw)
        if match is None:
            return raw
        size, at = int(match[1], 16), match.end()
        if size == 0:
            end = raw.find(HEAD_END, at - 2)
            if end < 0:
                return raw
            answer.trailers = raw[at : end + 2]
            answer.complete = True
            return raw[end + 4 :]
        if raw[at + size : at + size + 2] != b"\r\n":
            return raw
        answer.body += raw[at : at + size]
        raw = raw[at + size + 2 :]


def request_end(data: bytes) -> int:
    """Where the first request in ``data`` ends, as a server without a doubt reads it; 0: not yet."""
    end = data.find(HEAD_END)
    if end < 0:
        return 0
    head = data[:end].lower()
    length = re.search(rb"\r\ncontent-length: *(\d+)", head)
    if b"\r\ntransfer-encoding:" in head:
        scratch = Answer(0, b"", [])
        rest = _chunked(scratch, data[end + 4 :])
        return len(data) - len(rest) if scratch.complete else 0
    whole = end + 4 + (int(length[1]) if length else 0)
    return whole if len(data) >= whole else 0


Step = bytes | Callable[["Line"], Awaitable[None] | None]


class Line(asyncio.Protocol):
    """One connection that reached the origin."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.received = b""
        self.pending = b""
        self.requests: list[bytes] = []
        self.eof = False
        self.lost = asyncio.Event()
        self.paused = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.origin.lines.append(self)
        if self.origin.on_connect is not None:
            self.origin.on_connect(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.origin.raw:
            return
        self.pending += data
        if self.origin.early and HEAD_END in self.pending:
            self.origin.early = False
            self.answer()
        while end := request_end(self.pending):
            self.requests.append(self.pending[:end])
            self.pending = self.pending[end:]
            self.answer()

    def answer(self) -> None:
        if not self.origin.script:
            return
        step = self.origin.script.pop(0)
        if isinstance(step, bytes):
            self.transport.write(step)
            return
        result = step(self)
        if result is not None:
            task = asyncio.ensure_future(result)
            self.origin.tasks.add(task)
            task.add_done_callback(self.origin.tasks.discard)

    def eof_received(self) -> bool:
        self.eof = True
        return self.origin.half_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def gone(self) -> None:
        """Wait for the gateway to end this connection."""
        try:
            async with asyncio.timeout(WITHIN_S):
                await self.lost.wait()
        except TimeoutError:
            pytest.fail(f"the connection to the origin stayed, on which came {self.received!r}")


@dataclass
class Origin:
    """The app, as a recording: it answers the nth request of all with the nth step of its script."""

    script: list[Step] = field(default_factory=list)
    early: bool = False  # the first answer comes as soon as a head has
    raw: bool = False  # no answer by itself
    half_open: bool = False
    on_connect: Callable[[Line], None] | None = None
    lines: list[Line] = field(default_factory=list)
    tasks: set[asyncio.Future[None]] = field(default_factory=set)

    @property
    def received(self) -> list[bytes]:
        """What came on each connection."""
        return [line.received for line in self.lines]

    @property
    def requests(self) -> list[bytes]:
        """Each whole request."""
        return [request for line in self.lines for request in line.requests]


class Client(asyncio.Protocol):
    """A raw connection to the gateway."""

    def __init__(self) -> None:
        self.received = b""
        self.eof = False
        self.gone = False
        self.error: Exception | None = None
        self.news = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.news.set()

    def eof_received(self) -> bool:
        self.eof = True
        self.news.set()
        return True  # whether this end goes on sending is the test's to say

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self.error = exc
        self.news.set()

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    @property
    def ended(self) -> bool:
        return self.eof or self.gone

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait for a condition on what came; fails with what came instead."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not ready():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            pytest.fail(f"the client waited for more than {self.received!r} (ended: {self.ended})")

    async def answers(self, *methods: str) -> list[Answer]:
        """The answers to so many requests, and that nothing else came."""

        def all_here() -> bool:
            answers, _ = parse_answers(self.received, list(methods), self.ended)
            final = [a for a in answers if a.status >= 200 or a.status == 101]
            if self.ended or len(final) < len(methods):
                return self.ended
            return final[-1].complete and (methods[-1] == "HEAD" or not self._until_close(final[-1]))

        await self.until(all_here)
        answers, left = parse_answers(self.received, list(methods), self.ended)
        assert not left or not answers[-1].complete, f"bytes beyond the answers: {left!r}"
        return answers

    @staticmethod
    def _until_close(answer: Answer) -> bool:
        framed = answer["content-length"] is not None or answer["transfer-encoding"] is not None
        return not framed and answer.status not in (101, 204, 304)

    async def closed(self) -> None:
        """Wait for the gateway to end the connection."""
        await self.until(lambda: self.ended)


class Rig:
    """A gateway with its listener, an origin, and clients."""

    def __init__(self) -> None:
        self.origin = Origin()
        self.errors: list[dict[str, Any]] = []
        self.clients: list[Client] = []
        self._servers: list[Any] = []

    async def start(
        self,
        proxy: dict[str, Any] | None = None,
        app: dict[str, Any] | None = None,
        migrations: tuple[Route, ...] = (),
        backends: dict[str, Backend] | None = None,
        origin: str | None = None,
        unix: str = "",
        listen: str = "127.0.0.1:0",
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.origin_port = 0
        self.origin_path = unix
        await self.start_origin()
        origin = origin or (f"unix:{unix}" if unix else f"http://127.0.0.1:{self.origin_port}")
        backends = backends or {"mock": Mock(), "firestore": Firestore("demo")}
        patient = {"connect_timeout_s": WITHIN_S}  # a busy machine may take seconds over a connection
        self.plan = Plan(App(origin, **(patient | (app or {}))), Proxy(**(proxy or {})), backends, migrations)
        self.layout = layout(self.plan, 1)
        self.cells = memoryview(bytearray(8 * self.layout.cells())).cast("Q")
        self.gateway = Gateway(self.plan, self.cells, self.layout.worker(0))
        listener = await loop.create_server(lambda: self.gateway.client(), sock=bind(listen, 1)[0])
        self._servers.append(listener)
        self.port = listener.sockets[0].getsockname()[1]

    async def start_origin(self) -> None:
        """Listen, on the same port if it has stopped before."""
        loop = asyncio.get_running_loop()
        if self.origin_path:
            self._origin = await loop.create_unix_server(lambda: Line(self.origin), self.origin_path)
            return
        self._origin = await loop.create_server(lambda: Line(self.origin), "127.0.0.1", self.origin_port)
        self.origin_port = self._origin.sockets[0].getsockname()[1]

    async def stop_origin(self) -> None:
        self._origin.close()
        await self._origin.wait_closed()

    async def connect(self, source: str = "127.0.0.1") -> Client:
        """A connection to the gateway, from an address of loopback."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, "127.0.0.1", self.port, local_addr=(source, 0))
        self.clients.append(client)
        return client

    async def talk(self, sent: bytes | list[bytes], *methods: str) -> list[Answer]:
        """Send, and read the answers to requests of these methods."""
        client = await self.connect()
        for piece in [sent] if isinstance(sent, bytes) else sent:
            client.send(piece)
            if not isinstance(sent, bytes):
                await asyncio.sleep(0)
        return await client.answers(*methods)

    async def refusal(self, sent: bytes) -> Answer:
        """Send what is refused: the one answer before the connection is closed."""
        client = await self.connect()
        client.send(sent)
        await client.closed()
        (answer,) = parse_answers(client.received, ["GET"], True)[0]
        return answer

    async def until(self, ready: Callable[[], object], what: str = "the condition") -> None:
        """Let the loop run until something is so."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not ready():
                    await asyncio.sleep(0.001)
        except TimeoutError:
            pytest.fail(f"{what} did not come")

    def later(self, seconds: float) -> None:
        """Let time pass, for the gateway, and have it look."""
        self.gateway.shared.now += seconds
        self.gateway.sweep()

    async def finish(self) -> list[str]:
        """Leave; returns what stayed behind."""
        found: list[str] = []

        async def gone(ready: Callable[[], object], what: str) -> None:
            end = monotonic() + WITHIN_S
            while not ready():
                if monotonic() > end:
                    found.append(what)
                    return
                await asyncio.sleep(0.002)

        for client in self.clients:
            client.transport.abort()
        await gone(lambda: not self.gateway.clients, f"clients: {self.gateway.clients}")
        pools = self.gateway.pools
        idle = sum(len([up for up in pool._idle if not up.closed]) for pool in pools)
        opened = sum(pool.opened for pool in pools)
        if opened != idle:
            found.append(f"{opened} upstream connections are counted, {idle} are idle")
        self.gateway.close()
        if any(pool.opened for pool in pools):
            found.append("upstream connections, though the gateway is closed")
        for server in (*self._servers, self._origin):
            server.close()
        for line in self.origin.lines:
            line.transport.abort()
        for task in list(self.origin.tasks):
            task.cancel()
        await gone(lambda: asyncio.all_tasks() == {asyncio.current_task()}, f"tasks: {asyncio.all_tasks()}")
        return found + [f"an error in a callback: {context}" for context in self.errors]


@pytest.fixture
async def rig() -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    rigs: list[Rig] = []

    async def make(**options: Any) -> Rig:
        rig = Rig()
        await rig.start(**options)
        rigs.append(rig)
        return rig

    yield make
    found = [await rig.finish() for rig in rigs]
    assert not any(found), found


@pytest.fixture
def onward() -> Callable[..., bytes]:
    """The bytes that reach the origin: of a client on loopback that is not trusted."""

    def build(
        line: str, *fields: str, host: str = "a", body: bytes = b"", more: tuple[str, ...] = (), http10: bool = False
    ) -> bytes:
        told = [f"host: {host}", *fields, "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"]
        told += [f'forwarded: for=127.0.0.1;proto=http;host="{host}"', f"x-forwarded-host: {host}"]
        told += [f"via: 1.{0 if http10 else 1} phasegate", *more]
        return "\r\n".join([f"{line} HTTP/1.1", *told, "", ""]).encode("latin-1") + body

    return build
