"""Bodies of requests: by length and in chunks, whole and broken, and what the client is told before they end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
TE = ("transfer-encoding: chunked",)

# Chunked bodies that go on: (as sent, payload, trailers that go on).
ACCEPTED: dict[str, tuple[bytes, bytes, bytes]] = {
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc", b""),
    "no chunk": (b"0\r\n\r\n", b"", b""),
    "several chunks become one": (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", b""),
    "hexadecimal of both cases": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, b""),
    "leading zeros": (b"0003\r\nabc\r\n00000\r\n\r\n", b"abc", b""),
    "an extension is dropped": (b"3;a=b\r\nabc\r\n0;last\r\n\r\n", b"abc", b""),
    "an extension in quotes": (b'3 ; a="x;\ty"\r\nabc\r\n0\r\n\r\n', b"abc", b""),
    "payload that looks like framing": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n", b""),
    "payload of every byte": (b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n", bytes(range(256)), b""),
    "trailers": (b"1\r\na\r\n0\r\nX-Sum: 1\r\nx-b:2\r\n\r\n", b"a", b"X-Sum: 1\r\nx-b:2\r\n"),
    "trailers that would mean something in a head are dropped": (
        b"1\r\na\r\n0\r\nContent-Length: 9\r\nX-Ok: 1\r\nHost: evil\r\nAuthorization: x\r\nTransfer-Encoding: y\r\n"
        b"X-Forwarded-For: 1.2.3.4\r\nCookie: c\r\nConnection: z\r\n\r\n",
        b"a",
        b"X-Ok: 1\r\n",
    ),
}

# Chunked bodies that are refused: (as sent, code).
REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no size": (b"\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size that is no number": (b"x\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size with 0x": (b"0x3\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size with a sign": (b"+3\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "negative size": (b"-1\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size with an underscore": (b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400, "bad_chunk"),
    "space before the size": (b" 3\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "space behind the size": (b"3 \r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size that overflows 64 bits": (b"10000000000000003\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size that overflows by its zeros": (b"0000000000000003\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size line that ends in LF": (b"3\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size line that ends in CR": (b"3\rabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "size line that ends in CR CR LF": (b"3\r\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "LF in an extension": (b"3;a\nb\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "CR in an extension": (b"3;a\rb\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "NUL in an extension": (b"3;a\0b\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "an extension without a semicolon": (b"3 a=b\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "chunk longer than its size": (b"2\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "chunk shorter than its size": (b"4\r\nabc\r\n0\r\n\r\n", 400, "bad_chunk"),
    "chunk that ends in LF": (b"3\r\nabc\n0\r\n\r\n", 400, "bad_chunk"),
    "chunk that ends in CR": (b"3\r\nabc\r0\r\n\r\n", 400, "bad_chunk"),
    "chunk without an end": (b"3\r\nabc0\r\n\r\n", 400, "bad_chunk"),
    "size line without an end": (b"3;" + b"a" * 9000, 400, "bad_chunk"),
    "extensions without an end": ((b"1;" + b"x" * 4000 + b"\r\na\r\n") * 9, 400, "bad_chunk"),
    "trailer that is none": (b"0\r\nx\r\n\r\n", 400, "bad_trailer"),
    "trailer with a space before the colon": (b"0\r\nX : 1\r\n\r\n", 400, "bad_trailer"),
    "folded trailer": (b"0\r\nX: 1\r\n 2\r\n\r\n", 400, "bad_trailer"),
    "bare LF in a trailer": (b"0\r\nX: 1\nY: 2\r\n\r\n", 400, "bad_trailer"),
    "NUL in a trailer": (b"0\r\nX: \0\r\n\r\n", 400, "bad_trailer"),
    "trailers without an end": (b"0\r\n" + b"X: " + b"a" * 20000, 431, "trailers_too_large"),
    "trailers that are too large": (b"0\r\n" + b"X: " + b"a" * 20000 + b"\r\n\r\n", 431, "trailers_too_large"),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_a_chunked_body_goes_on_in_canonical_framing(rig: Any, onward: Any, name: str) -> None:
    sent, payload, trailers = ACCEPTED[name]
    here = await rig()
    here.origin.script = [OK, OK]
    # A second request behind it shows that the end was found where it is.
    answers = await here.talk(CHUNKED + sent + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", "POST", "GET")
    assert [answer.status for answer in answers] == [200, 200]
    body = (b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b"") + b"0\r\n" + trailers + b"\r\n"
    assert here.origin.requests == [onward("POST /", more=TE, body=body), onward("GET /next")]


@pytest.mark.parametrize("together", [True, False], ids=["with its head", "behind its head"])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_broken_chunked_body_is_refused_and_never_looks_whole(rig: Any, name: str, together: bool) -> None:
    sent, status, code = REFUSED[name]
    here = await rig()
    behind = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    if together:
        answer = await here.refusal(CHUNKED + sent + behind)
    else:
        client = await here.connect()
        client.send(CHUNKED)
        await here.until(lambda: any(here.origin.received))
        client.send(sent + behind)
        await client.closed()
        answer = (await client.answers("POST"))[0]
        await here.origin.lines[0].gone()  # the origin sees its connection end, not a request
    assert answer.status == status
    assert f'"code":"{code}"'.encode() in answer.body
    assert here.origin.requests == []
    assert not any(b"smuggled" in received for received in here.origin.received)


def deaf(line: Any) -> None:
    """An origin that reads nothing until it is told to."""
    asyncio.get_running_loop().call_soon(line.transport.pause_reading)


def choked(here: Any) -> bool:
    """The gateway has stopped reading its client, since the origin takes no more."""
    return any(
        down.paused and down._forwarder._up is not None and down._forwarder._up.choked
        for down in here.gateway.clients
    )


BY_LENGTH: dict[str, tuple[bytes, bytes]] = {
    "post": (b"POST", b"hello"),
    "a get may have a body": (b"GET", b"x"),
    "framing bytes in it": (b"PUT", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
    "every byte": (b"PATCH", bytes(range(256))),
    "delete": (b"DELETE", b"{}"),
}


@pytest.mark.parametrize("name", BY_LENGTH)
async def test_a_body_by_length_goes_on_byte_by_byte(rig: Any, onward: Any, name: str) -> None:
    method, body = BY_LENGTH[name]
    here = await rig()
    here.origin.script = [OK, OK]
    sent = b"%b / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (method, len(body), body)
    await here.talk(sent + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", method.decode(), "GET")
    length = f"content-length: {len(body)}"
    assert here.origin.requests == [onward(f"{method.decode()} /", length, body=body), onward("GET /next")]


async def test_a_body_that_is_cut_short_never_reaches_the_origin_whole(rig: Any) -> None:
    here = await rig()
    client = await here.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
    await here.until(lambda: here.origin.received and here.origin.received[0].endswith(b"half"))
    client.transport.write_eof()
    await here.origin.lines[0].gone()
    assert here.origin.requests == []
    await client.closed()


class TestContinue:
    EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    async def test_the_origin_invites_the_body(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.early = True
        here.origin.script = [b"HTTP/1.1 100 Continue\r\n\r\n", OK]
        client = await here.connect()
        client.send(self.EXPECT)
        await client.until(lambda: client.received == b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"abc")
        interim, answer = await client.answers("POST")
        assert (interim.status, answer.status) == (100, 200)
        assert here.origin.requests == [onward("POST /", "content-length: 3", "expect: 100-continue", body=b"abc")]

    async def test_the_origin_declines_it(self, rig: Any) -> None:
        here = await rig()
        here.origin.early = True
        here.origin.script = [b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"]
        client = await here.connect()
        client.send(self.EXPECT)
        (answer,) = await client.answers("POST")
        assert (answer.status, answer["connection"]) == (403, "close")
        await here.origin.lines[0].gone()  # the body will never come, so no other request can be sent on it

    async def test_an_origin_that_invites_nobody_is_too_slow(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(self.EXPECT)
        await here.until(lambda: any(here.origin.received))
        here.later(61)
        (answer,) = await client.answers("POST")
        assert answer.status == 504

    async def test_a_client_that_was_invited_and_sends_nothing_is_too_slow(self, rig: Any) -> None:
        here = await rig()
        here.origin.early = True
        here.origin.script = [b"HTTP/1.1 100 Continue\r\n\r\n"]
        client = await here.connect()
        client.send(self.EXPECT)
        await client.until(lambda: client.received)
        here.later(31)
        assert (await client.answers("POST"))[-1].status == 408

    async def test_a_client_that_does_not_wait_is_as_good(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        (answer,) = await here.talk(self.EXPECT + b"abc", "POST")
        assert answer.status == 200


class TestEarlyAnswers:
    HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegun"

    @pytest.mark.parametrize(
        "reply",
        [
            b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno",
            b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\nno",
            b"HTTP/1.1 413 Content Too Large\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        ],
        ids=["by length", "until close", "chunked"],
    )
    async def test_an_answer_before_the_body_is_read_ends_the_connection(self, rig: Any, reply: bytes) -> None:
        here = await rig()
        here.origin.early = True

        def answer(line: Any) -> None:
            line.transport.write(reply)
            if b"connection: close" in reply:
                line.transport.write_eof()

        here.origin.script = [answer]
        client = await here.connect()
        client.send(self.HEAD)
        (got,) = await client.answers("POST")
        assert (got.status, got.body, got["connection"]) == (413, b"no", "close")
        client.send(b"x" * 995 + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.closed()
        await here.origin.lines[0].gone()
        assert len(here.origin.lines) == 1

    @pytest.mark.parametrize("length", [9_000_000, 2005], ids=["within the body", "at its end"])
    @pytest.mark.parametrize("size", [2, 10_000, 200_000])
    @pytest.mark.parametrize("path", ["", "app.sock"], ids=["tcp", "unix"])
    async def test_an_answer_is_read_though_the_body_could_not_be_sent(
        self, rig: Any, tmp_path: Path, path: str, size: int, length: int
    ) -> None:
        """The origin answers and closes, and the next write fails before the answer was read."""
        here = await rig(unix=f"{tmp_path}/{path}" if path else "")
        here.origin.raw = True
        client = await here.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nbegun" % length)
        await here.until(lambda: here.origin.received and here.origin.received[0].endswith(b"begun"))
        (down,) = here.gateway.clients
        down._forwarder._up.transport.pause_reading()  # as a busy loop would: it writes before it reads
        origin = here.origin.lines[0].transport
        origin.write(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
        await here.until(lambda: not origin.get_write_buffer_size())
        origin.abort()
        await here.origin.lines[0].gone()
        for _ in range(0, length - 5, 1000):
            client.send(b"x" * 1000)
            await asyncio.sleep(0.001)
            if client.ended:
                break
        (answer,) = await client.answers("POST")
        assert answer.status == 413
        assert answer.complete == (size < 64 * 1024), "what was not read whole does not look whole"
        assert (client.error is None) == answer.complete

    async def test_an_answer_that_goes_on_while_the_body_does(self, rig: Any) -> None:
        """A server that echoes as it reads: both directions flow at once."""
        here = await rig()
        here.origin.early = True
        here.origin.script = [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
            b"1\r\nb\r\n0\r\n\r\n",
        ]
        client = await here.connect()
        client.send(CHUNKED + b"1\r\na\r\n")
        await client.until(lambda: client.received.endswith(b"1\r\na\r\n"))
        client.send(b"1\r\nb\r\n0\r\n\r\n")
        (answer,) = await client.answers("POST")
        assert (answer.body, answer.complete) == (b"ab", True)
        assert here.origin.requests[0].endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


class TestLimits:
    async def test_a_length_above_the_limit_is_refused_at_once(self, rig: Any) -> None:
        here = await rig(app={"max_body": 10})
        answer = await here.refusal(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n")
        assert answer.status == 413
        assert not here.origin.lines

    async def test_a_chunked_body_is_refused_when_it_grows_above_the_limit(self, rig: Any) -> None:
        here = await rig(app={"max_body": 10})
        client = await here.connect()
        client.send(CHUNKED + b"8\r\n12345678\r\n")
        await here.until(lambda: here.origin.received and here.origin.received[0].endswith(b"12345678\r\n"))
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        (answer,) = await client.answers("POST")
        assert answer.status == 413
        await here.origin.lines[0].gone()
        assert here.origin.requests == []

    async def test_a_body_of_just_the_limit_goes_on(self, rig: Any) -> None:
        here = await rig(app={"max_body": 10})
        here.origin.script = [OK]
        (answer,) = await here.talk(CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n", "POST")
        assert answer.status == 200

    async def test_a_trickle_runs_out_of_time(self, rig: Any) -> None:
        here = await rig(proxy={"min_rate": 100})
        client = await here.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        await here.until(lambda: any(here.origin.received))
        for i in range(100):  # a byte a second: 31 s and not 100
            client.send(b"x")
            await here.until(lambda n=i + 1: here.origin.received[0].endswith(b"x" * n) or client.ended)
            here.later(1)
            if client.ended:
                break
        (answer,) = await client.answers("POST")
        assert answer.status == 408
        assert 30 <= i <= 33
        await here.origin.lines[0].gone()

    async def test_a_slow_line_that_keeps_the_least_rate_goes_on(self, rig: Any) -> None:
        here = await rig(proxy={"min_rate": 100})
        here.origin.script = [OK]
        client = await here.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
        for i in range(100):
            client.send(b"x" * 200)
            await here.until(
                lambda n=200 * (i + 1): any(here.origin.received[0:1]) and here.origin.received[0].endswith(b"x" * n)
            )
            here.later(1.5)
        (answer,) = await client.answers("POST")
        assert answer.status == 200

    async def test_time_in_which_the_origin_takes_nothing_is_not_the_clients(self, rig: Any) -> None:
        here = await rig()
        here.origin.raw = True
        here.origin.on_connect = deaf
        client = await here.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        piece = b"x" * 1000000
        sent = 0
        while sent < 60 and not choked(here):
            client.send(piece)
            sent += 1
            await asyncio.sleep(0.002)
        assert choked(here), "the client is read however little the origin takes"
        here.later(31)
        assert not client.ended
        here.later(61)
        (answer,) = await client.answers("POST")
        assert answer.status == 504


async def test_a_large_upload_holds_a_few_buffers_at_most(rig: Any) -> None:
    """The origin reads late: what waits in between is bounded, and everything arrives."""
    here = await rig()
    here.origin.on_connect = deaf
    here.origin.raw = True
    size = 12_000_000
    client = await here.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    client.send(bytes(size))
    await here.until(lambda: choked(here), "back-pressure")
    (down,) = here.gateway.clients
    assert down._forwarder._up.transport.get_write_buffer_size() < 1_000_000
    here.origin.lines[0].transport.resume_reading()
    (line,) = here.origin.lines
    await here.until(lambda: len(line.received) > size, "all of it")
    line.transport.write(OK)
    (answer,) = await client.answers("PUT")
    assert answer.status == 200
    assert line.received.endswith(b"\r\n\r\n" + bytes(size))
