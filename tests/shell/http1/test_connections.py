"""Connections over more than one request: order, reuse, repetition, clients that vanish, time, limits."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: a", *fields, "", ""]).encode()


def reply(body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture
def full_queue() -> Iterator[int]:
    """The port of a listener whose queue is full: whoever connects waits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()


class TestPipelining:
    async def test_answers_come_in_the_order_of_the_requests(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [reply(str(i)) for i in range(20)]
        answers = await here.talk(b"".join(get(f"/{i}") for i in range(20)), *["GET"] * 20)
        assert [answer.body for answer in answers] == [str(i).encode() for i in range(20)]
        assert len(here.origin.lines) == 1
        assert [request.split()[1] for request in here.origin.requests] == [b"/%d" % i for i in range(20)]

    async def test_a_request_waits_until_the_one_before_is_answered(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = []
        client = await here.connect()
        client.send(get("/1") + get("/2"))
        await here.until(lambda: here.origin.requests)
        await asyncio.sleep(0.01)
        assert len(here.origin.requests) == 1
        here.origin.script = [reply("2")]
        here.origin.lines[0].transport.write(reply("1"))
        answers = await client.answers("GET", "GET")
        assert [answer.body for answer in answers] == [b"1", b"2"]

    async def test_nothing_is_taken_behind_a_close(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK, OK]
        client = await here.connect()
        client.send(get("/1", "Connection: close") + get("/2"))
        await client.closed()
        (answer,) = await client.answers("GET")
        assert answer["connection"] == "close"
        assert len(here.origin.requests) == 1

    async def test_a_bad_request_behind_good_ones_is_refused_in_its_turn(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [reply("1")]
        client = await here.connect()
        client.send(get("/1") + b"GET / HTTP/1.1\r\nBad : 1\r\n\r\n" + get("/3"))
        await client.closed()
        answers = await client.answers("GET", "GET")
        assert [answer.status for answer in answers] == [200, 400]
        assert len(here.origin.requests) == 1

    async def test_bodies_and_requests_alternate(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [reply("1"), reply("2"), reply("3")]
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
        chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        answers = await here.talk(post + chunked + GET, "POST", "POST", "GET")
        assert [answer.body for answer in answers] == [b"1", b"2", b"3"]

    async def test_a_client_that_sends_ahead_without_end_is_not_read(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(GET)
        await here.until(lambda: here.origin.requests)
        (down,) = here.gateway.clients
        for _ in range(100):
            client.send(GET * 1000)
        await here.until(lambda: down.paused, "the pause")
        assert len(down._held) < 1_000_000
        sock = client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.transport.abort()
        await here.until(lambda: client.gone)
        here.later(1)
        await here.until(lambda: not here.gateway.clients, "that it is gone, though it is not read")

    @pytest.mark.parametrize(
        "first",
        [
            GET,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
        ],
        ids=["forwarded", "with a body", "answered here"],
    )
    async def test_what_waits_of_it_is_a_head_and_one_read(self, rig: Any, first: bytes) -> None:
        here = await rig()
        clients = [await here.connect() for _ in range(10)]
        most = 0
        for client in clients:
            client.send(first + GET * 40_000)
        for _ in range(200):
            await asyncio.sleep(0.001)
            most = max(most, *(len(down._held) for down in here.gateway.clients))
        assert all(down.paused for down in here.gateway.clients)
        assert 32 * 1024 < most <= (32 + 256) * 1024
        for client in clients:
            sock = client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()
        await here.until(lambda: all(client.gone for client in clients))
        here.later(1)

    async def test_requests_answered_at_once_let_others_have_their_turn(self, rig: Any) -> None:
        """OPTIONS that end here are answered without waiting: many of them in one go would hold up everybody."""
        here = await rig(proxy={"pipeline": 4})
        order: list[str] = []
        hop = b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"
        greedy, other = await here.connect(), await here.connect()
        greedy.news, other.news = _Tell(order, "greedy"), _Tell(order, "other")
        greedy.send(hop * 400)
        other.send(hop)
        await here.until(lambda: greedy.received.count(b"204 No Content") == 400 and b"204" in other.received)
        down = next(iter(here.gateway.clients))
        assert down._held == b""


class _Tell(asyncio.Event):
    def __init__(self, order: list[str], name: str) -> None:
        super().__init__()
        self.order, self.name = order, name

    def set(self) -> None:
        self.order.append(self.name)
        super().set()


class TestReuse:
    async def test_the_connection_used_last_is_used_next(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK] * 20
        first, second = await here.connect(), await here.connect()
        for _ in range(5):
            for client in (first, second):
                before = client.received
                client.send(GET)
                await client.until(lambda c=client, b=before: len(c.received) > len(b))
        assert len(here.origin.lines) == 1

    async def test_a_dead_connection_is_found_and_the_request_sent_again(self, rig: Any) -> None:
        """The origin closes just as the request is on its way."""
        here = await rig()
        here.origin.script = [OK, lambda line: line.transport.abort(), reply("again")]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].body == b"again"
        assert [len(line.requests) for line in here.origin.lines] == [2, 1]

    async def test_it_is_sent_again_once(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK, lambda line: line.transport.abort(), lambda line: line.transport.abort(), OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].status == 502
        assert len(here.origin.requests) == 3

    @pytest.mark.parametrize(
        "request_",
        [
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
            b"UNKNOWN / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
        ids=["post", "patch", "a body", "unknown method"],
    )
    async def test_what_may_have_been_done_is_not_sent_again(self, rig: Any, request_: bytes) -> None:
        here = await rig()
        here.origin.script = [OK, lambda line: line.transport.abort(), OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        client.send(request_)
        assert (await client.answers("GET", "POST"))[1].status == 502
        assert len(here.origin.requests) == 2

    async def test_a_first_use_that_fails_is_not_repeated(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [lambda line: line.transport.abort(), OK]
        (answer,) = await here.talk(GET, "GET")
        assert answer.status == 502
        assert len(here.origin.requests) == 1

    async def test_an_answer_that_has_begun_is_not_repeated(self, rig: Any) -> None:
        here = await rig()

        def begin(line: Any) -> None:
            line.transport.write(b"HTTP/1.1 2")
            line.transport.write_eof()

        here.origin.script = [OK, begin, OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].status == 502
        assert len(here.origin.requests) == 2

    async def test_bytes_nobody_asked_for_end_an_idle_connection(self, rig: Any) -> None:
        """Taken for the next answer they would reach the wrong client."""
        here = await rig()
        here.origin.script = [OK, reply("mine")]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        here.origin.lines[0].transport.write(reply("poison"))
        await here.origin.lines[0].gone()
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].body == b"mine"

    async def test_an_idle_connection_grows_old(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        await here.talk(GET, "GET")
        here.later(56)
        await here.origin.lines[0].gone()

    async def test_no_more_are_kept_than_the_config_says(self, rig: Any) -> None:
        here = await rig(app={"max_idle": 1})
        here.origin.script = []
        clients = [await here.connect() for _ in range(3)]
        for client in clients:
            client.send(GET)
        await here.until(lambda: len(here.origin.requests) == 3)
        for line in here.origin.lines:
            line.transport.write(OK)
        for client in clients:
            await client.answers("GET")
        await here.until(lambda: here.gateway.shared.app.opened == 1)


class TestHalfClose:
    async def test_a_client_that_will_send_no_more_has_its_answers(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = []
        client = await here.connect()
        client.send(get("/1") + get("/2") + get("/3"))
        client.transport.write_eof()
        for i in range(3):
            await here.until(lambda n=i + 1: len(here.origin.requests) == n)
            await asyncio.sleep(0.03)
            here.origin.lines[0].transport.write(reply(str(i)))
        await client.closed()
        answers = [a for a in await client.answers("GET", "GET", "GET") if a.status != 100]
        assert [answer.body for answer in answers] == [b"0", b"1", b"2"]

    async def test_one_that_waits_for_a_stream_gets_all_of_it(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received.endswith(b"abc\r\n"))
        client.transport.write_eof()
        await client.until(lambda: client.received.endswith(b"0"))  # the leading zero of the next size
        here.origin.lines[0].transport.write(b"a\r\n0123456789\r\n0\r\n\r\n")
        await client.closed()
        (answer,) = await client.answers("GET")
        assert (answer.body, answer.complete) == (b"abc0123456789", True)

    async def test_the_end_of_a_stream_may_follow_a_probe(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received.endswith(b"abc\r\n"))
        client.transport.write_eof()
        await client.until(lambda: client.received.endswith(b"\r\n0"))
        here.origin.lines[0].transport.write(b"0\r\n\r\n")
        await client.closed()
        assert client.received.endswith(b"abc\r\n00\r\n\r\n")
        (answer,) = await client.answers("GET")
        assert answer.complete

    async def test_an_http10_client_may_half_close_too(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        client.transport.write_eof()
        await here.until(lambda: here.origin.requests)
        await asyncio.sleep(0.03)
        assert client.received == b"", "HTTP/1.0 knows no interim answers"
        here.origin.lines[0].transport.write(OK)
        (answer,) = await client.answers("GET")
        assert answer.body == b"ok"

    async def test_half_a_head_and_an_end_are_nothing(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(b"GET / HTTP/1.1\r\nHos")
        client.transport.write_eof()
        await client.closed()
        assert client.received == b""


class TestGone:
    @pytest.mark.parametrize("how", ["close", "reset"])
    @pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"])
    async def test_a_client_that_goes_away_frees_the_origin_at_once(self, rig: Any, how: str, begun: bytes) -> None:
        here = await rig()
        here.origin.script = [begun] if begun else []
        with socket.create_connection(("127.0.0.1", here.port)) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, GET)
            await here.until(lambda: here.origin.requests)
            if begun:
                received = b""
                while not received.endswith(b"a\r\n"):
                    received += await loop.sock_recv(sock, 1000)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await here.origin.lines[0].gone()
        await here.until(lambda: not here.gateway.clients)
        assert here.gateway.shared.app.opened == 0

    async def test_while_it_connects(self, rig: Any, full_queue: int) -> None:
        here = await rig(origin=f"http://127.0.0.1:{full_queue}")
        client = await here.connect()
        client.send(GET)
        await here.until(lambda: here.gateway.shared.app.opened == 1)
        client.transport.abort()
        await here.until(lambda: not here.gateway.clients)
        await here.until(lambda: here.gateway.shared.app.opened == 0)

    async def test_within_its_body(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        await here.until(lambda: any(here.origin.received))
        client.transport.abort()
        await here.origin.lines[0].gone()
        assert here.origin.requests == []


class TestUnreachable:
    async def test_an_origin_that_is_not_there_is_502(
        self, rig: Any, free_port: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        origin = f"http://127.0.0.1:{free_port()}"
        here = await rig(origin=origin)
        client = await here.connect()
        for n in range(1, 3):
            client.send(GET)
            answers = await client.answers(*["GET"] * n)
            assert answers[-1].status == 502
            assert b"cannot be reached" in answers[-1].body
            assert b"127.0.0.1" not in answers[-1].body, "where the origin is, is no client's to know"
        assert not client.ended
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "origin_unreachable" in line]
        assert origin in line

    async def test_an_origin_whose_name_is_none_is_502(self, rig: Any) -> None:
        here = await rig(origin="http://127.0.0.1:1")

        async def dial(upstream: Any) -> None:  # as no config may have it
            await asyncio.get_running_loop().create_connection(lambda: upstream, "a..b", 1)

        here.gateway.shared.app._dial = dial
        assert (await here.talk(GET, "GET"))[0].status == 502

    async def test_one_that_is_back_is_used(self, rig: Any) -> None:
        here = await rig()
        await here.stop_origin()
        client = await here.connect()
        client.send(GET)
        assert (await client.answers("GET"))[0].status == 502
        await here.start_origin()
        here.origin.script = [OK]
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].body == b"ok"

    async def test_an_origin_that_never_accepts_is_502_in_time(self, rig: Any, full_queue: int) -> None:
        here = await rig(origin=f"http://127.0.0.1:{full_queue}", app={"connect_timeout_s": 0.05})
        (answer,) = await here.talk(GET, "GET")
        assert answer.status == 502
        assert b"in time" in answer.body
        assert here.gateway.shared.app.opened == 0

    async def test_an_origin_that_is_slow_is_504(self, rig: Any) -> None:
        here = await rig(app={"timeout_s": 3})
        client = await here.connect()
        client.send(GET)
        await here.until(lambda: here.origin.requests)
        here.later(2)
        await asyncio.sleep(0.01)
        assert client.received == b""
        here.later(2)
        (answer,) = await client.answers("GET")
        assert answer.status == 504
        await here.origin.lines[0].gone()
        here.origin.script = [OK]
        client.send(GET)
        assert (await client.answers("GET", "GET"))[1].status == 200

    async def test_too_many_connections_to_the_origin_are_503(self, rig: Any) -> None:
        here = await rig(app={"max_connections": 2})
        here.origin.script = []
        busy = [await here.connect() for _ in range(2)]
        for client in busy:
            client.send(GET)
        await here.until(lambda: len(here.origin.requests) == 2)
        (answer,) = await here.talk(GET, "GET")
        assert (answer.status, answer["retry-after"]) == (503, "1")
        here.origin.script = [OK]
        for line in here.origin.lines:
            line.transport.write(OK)
        for client in busy:
            await client.answers("GET")
        assert (await here.talk(GET, "GET"))[0].status == 200

    async def test_the_counts_say_what_happened(self, rig: Any) -> None:
        from proxy.board import layout as layouts

        here = await rig()
        here.origin.script = [OK, b"nonsense\r\n\r\n"]
        await here.talk(GET, "GET")
        await here.talk(GET, "GET")
        await here.refusal(b"nonsense\r\n\r\n")
        row = here.layout.worker(0)
        counts = [
            here.cells[row + cell] for cell in (layouts.W_APP_REQUESTS, layouts.W_APP_ERRORS, layouts.W_REFUSED)
        ]
        assert counts == [2, 1, 1]


class TestTime:
    async def test_a_client_that_says_nothing_is_closed(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        await here.until(lambda: here.gateway.clients)
        here.later(11)
        await client.closed()
        assert client.received == b""

    async def test_an_idle_client_is_closed_later(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        here.later(70)
        await asyncio.sleep(0.01)
        assert not client.ended
        here.later(6)
        await client.closed()
        assert (await client.answers("GET"))[0].status == 200

    async def test_a_head_that_trickles_is_refused_in_time(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        for i, byte in enumerate(b"GET / HTTP/1.1\r\nHost: a"):
            client.send(bytes([byte]))
            await here.until(
                lambda n=i + 1: any(len(down._held) == n for down in here.gateway.clients) or client.ended
            )
            here.later(1)
            if client.ended:
                break
        await client.closed()
        (answer,) = await client.answers("GET")
        assert answer.status == 408
        assert 9 <= i <= 12

    async def test_one_that_never_closes_its_end_is_not_waited_for(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(b"nonsense\r\n\r\n")
        await client.closed()
        assert here.gateway.clients, "it has a moment to read the answer"
        here.later(3)
        await here.until(lambda: not here.gateway.clients)

    async def test_the_last_answer_is_not_cut_by_the_end(self, rig: Any) -> None:
        """A slow reader takes a large answer with Connection: close, long after it was written."""
        here = await rig(proxy={"min_rate": 1})
        size = 5_000_000
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)]
        client = await here.connect()
        client.transport.pause_reading()
        client.send(get("/", "Connection: close"))
        await here.until(lambda: here.gateway.clients)
        (down,) = here.gateway.clients
        client.transport.resume_reading()
        for _ in range(200):
            if len(client.received) > size or client.ended:
                break
            client.transport.pause_reading()
            here.later(5)
            client.transport.resume_reading()
            await asyncio.sleep(0.005)
        (answer,) = await client.answers("GET")
        assert len(answer.body) == size
        assert down is not None


class TestLimits:
    async def test_connections_in_all(self, rig: Any) -> None:
        here = await rig(proxy={"max_connections": 2})
        here.origin.script = [OK] * 3
        one, _ = await here.connect(), await here.connect()
        await here.until(lambda: len(here.gateway.clients) == 2)
        third = await here.connect()
        await third.closed()
        (answer,) = await third.answers("GET")
        assert (answer.status, answer["retry-after"], answer["connection"]) == (503, "1", "close")
        one.send(GET)
        assert (await one.answers("GET"))[0].status == 200
        one.transport.abort()
        third.transport.abort()
        await here.until(lambda: len(here.gateway.clients) == 1)
        assert (await here.talk(GET, "GET"))[0].status == 200

    async def test_a_flood_of_them_is_not_answered(self, rig: Any) -> None:
        here = await rig(proxy={"max_connections": 1})
        clients = [await here.connect() for _ in range(100)]
        for client in clients[1:]:
            await client.closed()
        assert len(here.gateway.clients) < 60

    async def test_connections_of_one_address(self, rig: Any) -> None:
        here = await rig(proxy={"max_connections_per_address": 1})
        here.origin.script = [OK] * 3
        one = await here.connect()
        await here.until(lambda: here.gateway.clients)
        other = await here.connect()
        await other.closed()
        (answer,) = await other.answers("GET")
        assert (answer.status, answer["retry-after"]) == (429, "1")
        other.transport.abort()
        one.transport.abort()
        await here.until(lambda: not here.gateway.clients)
        assert here.gateway.clients._by_address == {}
        assert (await here.talk(GET, "GET"))[0].status == 200

    async def test_ipv4_clients_of_an_ipv6_listener_are_told_apart(self, rig: Any) -> None:
        here = await rig(proxy={"max_connections_per_address": 1}, listen="[::]:0")
        here.origin.script = [OK] * 2
        for source in ("127.0.0.1", "127.0.0.2"):
            client = await here.connect(source)
            client.send(GET)
            assert (await client.answers("GET"))[0].status == 200
        assert b"\r\nx-forwarded-for: 127.0.0.2\r\n" in here.origin.requests[1]
        assert b"\r\nforwarded: for=127.0.0.2;" in here.origin.requests[1]

    async def test_one_turned_away_before_it_was_counted_frees_no_place(self, rig: Any) -> None:
        here = await rig(proxy={"max_connections": 2, "max_connections_per_address": 1})
        await here.connect()
        stranger = await here.connect("127.0.0.2")
        await here.until(lambda: len(here.gateway.clients) == 2)
        beyond = await here.connect()
        assert (await beyond.answers("GET"))[0].status == 503
        for client in (beyond, stranger):
            client.transport.abort()
        await here.until(lambda: len(here.gateway.clients) == 1)
        again = await here.connect()
        await again.closed()
        assert (await again.answers("GET"))[0].status == 429

    async def test_remembered_heads_are_bounded_in_bytes(self, rig: Any) -> None:
        here = await rig()
        heads = here.gateway.shared.heads
        for i in range(6000):
            heads.fields(b"Host: a\r\nX: %08d%b\r\n" % (i, b"x" * 1000))
        kept = list(heads.blocks) + list(heads._blocks.old)
        assert sum(map(len, kept)) < 3_000_000
        heads.fields(b"Host: a\r\nX: " + b"x" * 5000 + b"\r\n")
        assert all(len(block) < 5000 for block in heads.blocks), "a large head is not kept at all"

    async def test_a_head_in_use_stays_remembered(self, rig: Any) -> None:
        here = await rig()
        heads = here.gateway.shared.heads
        used = heads.fields(b"Host: a\r\nUsed: 1\r\n")
        for i in range(6000):
            heads.fields(b"Host: a\r\nX: %08d%b\r\n" % (i, b"x" * 1000))
            if i % 100 == 0:
                assert heads.fields(b"Host: a\r\nUsed: 1\r\n") is used


class TestErrorForm:
    async def test_errors_may_be_told_in_html(self, rig: Any) -> None:
        from proxy.settings import Errors

        here = await rig(proxy={"errors": Errors("<h1>{status} {reason}</h1><p>{code}: {message}</p>")})
        answer = await here.refusal(b"GET / HTTP/1.1\r\nHost: <b>\r\n\r\n")
        assert answer["content-type"] == "text/html; charset=utf-8"
        assert answer.body == b"<h1>400 Bad Request</h1><p>bad_host: Host is not a host and port</p>"

    async def test_what_is_told_is_escaped(self, rig: Any) -> None:
        from proxy.http1.refusal import Form

        form = Form("text/html", "{message}")
        assert form.body(400, "x", "<script>&") == b"&lt;script&gt;&amp;"
        assert Form("text/plain", "{message} {code}").body(400, "<", "{code}") == b"{code} <"


class TestDraining:
    async def test_the_request_under_way_is_finished_and_the_connection_closed(self, rig: Any) -> None:
        here = await rig()
        client = await here.connect()
        client.send(GET)
        await here.until(lambda: here.origin.requests)
        here.gateway.clients.drain()
        here.origin.lines[0].transport.write(OK)
        (answer,) = await client.answers("GET")
        assert (answer.body, answer["connection"]) == (b"ok", "close")
        await client.closed()

    async def test_an_idle_client_that_is_just_sending_gets_its_answer(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK, OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        here.gateway.clients.drain()
        client.send(GET)
        answers = await client.answers("GET", "GET")
        assert answers[1]["connection"] == "close"

    async def test_one_whose_answer_had_begun_is_closed_a_moment_after_its_end(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab"]
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.received.endswith(b"ab"))
        here.gateway.clients.drain()
        here.origin.lines[0].transport.write(b"cd")
        await client.answers("GET")
        here.later(1)
        await client.closed()

    async def test_an_idle_client_is_closed_after_a_moment(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [OK]
        client = await here.connect()
        client.send(GET)
        await client.answers("GET")
        here.gateway.clients.drain()
        here.later(1)
        await client.closed()
