"""Data requests over HTTP: routing, bodies gathered within limits, HEAD, streams, and their place in a pipeline."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from backends.arm import GAUGES, SOURCE, Arm, Outcome
from backends.operations import EVENT_STREAM, Answer, Call, Operation, json_answer
from proxy.board import layout as layouts
from proxy.migration.answering import Answering
from proxy.migration.split import Split
from proxy.migration.sticky import Stickiness
from proxy.settings import Route
from tests.support.scripted import Named

ROUTES = (Route("phase6", ("/api/dashboard/*", "/api/scans/*", "/api/analytics/*"), "mock", "firestore"),)
METRICS = b"GET /api/dashboard/metrics HTTP/1.1\r\nHost: a\r\nX-User-Id: u\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Recorded:
    """A data source that answers at once, remembers what it was asked, and has one read in memory."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.memory = Answer(200, b'{"in":"memory"}')
        self.chunks: list[bytes] = []
        self.more = asyncio.Event()
        self.closed_streams = 0
        self.arms: tuple[Arm, Arm] = (Named("mock"), Named("firestore"))

    def peek(self, arm: int, operation: Operation, target: bytes) -> Answer | None:
        return self.memory if operation.name == "dashboard.current" else None

    async def answer(self, arm: int, call: Call) -> Outcome:
        self.calls.append(call)
        if call.operation.kind == "stream":
            return Outcome(Answer(200, content_type=EVENT_STREAM, stream=self._stream()), SOURCE)
        if call.operation.name == "scans.create":
            return Outcome(json_answer(201, {"id": call.id}, ((b"location", b"/api/scans/x"),)), SOURCE)
        return Outcome(json_answer(200, {"op": call.operation.name, "bytes": len(call.body)}), SOURCE)

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self.chunks:
                yield chunk
            await self.more.wait()
            yield b""
            yield b"data: last\n\n"
        finally:
            self.closed_streams += 1

    def arrived(self) -> int:
        return 0

    def behind_since(self) -> int:
        return 0

    def gauges(self) -> list[int]:
        return [0] * len(GAUGES)

    async def start(self) -> None: ...

    async def close(self) -> None: ...


async def data(rig: Any, **options: Any) -> tuple[Any, Recorded]:
    here = await rig(migrations=ROUTES, **options)
    source = Recorded()
    stickiness = Stickiness(here.plan.proxy.sticky, ["phase6"])
    here.gateway.shared.services.append(
        Answering(here.gateway.shared, Split(here.cells, here.layout, 0, 0, stickiness), source)
    )
    return here, source


def inflight(here: Any) -> int:
    own = here.layout.share(0, 0)
    return sum(here.cells[own + cell] for cell in (layouts.S_INFLIGHT_SOURCE, layouts.S_INFLIGHT_TARGET))


def post(body: bytes, *fields: bytes) -> bytes:
    head = b"".join(field + b"\r\n" for field in fields)
    return b"POST /api/scans HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), head, body)


