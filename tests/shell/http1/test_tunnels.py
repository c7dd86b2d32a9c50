"""Other protocols through the gateway: WebSocket with a real client and server, and tunnels by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x-chat\r\nX-Key: 1\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x-chat\r\nX-Accept: 2\r\n\r\n"
MORE = ("connection: upgrade", "upgrade: x-chat")


async def tunnel(here: Any) -> tuple[Any, Any]:
    """A client and the origin's line, with a tunnel between them."""
    here.origin.script = [SWITCH]
    client = await here.connect()
    client.send(UPGRADE)
    await client.until(lambda: client.received.endswith(b"\r\n\r\n"))
    (line,) = here.origin.lines
    here.origin.raw = True
    line.received = b""
    client.received = b""
    return client, line


class TestSwitching:
    async def test_a_protocol_is_changed_where_both_sides_say_so(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [SWITCH]
        client = await here.connect()
        client.send(UPGRADE)
        (answer,) = await client.answers("GET")
        assert (answer.status, answer["upgrade"], answer["x-accept"]) == (101, "x-chat", "2")
        assert answer["connection"] == "upgrade"
        assert here.origin.requests == [onward("GET /chat", "X-Key: 1", more=MORE)]

    async def test_bytes_flow_both_ways_unread(self, rig: Any) -> None:
        here = await rig()
        client, line = await tunnel(here)
        blob = bytes(range(256)) + b"GET / HTTP/1.1\r\n\r\n"
        client.send(blob)
        await here.until(lambda: line.received == blob)
        line.transport.write(blob[::-1])
        await client.until(lambda: client.received == blob[::-1])

    async def test_what_came_with_the_switch_is_not_lost(self, rig: Any) -> None:
        here = await rig()
        here.origin.script = [SWITCH + b"hello"]
        client = await here.connect()
        client.send(UPGRADE + b"early")
        await client.until(lambda: client.received.endswith(b"\r\n\r\nhello"))
        await here.until(lambda: here.origin.lines[0].received.endswith(b"\r\n\r\nearly"))

    async def test_an_origin_that_declines_answers_and_the_connection_goes_on(self, rig: Any) -> None:
        here = await rig()
        ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        here.origin.script = [b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n", ok]
        client = await here.connect()
        client.send(UPGRADE)
        await client.answers("GET")
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [answer.status for answer in await client.answers("GET", "GET")] == [426, 200]

    @pytest.mark.parametrize(
        "switch",
        [
            SWITCH.replace(b"x-chat", b"h2c"),
            SWITCH.replace(b"Connection: upgrade\r\n", b""),
            SWITCH.replace(b"Upgrade: x-chat\r\n", b""),
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ],
        ids=["a protocol that was not offered", "no connection field", "no protocol", "nothing"],
    )
    async def test_a_switch_to_something_else_is_502(self, rig: Any, switch: bytes) -> None:
        here = await rig()
        here.origin.script = [switch]
        (answer,) = await here.talk(UPGRADE, "GET")
        assert answer.status == 502
        await here.origin.lines[0].gone()

    async def test_of_several_protocols_those_are_offered_that_carry_no_requests(self, rig: Any, onward: Any) -> None:
        here = await rig()
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
        sent = UPGRADE.replace(b"Upgrade: x-chat", b"Upgrade: h2c, x-chat\r\nUpgrade: TLS/1.3, y/2")
        await here.talk(sent, "GET")
        more = ("connection: upgrade", "upgrade: x-chat, y/2")
        assert here.origin.requests == [onward("GET /chat", "X-Key: 1", more=more)]


class TestEnds:
    async def test_each_side_may_end_first_and_the_other_goes_on(self, rig: Any) -> None:
        here = await rig()
        here.origin.half_open = True
        client, line = await tunnel(here)
        client.send(b"last words")
        client.transport.write_eof()
        await here.until(lambda: line.eof and line.received == b"last words")
        line.transport.write(b"an answer")
        line.transport.close()
        await client.closed()
        assert client.received == b"an answer"
        await line.gone()

    async def test_the_origin_may_end_first(self, rig: Any) -> None:
        here = await rig()
        here.origin.half_open = True
        client, line = await tunnel(here)
        line.transport.write(b"bye")
        line.transport.write_eof()
        await client.until(lambda: client.eof)
        client.send(b"one more")
        await here.until(lambda: line.received == b"one more")
        client.transport.close()
        await here.until(lambda: line.eof)

    async def test_a_client_that_is_reset_ends_the_origins_side(self, rig: Any) -> None:
        here = await rig()
        client, line = await tunnel(here)
        client.transport.abort()
        await line.gone()

    async def test_a_silent_tunnel_ends_in_time(self, rig: Any) -> None:
        here = await rig(app={"quiet_timeout_s": 60})
        client, line = await tunnel(here)
        here.later(50)
        client.send(b"x")
        await here.until(lambda: line.received == b"x")
        here.later(50)
        line.transport.write(b"y")
        await client.until(lambda: client.received == b"y")
        here.later(50)
        assert not client.ended
        here.later(11)
        await client.closed()
        await line.gone()

    async def test_a_tunnel_ends_with_its_worker(self, rig: Any) -> None:
        here = await rig()
        client, line = await tunnel(here)
        here.gateway.clients.drain()
        client.send(b"still")
        await here.until(lambda: line.received == b"still")
        here.gateway.close()
        await client.closed()


class TestBackPressure:
    async def test_a_client_that_takes_nothing_holds_the_origin_back(self, rig: Any) -> None:
        here = await rig()
        client, line = await tunnel(here)
        client.transport.pause_reading()
        line.transport.write(bytes(12_000_000))
        (down,) = here.gateway.clients
        await here.until(lambda: down.writing_paused, "back-pressure")
        assert down._forwarder._up._paused
        assert down.transport.get_write_buffer_size() < 1_000_000
        client.transport.resume_reading()
        await client.until(lambda: len(client.received) == 12_000_000)

    async def test_an_origin_that_takes_nothing_holds_the_client_back(self, rig: Any) -> None:
        here = await rig()
        client, line = await tunnel(here)
        line.transport.pause_reading()
        client.send(bytes(12_000_000))
        (down,) = here.gateway.clients
        await here.until(lambda: down.paused, "back-pressure")
        assert down._forwarder._up.transport.get_write_buffer_size() < 1_000_000
        line.transport.resume_reading()
        await here.until(lambda: len(line.received) == 12_000_000)


class TestWebSocket:
    """The `websockets` library on both sides."""

    async def test_messages_of_every_size_come_back(self, rig: Any) -> None:
        async def echo(socket: ServerConnection) -> None:
            async for message in socket:
                await socket.send(message)

        async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            here = await rig(origin=f"http://127.0.0.1:{port}")
            async with connect(f"ws://127.0.0.1:{here.port}/echo", max_size=None) as socket:
                for message in ("", "text", b"\0" * 70_000, "x" * 3_000_000):
                    await socket.send(message)
                    assert await socket.recv() == message
                await asyncio.gather(*(socket.send(str(i)) for i in range(200)))
                assert [await socket.recv() for _ in range(200)] == [str(i) for i in range(200)]
                await (await socket.ping())
            assert socket.close_code == 1000

    async def test_the_origin_closes_with_its_own_code(self, rig: Any) -> None:
        async def goodbye(socket: ServerConnection) -> None:
            assert socket.request is not None
            assert socket.request.headers["x-forwarded-for"] == "127.0.0.1"
            await socket.close(4001, "enough")

        async with serve(goodbye, "127.0.0.1", 0) as server:
            here = await rig(origin=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            async with connect(f"ws://127.0.0.1:{here.port}/") as socket:
                with pytest.raises(websockets.ConnectionClosedError):
                    await socket.recv()
            assert (socket.close_code, socket.close_reason) == (4001, "enough")

    async def test_a_refused_handshake_reaches_the_client(self, rig: Any) -> None:
        async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, origins=["https://good.example"]) as server:
            here = await rig(origin=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(f"ws://127.0.0.1:{here.port}/", origin="https://evil.example")
            assert refused.value.response.status_code == 403
