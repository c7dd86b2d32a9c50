"""Answers of the origin: each case says what it sent and what of it the client saw, or that it saw 502 instead."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DATE = "date: Sun, 22 Nov 2026 14:00:00 GMT"

# What goes on: (as the origin sends it, status line, fields beside Date, body); the origin's connection stays.
ACCEPTED: dict[str, tuple[bytes, bytes, tuple[str, ...], bytes]] = {
    "plain": (OK, b"HTTP/1.1 200 OK", ("content-length: 2",), b"ok"),
    "fields keep order, case and spaces": (
        b"HTTP/1.1 200 OK\r\nX-B:  1\r\nSet-Cookie: a=b\r\nset-cookie:c=d\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ("X-B:  1", "Set-Cookie: a=b", "set-cookie:c=d", "content-length: 0"),
        b"",
    ),
    "another reason": (
        b"HTTP/1.1 200 F\xe9in\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 F\xe9in",
        ("content-length: 0",),
        b"",
    ),
    "what to upgrade to": (
        b"HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 426 Upgrade Required",
        ("content-length: 0", "connection: upgrade", "upgrade: websocket"),
        b"",
    ),
    "no reason": (
        b"HTTP/1.1 404 \r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found",
        ("content-length: 0",),
        b"",
    ),
    "no reason and no space": (
        b"HTTP/1.1 404\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found",
        ("content-length: 0",),
        b"",
    ),
    "a status nobody knows": (
        b"HTTP/1.1 299 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 299 Odd",
        ("content-length: 0",),
        b"",
    ),
    "a status nobody knows, without a reason": (
        b"HTTP/1.1 799\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 799 ",
        ("content-length: 0",),
        b"",
    ),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0002\r\nbc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ("transfer-encoding: chunked",),
        b"abc",
    ),
    "chunked and empty": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ("transfer-encoding: chunked",),
        b"",
    ),
    "hop-by-hop fields end here": (
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Secret\r\nKeep-Alive: timeout=5\r\nX-Secret: 1\r\n"
        b"Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTE: x\r\nContent-Length: 0\r\nX-Open: 2\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ("X-Open: 2", "content-length: 0"),
        b"",
    ),
    "no content": (b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", b"HTTP/1.1 204 No Content", ("x-a: 1",), b""),
    "no content of no length": (
        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content",
        (),
        b"",
    ),
    "not modified": (
        b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 500\r\n\r\n",
        b"HTTP/1.1 304 Not Modified",
        ("etag: x", "content-length: 500"),
        b"",
    ),
    "unauthorized": (
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized",
        ("WWW-Authenticate: Basic", "content-length: 0"),
        b"",
    ),
    "its own Server and Via": (
        b"HTTP/1.1 200 OK\r\nServer: x\r\nVia: 1.1 y\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK",
        ("Server: x", "Via: 1.1 y", "content-length: 0"),
        b"",
    ),
}

# Answers that end with the origin's connection: (as sent, body).
UNTIL_CLOSE: dict[str, tuple[bytes, bytes]] = {
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc"),
    "until close and empty": (b"HTTP/1.1 200 OK\r\n\r\n", b""),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-type: x\r\n\r\nabc", b"abc"),
    "HTTP/1.0 by length": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "connection: close by length": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
    "connection: close in chunks": (
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"abc",
    ),
}

HEAD = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n"

# Answers that are none: the client sees 502 and its connection goes on.
REFUSED: dict[str, bytes] = {
    "no status line": b"hello\r\n\r\n",
    "bytes without an end": b"x" * 70000,
    "a head that is too large": HEAD % (b"x: " + b"a" * 70000),
    "lower-case protocol": b"http/1.1 200 OK\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "control byte in the reason": b"HTTP/1.1 200 O\x01K\r\ncontent-length: 0\r\n\r\n",
    "space before the status line": b" HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "empty line before the status line": b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "bare LF in the head": b"HTTP/1.1 200 OK\nx: 1\r\ncontent-length: 0\r\n\r\n",
    "bare LF ends the head": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n" + b"x" * 70000,
    "bare CR in a value: response splitting": HEAD % b"x: a\rset-cookie: evil=1\r\ncontent-length: 0",
    "LF in a value: response splitting": HEAD % b"x: a\nset-cookie: evil=1\r\ncontent-length: 0",
    "NUL in a value": HEAD % b"x: a\0b\r\ncontent-length: 0",
    "control byte in a value": HEAD % b"x: a\x08b\r\ncontent-length: 0",
    "line folding": HEAD % b"x: a\r\n b\r\ncontent-length: 0",
    "space before the colon": HEAD % b"content-length : 0",
    "name that is no token": HEAD % b"x y: 1\r\ncontent-length: 0",
    "line without a colon": HEAD % b"hello\r\ncontent-length: 0",
    "too many fields": HEAD % ((b"x: 1\r\n" * 300) + b"content-length: 0"),
    "length and coding": HEAD % b"content-length: 3\r\ntransfer-encoding: chunked",
    "two lengths": HEAD % b"content-length: 3\r\ncontent-length: 4",
    "the same length twice": HEAD % b"content-length: 0\r\nContent-Length: 0",
    "a list of lengths": HEAD % b"content-length: 0, 0",
    "negative length": HEAD % b"content-length: -1",
    "length with a sign": HEAD % b"content-length: +0",
    "length that is no number": HEAD % b"content-length: x",
    "length beyond any size": HEAD % b"content-length: 99999999999999999999",
    "two codings": HEAD % b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "another coding": HEAD % b"transfer-encoding: gzip",
    "gzip, then chunked": HEAD % b"transfer-encoding: gzip, chunked",
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "more than its length": OK + b"x",
    "a second answer nobody asked for": OK + OK,
    "a body with no content": b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc",
    "a coding with no content": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bytes behind no content": b"HTTP/1.1 204 No Content\r\n\r\nabc",
    "a body of not modified": b"HTTP/1.1 304 Not Modified\r\n\r\nabc",
    "a length on an interim answer": b"HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\nabcde" + OK,
    "interim answers without an end": b"HTTP/1.1 102 Processing\r\n\r\n" * 40,
    "a protocol that nobody asked for": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
}

# Answers that go wrong when they have begun: the client must see that they are not whole.
BROKEN: dict[str, tuple[bytes, bool]] = {
    "shorter than its length": (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", True),
    "chunked without an end": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", True),
    "ends within a chunk": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nabc", True),
    "ends within the trailers": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: 1\r\n",
        True,
    ),
    "bad chunk size": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n", False),
    "chunk longer than its size": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        False,
    ),
    "chunk size that overflows": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\na",
        False,
    ),
    "bare LF in chunking": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\n0\n\n", False),
    "bad trailer": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx y\r\n\r\n", False),
}


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", ACCEPTED)
async def test_an_answer_reaches_the_client_as_it_was_meant(rig: Any, name: str, pieces: bool) -> None:
    sent, line, fields, body = ACCEPTED[name]
    here = await rig()
    if pieces:

        async def drip(to: Any) -> None:
            for i in range(len(sent)):
                to.transport.write(sent[i : i + 1])
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        here.origin.script = [drip, OK]
    else:
        here.origin.script = [sent, OK]
    client = await here.connect()
    client.send(GET)
    (answer,) = await client.answers("GET")
    assert answer.complete
    assert answer.head.split(b"\r\n")[0] == line
    assert answer["date"]
    got = [f for f in answer.head.decode("latin-1").split("\r\n")[1:] if not f.startswith("date:")]
    assert sorted(got) == sorted(fields)
    assert answer.body == body
    client.send(GET)
    assert (await client.answers("GET", "GET"))[1].body == b"ok"
    assert len(here.origin.lines) == 1, "the origin's connection is used again"


async def test_the_origins_date_stays(rig: Any) -> None:
    here = await rig()
    here.origin.script = [f"HTTP/1.1 200 OK\r\n{DATE}\r\ncontent-length: 0\r\n\r\n".encode()]
    (answer,) = await here.talk(GET, "GET")
    assert f"date: {answer['date']}" == DATE


@pytest.mark.parametrize("name", UNTIL_CLOSE)
async def test_an_answer_may_end_with_its_connection_and_the_clients_goes_on(rig: Any, name: str) -> None:
    sent, body = UNTIL_CLOSE[name]
    here = await rig()

    def reply(line: Any) -> None:
        line.transport.write(sent)
        line.transport.write_eof()

    here.origin.script = [reply, OK]
    client = await here.connect()
    client.send(GET)
    (answer,) = await client.answers("GET")
    assert (answer.complete, answer.body) == (True, body)
    client.send(GET)
    assert (await client.answers("GET", "GET"))[1].body == b"ok"
    assert len(here.origin.lines) == 2


@pytest.mark.parametrize("name", REFUSED)
async def test_an_answer_that_is_none_becomes_502(rig: Any, name: str) -> None:
    here = await rig()
    here.origin.script = [REFUSED[name], OK]
    client = await here.connect()
    client.send(GET)
    await client.until(lambda: b'"bad_gateway"' in client.received)
    answers = await client.answers("GET")
    assert answers[-1].status == 502
    assert b"evil" not in client.received
    assert all(answer.status in (102, 103) for answer in answers[:-1])
    await here.origin.lines[0].gone()  # what it still says is believed by nobody
    client.send(GET)
    assert (await client.answers("GET", "GET"))[-1].body == b"ok"
    assert len(here.origin.lines) == 2


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
@pytest.mark.parametrize("name", BROKEN)
async def test_an_answer_cut_short_never_looks_whole(rig: Any, name: str, reset: bool) -> None:
    sent, closes = BROKEN[name]
    here = await rig()

    async def reply(line: Any) -> None:
        line.transport.write(sent)
        await asyncio.sleep(0.01)
        if closes and reset:
            line.transport.abort()
        elif closes:
            line.transport.write_eof()

    here.origin.script = [reply]
    client = await here.connect()
    client.send(GET)
    await client.until(lambda: client.gone)
    assert client.error is not None, "a reset, and no end that could be one"
    assert not client.received.endswith(b"0\r\n\r\n")


async def test_an_answer_until_close_that_ends_in_a_reset_is_not_whole(rig: Any) -> None:
    here = await rig()

    async def reply(line: Any) -> None:
        line.transport.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await asyncio.sleep(0.01)
        sock = line.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.transport.abort()

    here.origin.script = [reply]
    client = await here.connect()
    client.send(GET)
    await client.until(lambda: client.gone)
    assert client.error is not None
    assert not client.received.endswith(b"0\r\n\r\n")


class TestHead:
    @pytest.mark.parametrize(
        ("reply", "fields"),
        [
            (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", {"content-length": "500"}),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", {"content-length": None}),
            (b"HTTP/1.1 200 OK\r\n\r\n", {"content-length": None}),
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\n", {"content-length": "9"}),
        ],
    )
    async def test_an_answer_to_head_has_no_body(self, rig: Any, reply: bytes, fields: dict[str, str | None]) -> None:
        here = await rig()
        here.origin.script = [reply, OK]
        client = await here.connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        (answer,) = await client.answers("HEAD")
        assert {name: answer[name] for name in fields} == fields
        client.send(GET)
        assert (await client.answers("HEAD", "GET"))[1].body == b"ok"
        assert len(here.origin.lines) == 1

    async def test_an_error_of_ours_to_head_has_none_either(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [b"nonsense\r\n\r\n", OK]
        client = await here.connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        (answer,) = await client.answers("HEAD")
        assert answer.status == 502
        assert int(answer["content-length"] or 0) > 0
        client.send(GET)
        assert (await client.answers("HEAD", "GET"))[1].body == b"ok"

    @pytest.mark.parametrize(
        "bad", [b"GET / HTTP/1.1\nHost: a\n\n", b"\r\n\r\n\r\n", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"]
    )
    async def test_what_comes_behind_it_is_refused_with_a_body(self, rig: Any, bad: bytes) -> None:
        here = await rig()
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"]
        client = await here.connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answers("HEAD")
        client.send(bad)
        await client.closed()
        refused = (await client.answers("HEAD", "GET"))[1]
        assert (refused.status, refused.complete) == (400, True)
        assert b"bad_request_line" in refused.body or b"bad_line_end" in refused.body

    async def test_a_body_to_head_is_no_answer(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        (answer,) = await here.talk(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD")
        assert answer.status == 502


class TestInterim:
    async def test_early_hints_go_on_before_the_answer(self, rig: Any) -> None:
        here = await rig()
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"

        async def reply(line: Any) -> None:
            line.transport.write(hints)

        here.origin.script = [reply]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received == hints)
        here.origin.lines[0].transport.write(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)
        answers = await client.answers("GET")
        assert [answer.status for answer in answers] == [103, 102, 200]

    async def test_an_interim_answer_is_none_yet(self, rig: Any) -> None:
        """Its origin dies behind it: nothing is repeated, for it had begun to answer."""
        here = await rig()

        def reply(line: Any) -> None:
            line.transport.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            line.transport.write_eof()

        here.origin.script = [OK, reply]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        client.send(GET)
        answers = await client.answers("GET", "GET")
        assert [answer.status for answer in answers] == [200, 103, 502]
        assert len(here.origin.lines) == 1


class TestTrailers:
    async def test_trailers_reach_the_client(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nX-Sum: 1\r\nSet-Cookie: evil=1\r\nContent-Length: 3\r\n\r\n"
        ]
        (answer,) = await here.talk(GET, "GET")
        assert (answer.body, answer.trailers, answer["trailer"]) == (b"a", b"X-Sum: 1\r\n", "x-sum")


class TestStreams:
    async def test_events_reach_the_client_as_they_come(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        ]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received.endswith(b"\r\n\r\n"))
        for i in range(3):
            event = b"data: %d\n\n" % i
            here.origin.lines[0].transport.write(b"%x\r\n%b\r\n" % (len(event), event))
            await client.until(lambda seen=event: client.received.endswith(seen + b"\r\n"))
        here.later(500)  # silence is what event streams are made of
        assert not client.ended
        here.origin.lines[0].transport.write(b"0\r\n\r\n")
        (answer,) = await client.answers("GET")
        assert answer.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"

    async def test_a_stream_that_is_silent_for_too_long_is_broken_off(self, rig: Any) -> None:
        here = await rig(app={"quiet_timeout_s": 60})
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received.endswith(b"abc"))
        here.later(61)
        await client.until(lambda: client.gone)
        await here.origin.lines[0].gone()

    async def test_a_client_that_reads_late_holds_the_origin_back(self, rig: Any) -> None:
        here = await rig()
        size = 12_000_000
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)]
        client = await here.connect()
        client.transport.pause_reading()
        client.send(GET)
        await here.until(lambda: any(down.writing_paused for down in here.gateway.clients), "back-pressure")
        (down,) = here.gateway.clients
        assert down._forwarder._up._paused
        assert down.transport.get_write_buffer_size() < 1_000_000
        client.transport.resume_reading()
        (answer,) = await client.answers("GET")
        assert len(answer.body) == size

    async def test_a_client_that_reads_too_slowly_is_given_up(self, rig: Any) -> None:
        here = await rig()
        size = 12_000_000
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)]
        client = await here.connect()
        client.transport.pause_reading()
        client.send(GET)
        await here.until(lambda: any(down.writing_paused for down in here.gateway.clients), "back-pressure")
        here.later(31)
        await here.until(lambda: not here.gateway.clients, "the end")
        await here.origin.lines[0].gone()