class TestRouting:
    @pytest.mark.parametrize(
        ("request_", "operation", "params", "query"),
        [
            (b"GET /api/scans?limit=2&limit=3&q=", "scans.list", {}, {"limit": "2"}),
            (b"GET /api/scans/abc", "scans.get", {"id": "abc"}, {}),
            (b"GET /api/scans/a%2Fb%20c", "scans.get", {"id": "a/b c"}, {}),
            (b"GET /api/scans/abc/results?cursor=%7B%22", "scans.results", {"id": "abc"}, {"cursor": '{"'}),
            (b"GET /api/analytics/users/%C3%A9", "analytics.user", {"uid": "é"}, {}),
            (b"HEAD /api/analytics/trending?window=1h", "analytics.trending", {}, {"window": "1h"}),
            (b"DELETE /api/scans/abc/results", None, {}, {}),
            (b"GET /api/scans/", "app", {}, {}),
            (b"GET /api/scans/a/b/c", "app", {}, {}),
            (b"GET /api/scans/../scans", "app", {}, {}),
            (b"GET //api/scans", "app", {}, {}),
            (b"GET /API/scans", "app", {}, {}),
            (b"GET /other", "app", {}, {}),
        ],
    )
    async def test_a_path_and_its_query_lead_to_an_operation(
        self, rig: Any, request_: bytes, operation: str | None, params: dict[str, str], query: dict[str, str]
    ) -> None:
        here, source = await data(rig)
        here.origin.script = [OK]
        method = request_.split()[0].decode()
        (answer,) = await here.talk(request_ + b" HTTP/1.1\r\nHost: a\r\n\r\n", method)
        if operation is None:
            assert (answer.status, answer["allow"]) == (405, "GET, HEAD, POST")
            assert b"method_not_allowed" in answer.body
        elif operation == "app":
            assert answer.body == b"ok"
            assert source.calls == []
        else:
            (call,) = source.calls
            assert (call.operation.name, call.params, call.query) == (operation, params, query)
            assert answer["x-data-source"] == "mock"
            assert here.origin.lines == []

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            (b"/api/scans?limit=2&status=failed", b"/api/scans?status=failed&limit=2", True),
            (b"/api/scans?limit=2", b"/api/scans?x=1&limit=%32&limit=7", True),
            (b"/api/scans/a/results", b"/api/scans/%61/results?", True),
            (b"/api/scans?limit=2", b"/api/scans?limit=3", False),
            (b"/api/scans/a/results", b"/api/scans/a/duplicates", False),
            (b"/api/scans/a%26limit=2/results", b"/api/scans/a/results?limit=2", False),
        ],
    )
    async def test_what_means_the_same_has_one_place_in_memory(
        self, rig: Any, one: bytes, other: bytes, same: bool
    ) -> None:
        here, source = await data(rig)
        for target in (one, other):
            await here.talk(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target, "GET")
        assert (source.calls[0].key == source.calls[1].key) is same

    @pytest.mark.parametrize(
        ("target", "status", "code"),
        [
            (b"/api/scans?" + b"&".join(b"a%d=" % i for i in range(65)), 400, b"too_many_parameters"),
            (b"/api/scans?" + b"&" * 64, 400, b"too_many_parameters"),
            (b"/api/scans?q=" + b"%41" * 1400, 414, b"target_too_long"),
            (b"/api/scans/" + b"%41" * 1400, 414, b"target_too_long"),
        ],
        ids=["parameters", "empty parameters", "query", "path"],
    )
    async def test_what_would_take_long_to_read_is_refused(
        self, rig: Any, target: bytes, status: int, code: bytes
    ) -> None:
        here, source = await data(rig)
        answer = await here.refusal(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
        assert (answer.status, source.calls) == (status, [])
        assert code in answer.body

    async def test_up_to_64_parameters_are_read(self, rig: Any) -> None:
        here, source = await data(rig)
        query = b"&".join([*(b"a%d=%d" % (i, i) for i in range(63)), b"limit=7"])
        await here.talk(b"GET /api/scans?%b HTTP/1.1\r\nHost: a\r\n\r\n" % query, "GET")
        assert source.calls[0].query == {"limit": "7"}

    async def test_what_is_remembered_of_queries_is_bounded(self, rig: Any) -> None:
        here, _ = await data(rig)
        heads = here.gateway.shared.heads
        for i in range(5000):
            heads.line(b"GET /api/scans?%d&%b HTTP/1.1" % (i, b"&".join(b"%x" % n for n in range(300, 360))))
        lines = [*heads.lines.values(), *heads._lines.old.values()]
        kept = sum(sys.getsizeof(text) for line in lines for text in line.route.query)
        kept += sum(sys.getsizeof(line.route.query) for line in lines)
        assert kept < 2_500_000

    async def test_what_is_in_memory_is_answered_without_asking(self, rig: Any) -> None:
        here, source = await data(rig)
        answers = await here.talk(METRICS * 3, "GET", "GET", "GET")
        for answer in answers:
            assert (answer.body, answer["content-type"]) == (b'{"in":"memory"}', "application/json")
            assert answer["x-data-source"] == "mock"
            assert answer["date"]
        assert source.calls == []

    async def test_head_is_get_without_the_body(self, rig: Any) -> None:
        here, _ = await data(rig)
        answers = await here.talk(b"HEAD" + METRICS[3:] + METRICS, "HEAD", "GET")
        assert answers[0]["content-length"] == answers[1]["content-length"] == "15"
        assert answers[0].body == b""

    async def test_an_answers_own_fields_reach_the_client(self, rig: Any) -> None:
        here, _ = await data(rig)
        (answer,) = await here.talk(post(b"{}"), "POST")
        assert (answer.status, answer["location"]) == (201, "/api/scans/x")


class TestBodies:
    CHUNKED = b"POST /api/scans HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def test_a_body_is_gathered_whole(self, rig: Any) -> None:
        here, source = await data(rig)
        client = await here.connect()
        whole = post(b"0123456789" * 1000)
        for at in range(0, len(whole), 997):
            client.send(whole[at : at + 997])
            await asyncio.sleep(0)
        (answer,) = await client.answers("POST")
        assert answer.status == 201
        assert source.calls[0].body == b"0123456789" * 1000

    async def test_a_chunked_body_is_gathered_too(self, rig: Any) -> None:
        here, source = await data(rig)
        (answer,) = await here.talk(self.CHUNKED + b"2\r\nab\r\n3;x\r\ncde\r\n0\r\nX-T: 1\r\n\r\n", "POST")
        assert answer.status == 201
        assert source.calls[0].body == b"abcde"

    async def test_no_body_is_an_empty_one(self, rig: Any) -> None:
        here, source = await data(rig)
        await here.talk(post(b"") + b"POST /api/scans HTTP/1.1\r\nHost: a\r\n\r\n", "POST", "POST")
        assert [call.body for call in source.calls] == [b"", b""]

    async def test_every_write_has_an_id_of_its_own(self, rig: Any) -> None:
        here, source = await data(rig)
        await here.talk(post(b"{}") * 5, *["POST"] * 5)
        assert len({call.id for call in source.calls}) == 5

    @pytest.mark.parametrize("size", [0, 9])
    async def test_a_length_above_the_limit_is_413(self, rig: Any, size: int) -> None:
        here, source = await data(rig, proxy={"max_body": 10})
        answer = await here.refusal(post(b"x" * 11)[: -11 + size])
        assert answer.status == 413
        assert source.calls == []

    async def test_a_chunked_body_above_the_limit_is_413(self, rig: Any) -> None:
        here, source = await data(rig, proxy={"max_body": 10})
        answer = await here.refusal(self.CHUNKED + b"6\r\n123456\r\n6\r\n123456\r\n")
        assert answer.status == 413
        assert source.calls == []

    @pytest.mark.parametrize("framing", ["length", "chunks"])
    async def test_a_limit_of_0_is_none(self, rig: Any, framing: str) -> None:
        here, source = await data(rig, proxy={"max_body": 0})
        body = b"x" * 2_000_000
        request = post(body)
        if framing == "chunks":
            head = b"POST /api/scans HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            request = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        assert (await here.talk(request, "POST"))[0].status == 201
        assert source.calls[0].body == body

    async def test_a_broken_chunk_is_400(self, rig: Any) -> None:
        here, source = await data(rig)
        answer = await here.refusal(self.CHUNKED + b"2\r\nabc\r\n0\r\n\r\n")
        assert answer.status == 400
        assert source.calls == []

    async def test_half_a_body_is_nothing(self, rig: Any) -> None:
        here, source = await data(rig)
        client = await here.connect()
        client.send(post(b"0123456789")[:-5])
        client.transport.write_eof()
        await client.closed()
        assert (client.received, source.calls) == (b"", [])

    async def test_a_body_that_trickles_is_408(self, rig: Any) -> None:
        here, source = await data(rig)
        client = await here.connect()
        client.send(post(b"0123456789")[:-5])
        await here.until(lambda: any(down._body and down._body._received for down in here.gateway.clients))
        here.later(32)
        (answer,) = await client.answers("POST")
        assert answer.status == 408
        assert source.calls == []

    async def test_the_body_is_invited(self, rig: Any) -> None:
        here, source = await data(rig)
        client = await here.connect()
        whole = post(b"abc", b"Expect: 100-continue")
        client.send(whole[:-3])
        await client.until(lambda: client.received == b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"abc")
        answers = await client.answers("POST")
        assert [answer.status for answer in answers] == [100, 201]
        assert source.calls[0].body == b"abc"

    async def test_one_that_is_too_large_is_not_invited(self, rig: Any) -> None:
        here, _ = await data(rig, proxy={"max_body": 2})
        answer = await here.refusal(post(b"abc", b"Expect: 100-continue")[:-3])
        assert answer.status == 413

    async def test_a_client_that_does_not_wait_is_not_invited(self, rig: Any) -> None:
        here, _ = await data(rig)
        answers = await here.talk(post(b"abc", b"Expect: 100-continue"), "POST")
        assert [answer.status for answer in answers] == [201]

    async def test_a_body_for_a_method_that_is_not_allowed_is_not_read(self, rig: Any) -> None:
        here, _ = await data(rig)
        (answer,) = await here.talk(b"PUT" + post(b"x" * 100)[4:50] + b"\r\n\r\n", "PUT")
        assert answer.status in (400, 405)
        client = await here.connect()
        client.send(b"DELETE /api/scans HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
        (answer,) = await client.answers("DELETE")
        assert (answer.status, answer["connection"]) == (405, "close")


class TestOrder:
    async def test_app_and_data_answers_come_in_order(self, rig: Any) -> None:
        here, _ = await data(rig)
        here.origin.script = [OK, OK]
        app = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
        answers = await here.talk(METRICS + app + post(b"{}") + METRICS + app, "GET", "GET", "POST", "GET", "GET")
        assert [answer.body[:5] for answer in answers] == [b'{"in"', b"ok", b'{"id"', b'{"in"', b"ok"]

    async def test_thousands_in_one_go_leave_nothing_behind(self, rig: Any) -> None:
        here, _ = await data(rig)
        client = await here.connect()
        client.send(METRICS * 2000)
        await client.until(lambda: client.received.count(b'{"in":"memory"}') == 2000)
        assert inflight(here) == 0


class TestStreams:
    STREAM = b"GET /api/dashboard/metrics/stream HTTP/1.1\r\nHost: a\r\n\r\n"

    async def test_events_reach_the_client_in_chunks_as_they_come(self, rig: Any) -> None:
        here, source = await data(rig)
        source.chunks = [b"data: 1\n\n", b"data: 2\n\n"]
        client = await here.connect()
        client.send(self.STREAM + METRICS)
        await client.until(lambda: b"data: 2\n\n\r\n" in client.received)
        assert b"\r\ncontent-type: text/event-stream\r\n" in client.received
        assert inflight(here) == 1
        source.more.set()
        stream, metrics = await client.answers("GET", "GET")
        assert stream.body == b"data: 1\n\ndata: 2\n\ndata: last\n\n"
        assert metrics.body == b'{"in":"memory"}'
        assert (inflight(here), source.closed_streams) == (0, 1)

    async def test_one_that_fails_within_us_is_broken_off(self, rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await asyncio.sleep(0)
            raise ZeroDivisionError

        here, source = await data(rig)
        monkeypatch.setattr(source, "_stream", broken)
        client = await here.connect()
        client.send(b"GET /api/scans/x/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.closed()
        assert not client.received.endswith(b"0\r\n\r\n")
        await here.until(lambda: inflight(here) == 0)

    async def test_an_http10_client_gets_them_until_close(self, rig: Any) -> None:
        here, source = await data(rig)
        source.chunks = [b"data: 1\n\n"]
        source.more.set()
        client = await here.connect()
        client.send(self.STREAM.replace(b"1.1", b"1.0"))
        await client.closed()
        (answer,) = await client.answers("GET")
        assert (answer.body, answer["transfer-encoding"]) == (b"data: 1\n\ndata: last\n\n", None)
        assert answer["connection"] == "close"

    async def test_a_client_that_leaves_ends_its_stream(self, rig: Any) -> None:
        here, source = await data(rig)
        source.chunks = [b"data: 1\n\n"]
        client = await here.connect()
        client.send(self.STREAM)
        await client.until(lambda: b"data: 1" in client.received)
        client.transport.close()
        await here.until(lambda: source.closed_streams == 1, "the stream's end")
        assert inflight(here) == 0

    async def test_a_client_that_takes_nothing_holds_its_stream_back(self, rig: Any) -> None:
        here, source = await data(rig)
        source.chunks = [bytes(100_000)] * 60
        client = await here.connect()
        client.transport.pause_reading()
        client.send(self.STREAM)
        await here.until(lambda: any(down.writing_paused for down in here.gateway.clients), "back-pressure")
        (down,) = here.gateway.clients
        assert down.transport.get_write_buffer_size() < 1_000_000
        source.more.set()
        client.transport.resume_reading()
        await client.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        (answer,) = await client.answers("GET")
        assert len(answer.body) == 6_000_000 + len(b"data: last\n\n")


async def test_a_leaving_worker_does_not_cut_an_answer_that_is_still_taken(rig: Any) -> None:
    here, source = await data(rig)
    source.memory = Answer(200, bytes(12_000_000))
    client = await here.connect()
    client.transport.pause_reading()
    client.send(METRICS)
    await here.until(lambda: any(down.writing_paused for down in here.gateway.clients))
    here.gateway.clients.drain()
    here.later(1)
    client.transport.resume_reading()
    assert (await client.answers("GET"))[0].complete
    here.later(1)
    await client.closed()


class TestStickiness:
    async def test_a_client_without_a_key_is_given_one_once(self, rig: Any) -> None:
        here, _ = await data(rig)
        plain = METRICS.replace(b"X-User-Id: u\r\n", b"")
        (answer,) = await here.talk(plain, "GET")
        cookie = answer["set-cookie"]
        assert cookie is not None
        assert cookie.startswith("phasegate=")
        value = cookie.split(";")[0].encode()
        (answer,) = await here.talk(plain.replace(b"\r\n\r\n", b"\r\nCookie: a=b; " + value + b"\r\n\r\n"), "GET")
        assert answer["set-cookie"] is None

    async def test_behind_a_trusted_peer_the_address_is_the_clients(self, rig: Any) -> None:
        here, _ = await data(rig, proxy={"sticky": ("ip",), "trusted": ("127.0.0.0/8", "10.0.0.0/8")})
        client = await here.connect()
        cases = {
            b"": "127.0.0.1",
            b"X-Forwarded-For: 1.2.3.4\r\n": "1.2.3.4",
            b"X-Forwarded-For: 9.9.9.9, 1.2.3.4, 10.1.1.1\r\n": "1.2.3.4",
            b"X-Forwarded-For: 10.0.0.2, 10.1.1.1\r\n": "10.0.0.2",
            b"X-Forwarded-For: nonsense, 10.1.1.1\r\n": "10.1.1.1",
            b"X-Forwarded-For: nonsense\r\n": "127.0.0.1",
        }
        for i, (field, address) in enumerate(cases.items()):
            client.send(METRICS.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n"))
            await client.answers(*["GET"] * (i + 1))
            (down,) = here.gateway.clients
            assert down.client_address() == address

    async def test_a_strangers_word_for_its_address_counts_for_nothing(self, rig: Any) -> None:
        here, _ = await data(rig, proxy={"sticky": ("ip",)})
        client = await here.connect()
        client.send(METRICS.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"))
        await client.answers("GET")
        (down,) = here.gateway.clients
        assert down.client_address() == "127.0.0.1"
