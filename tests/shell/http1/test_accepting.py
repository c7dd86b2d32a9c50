"""Listeners with TLS and PROXY headers, origins behind TLS and unix sockets, with real clients and servers."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization

from backends.origin import OriginTls
from proxy.http1.proxyheader import BadHeaderError, Reader
from proxy.process.accepting import Acceptor
from proxy.settings import Listener, Tls
from proxy.tls import Certificate
from tests.support.authority import Authority
from tests.support.patience import WITHIN_S

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


Opened = Callable[..., Awaitable[tuple[Acceptor, int]]]


@pytest.fixture
async def door(rig: Any) -> AsyncIterator[Opened]:
    """Opens a listener of a gateway; gives its port."""
    doors: list[Acceptor] = []

    async def open_(here: Any, **options: Any) -> tuple[Acceptor, int]:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen(100)
        door = Acceptor(here.gateway, Listener("127.0.0.1:0", **options), sock)
        await door.open()
        doors.append(door)
        return door, sock.getsockname()[1]

    yield open_
    for door in doors:
        door.close()
        door.end_entering()


async def ask(port: int, request: bytes = GET, **tls: Any) -> bytes:
    """What comes back on a fresh connection, up to its end or the end of a small answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        async with asyncio.timeout(WITHIN_S):
            writer.write(request)
            received = b""
            while not received.endswith(b"ok") and (piece := await reader.read(10000)):
                received += piece
            return received
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def subject(transport: Any) -> str:
    return str(dict(pair for part in transport.get_extra_info("peercert")["subject"] for pair in part)["commonName"])


class TestTls:
    async def test_a_real_client_is_served(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        here.origin.script = [OK] * 3
        _, port = await door(here, tls=authority.issue("one"))
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=authority.client())) as session:
            for _ in range(3):
                async with session.get(f"https://127.0.0.1:{port}/x") as response:
                    assert await response.text() == "ok"
        assert b"x-forwarded-proto: https\r\n" in here.origin.requests[0]
        assert b";proto=https;" in here.origin.requests[0]
        assert len(here.origin.lines) == 1

    async def test_http11_is_agreed_upon(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        _, port = await door(here, tls=authority.issue("one"))
        context = authority.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        tls = writer.get_extra_info("ssl_object")
        assert (tls.selected_alpn_protocol(), tls.version()) == ("http/1.1", "TLSv1.3")
        writer.transport.abort()

    @pytest.mark.parametrize(
        ("minimum", "highest", "served"),
        [
            ("1.2", ssl.TLSVersion.TLSv1_1, False),
            ("1.2", ssl.TLSVersion.TLSv1_2, True),
            ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ],
    )
    async def test_old_versions_are_refused(
        self, rig: Any, door: Opened, authority: Authority, minimum: Any, highest: ssl.TLSVersion, served: bool
    ) -> None:
        here = await rig()
        here.origin.script = [OK]
        tls = authority.issue("one")
        _, port = await door(here, tls=Tls(tls.certificate, tls.key, minimum))
        context = authority.client()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the old versions are what is tried
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = highest
        if served:
            assert (await ask(port, ssl=context)).endswith(b"ok")
        else:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await ask(port, ssl=context)

    async def test_weak_ciphers_are_refused(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        _, port = await door(here, tls=authority.issue("one"))
        context = authority.client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AES+SHA1:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, ssl=context)

    @pytest.mark.parametrize("kinds", [("ec", "ec"), ("ec", "rsa"), ("rsa", "ec")], ids="-".join)
    async def test_a_new_certificate_is_served_without_a_restart(
        self, rig: Any, door: Opened, authority: Authority, kinds: tuple[str, str]
    ) -> None:
        here = await rig()
        here.origin.script = [OK] * 4
        listener, port = await door(here, tls=authority.issue("one", kinds[0]))
        reader, old = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        assert subject(old) == "one"
        authority.issue("two", kinds[1])
        listener.refresh()
        _, new = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        assert subject(new) == "two"
        old.write(GET)  # who was here before stays
        assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
        for writer in (old, new):
            writer.transport.abort()

    async def test_a_certificate_that_does_not_fit_its_key_is_not_taken(
        self, rig: Any, door: Opened, authority: Authority
    ) -> None:
        here = await rig()
        here.origin.script = [OK] * 4
        tls = authority.issue("one")
        listener, port = await door(here, tls=tls)
        key = Path(tls.key).read_bytes()
        authority.issue("two")
        Path(tls.key).write_bytes(key)  # half way through a change of both
        listener.refresh()
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        assert subject(writer) == "one"
        writer.transport.abort()
        assert (await ask(port, ssl=authority.client())).endswith(b"ok")

    async def test_a_key_with_a_password_is_refused_and_not_asked_for(self, authority: Authority) -> None:
        tls = authority.issue("one")
        key = serialization.load_pem_private_key(Path(tls.key).read_bytes(), None)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        Path(tls.key).write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
        with pytest.raises(OSError, match="the key is encrypted"):
            Certificate(tls)

    async def test_plain_http_is_not_served_there(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        _, port = await door(here, tls=authority.issue("one"))
        assert not (await ask(port)).startswith(b"HTTP/")
        assert not here.origin.lines

    async def test_an_early_answer_can_be_read_to_its_end(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig(app={"max_body": 10})
        _, port = await door(here, tls=authority.issue("one"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()
        await here.until(lambda: not here.gateway.clients)

    async def test_a_client_that_goes_away_frees_the_origin(
        self, rig: Any, door: Opened, authority: Authority
    ) -> None:
        here = await rig()
        _, port = await door(here, tls=authority.issue("one"))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        writer.write(GET)
        await here.until(lambda: here.origin.requests)
        writer.close()
        await here.origin.lines[0].gone()

    async def test_a_handshake_that_never_comes_is_ended(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig(proxy={"head_timeout_s": 0.1})
        _, port = await door(here, tls=authority.issue("one"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""
        writer.close()

    async def test_a_large_answer_and_a_large_body_pass(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        blob = bytes(range(256)) * 20_000
        here.origin.script = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(blob) + blob]
        _, port = await door(here, tls=authority.issue("one"))
        connector = aiohttp.TCPConnector(ssl=authority.client())
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.put(f"https://127.0.0.1:{port}/", data=io.BytesIO(blob[:3_000_000])) as response,
        ):
            assert await response.read() == blob
        assert here.origin.requests[0].endswith(blob[:3_000_000])


V2 = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = socket.inet_aton("1.2.3.4") + socket.inet_aton("5.6.7.8") + struct.pack("!HH", 1000, 80)
TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::1") + b"\0\1\0\2"

PROXY_HEADERS: dict[str, tuple[bytes, str]] = {
    "v1 of IPv4": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n", "1.2.3.4"),
    "v1 of IPv6": (b"PROXY TCP6 2001:db8::1 ::1 1000 80\r\n", "2001:db8::1"),
    "v1 of IPv4 in IPv6": (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1000 80\r\n", "1.2.3.4"),
    "v2 of IPv4 in IPv6": (V2 + b"\x21\x21\0\x24" + bytes(10) + b"\xff\xff" + TCP4[:4] + TCP6[16:], "1.2.3.4"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", ""),
    "v1 unknown with addresses": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    "v2 of IPv4": (V2 + b"\x21\x11\0\x0c" + TCP4, "1.2.3.4"),
    "v2 of IPv6": (V2 + b"\x21\x21\0\x24" + TCP6, "2001:db8::1"),
    "v2 with more behind the addresses": (V2 + b"\x21\x11\0\x10" + TCP4 + b"\x04\0\x01x", "1.2.3.4"),
    "v2 of the balancer itself": (V2 + b"\x20\0\0\0", ""),
    "v2 of a unix socket": (V2 + b"\x21\x31\0\xd8" + bytes(216), ""),
    "v2 of no family": (V2 + b"\x21\0\0\0", ""),
}
NO_PROXY_HEADERS: dict[str, bytes] = {
    "none": GET,
    "v1 in lower case": b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
    "v1 that ends in LF": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n" + b"x" * 200,
    "v1 of a family that is none": b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 of the other family": b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 with a bad address": b"PROXY TCP4 1.2.3.400 5.6.7.8 1 2\r\n",
    "v1 with a bad port": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
    "v1 with two spaces": b"PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    "v1 with too little": b"PROXY TCP4 1.2.3.4\r\n",
    "v2 of version 3": V2 + b"\x31\x11\0\x0c" + TCP4,
    "v2 of an unknown command": V2 + b"\x22\x11\0\x0c" + TCP4,
    "v2 with addresses too short": V2 + b"\x21\x11\0\x04" + TCP4[:4],
    "v2 that is too long": V2 + b"\x21\x11\xff\xff" + TCP4,
    "a signature that is broken": V2[:11] + b"X" + b"\x21\x11\0\x0c" + TCP4,
}
TRUSTED = {"trusted": ("127.0.0.0/8",)}


class TestProxyProtocol:
    @pytest.mark.parametrize("size", [1, 5, 1000])
    @pytest.mark.parametrize("name", PROXY_HEADERS)
    def test_a_header_is_taken_off_and_not_a_byte_more(self, name: str, size: int) -> None:
        header, address = PROXY_HEADERS[name]
        stream, reader, at = header + GET, Reader(), 0
        while not reader.done:
            at += reader.feed(stream[at : at + size])
        assert (at, reader.address) == (len(header), address)

    @pytest.mark.parametrize("name", NO_PROXY_HEADERS)
    def test_what_is_no_header_is_refused(self, name: str) -> None:
        with pytest.raises(BadHeaderError):
            Reader().feed(NO_PROXY_HEADERS[name])

    @pytest.mark.parametrize("name", PROXY_HEADERS)
    async def test_the_client_is_who_the_header_says(self, rig: Any, door: Opened, name: str) -> None:
        header, address = PROXY_HEADERS[name]
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK]
        _, port = await door(here, proxy_protocol=True)
        claimed = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        assert (await ask(port, header + claimed)).endswith(b"ok")
        told = "6.6.6.6, 127.0.0.1" if name == "v2 of the balancer itself" else address or "unknown"
        assert b"\r\nx-forwarded-for: %b\r\n" % told.encode() in here.origin.requests[0]

    async def test_it_may_come_in_pieces(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK] * 2
        _, port = await door(here, proxy_protocol=True)
        for name in ("v1 of IPv4", "v2 of IPv6"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in PROXY_HEADERS[name][0] + GET:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.0005)
            async with asyncio.timeout(WITHIN_S):
                assert (await reader.read(1000)).startswith(b"HTTP/1.1 200")
            writer.transport.abort()

    async def test_a_connection_without_one_is_closed(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy=TRUSTED)
        _, port = await door(here, proxy_protocol=True)
        assert await ask(port) == b""
        assert not here.origin.lines

    async def test_a_stranger_is_closed_whatever_it_says(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy={"trusted": ("10.0.0.0/8",)})
        _, port = await door(here, proxy_protocol=True)
        assert await ask(port, PROXY_HEADERS["v1 of IPv4"][0] + GET) == b""
        assert not here.origin.lines

    async def test_one_that_never_comes_is_not_waited_for(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy={**TRUSTED, "head_timeout_s": 0.05})
        _, port = await door(here, proxy_protocol=True)
        assert await ask(port, b"PROXY TCP4 1.2") == b""

    async def test_tls_may_follow_it(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK]
        _, port = await door(here, proxy_protocol=True, tls=authority.issue("one"))
        loop = asyncio.get_running_loop()
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        await loop.sock_sendall(sock, PROXY_HEADERS["v2 of IPv4"][0])
        reader, writer = await asyncio.open_connection(sock=sock, ssl=authority.client(), server_hostname="localhost")
        writer.write(GET)
        async with asyncio.timeout(WITHIN_S):
            assert (await reader.read(1000)).endswith(b"ok")
        writer.transport.abort()
        assert b"\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\n" in here.origin.requests[0]


class TestAddress:
    async def test_too_many_on_the_threshold_are_closed(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy={**TRUSTED, "max_connections": 3})
        _, port = await door(here, proxy_protocol=True)
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
        closed = 0
        for reader, _ in streams:
            try:
                async with asyncio.timeout(0.2):
                    closed += await reader.read(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed += 1
        assert closed == 7
        for _, writer in streams:
            writer.transport.abort()

    async def test_one_address_cannot_fill_the_threshold(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig(proxy={"max_connections": 6, "max_connections_per_address": 2})
        here.origin.script = [OK]
        listener, port = await door(here, tls=authority.issue("one"))
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        await here.until(lambda: listener.entering == 2)
        assert here.gateway.clients._by_address == {"127.0.0.1": 2}
        other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0), ssl=authority.client())
        other[1].write(GET)
        async with asyncio.timeout(WITHIN_S):
            assert (await other[0].read(1000)).endswith(b"ok")
        assert here.gateway.clients._by_address["127.0.0.2"] == 1, "who comes in is not counted twice"
        for _, writer in [*silent, other]:
            writer.transport.abort()
        await here.until(lambda: not (here.gateway.clients or listener.entering))
        assert here.gateway.clients._by_address == {}

    async def test_behind_a_load_balancer_it_is_the_clients(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy={**TRUSTED, "max_connections_per_address": 1})
        here.origin.script = [OK] * 2
        _, port = await door(here, proxy_protocol=True)
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        got = []
        for (reader, writer), source in zip(streams, ("1.2.3.4", "1.2.3.5", "1.2.3.4"), strict=True):
            writer.write(b"PROXY TCP4 %b 5.6.7.8 1 80\r\n" % source.encode() + GET)
            try:
                async with asyncio.timeout(WITHIN_S):
                    got.append((await reader.read(1000))[-2:])
            except ConnectionError:
                got.append(b"")
        assert got == [b"ok", b"ok", b""]
        for _, writer in streams:
            writer.transport.abort()

    async def test_small_writes_are_not_held_back(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig()
        _, port = await door(here, tls=authority.issue("one"))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client())
        await here.until(lambda: here.gateway.clients)
        (down,) = here.gateway.clients
        sock = down.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.transport.abort()


class TestLeaving:
    async def test_who_is_on_the_threshold_is_served(self, rig: Any, door: Opened, authority: Authority) -> None:
        here = await rig(proxy=TRUSTED)
        here.origin.script = [OK]
        listener, port = await door(here, proxy_protocol=True, tls=authority.issue("one"))
        loop = asyncio.get_running_loop()
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setblocking(False)
        await here.until(lambda: listener.entering == 1)
        listener.close()
        here.gateway.clients.drain()
        await loop.sock_sendall(sock, PROXY_HEADERS["v2 of IPv4"][0])
        reader, writer = await asyncio.open_connection(sock=sock, ssl=authority.client(), server_hostname="localhost")
        await here.until(lambda: not listener.entering)
        assert len(here.gateway.clients) == 1
        writer.write(GET)
        async with asyncio.timeout(WITHIN_S):
            answer = await reader.read()
        assert answer.endswith(b"ok")
        assert b"\r\nconnection: close\r\n" in answer
        writer.transport.abort()

    async def test_who_does_not_come_in_is_ended_with_the_worker(self, rig: Any, door: Opened) -> None:
        here = await rig(proxy=TRUSTED)
        listener, port = await door(here, proxy_protocol=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await here.until(lambda: listener.entering == 1)
        listener.close()
        listener.end_entering()
        async with asyncio.timeout(WITHIN_S):
            assert await reader.read() == b""
        assert listener.entering == 0
        writer.transport.abort()


class TestOrigins:
    async def test_an_origin_on_a_unix_socket(self, rig: Any, tmp_path: Path) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK)
            writer.close()

        seen: list[bytes] = []
        server = await asyncio.start_unix_server(serve, tmp_path / "app.sock")
        here = await rig(origin=f"unix:{tmp_path}/app.sock")
        (answer,) = await here.talk(GET, "GET")
        assert answer.body == b"ok"
        assert seen[0].startswith(b"GET / HTTP/1.1\r\nhost: a\r\n")
        server.close()

    async def test_a_unix_socket_that_is_not_there(self, rig: Any, tmp_path: Path) -> None:
        here = await rig(origin=f"unix:{tmp_path}/none.sock")
        assert (await here.talk(GET, "GET"))[0].status == 502

    @pytest.fixture
    async def secure(self, authority: Authority) -> AsyncIterator[Callable[..., Awaitable[int]]]:
        """Starts an origin behind TLS that answers one request; gives its port."""
        servers: list[asyncio.Server] = []

        async def start(answer: Callable[[asyncio.StreamWriter], None]) -> int:
            server = await self._serve(authority, answer)
            servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        yield start
        for server in servers:
            server.close()

    @staticmethod
    async def _serve(authority: Authority, answer: Callable[[asyncio.StreamWriter], None]) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.readuntil(b"\r\n\r\n")
                answer(writer)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()

        tls = authority.issue("origin")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    async def test_an_origin_behind_tls(self, rig: Any, authority: Authority, secure: Any) -> None:
        port = await secure(lambda writer: writer.write(OK))
        here = await rig(origin=f"https://localhost:{port}", app={"tls": OriginTls(ca=authority.ca)})
        (answer,) = await here.talk(GET, "GET")
        assert answer.body == b"ok"

    async def test_a_certificate_nobody_knows_is_502(
        self, rig: Any, authority: Authority, secure: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = await secure(lambda writer: writer.write(OK))
        here = await rig(origin=f"https://localhost:{port}")
        here.errors = _Only(here.errors, "SSL")
        (answer,) = await here.talk(GET, "GET")
        assert answer.status == 502
        assert "certificate verify failed" in capsys.readouterr().out

    async def test_a_certificate_for_another_name_is_502(self, rig: Any, authority: Authority, secure: Any) -> None:
        port = await secure(lambda writer: writer.write(OK))
        tls = OriginTls(ca=authority.ca, server_name="elsewhere.example")
        here = await rig(origin=f"https://localhost:{port}", app={"tls": tls})
        (answer,) = await here.talk(GET, "GET")
        assert answer.status == 502

    async def test_an_answer_until_close_without_a_proper_end_is_not_whole(
        self, rig: Any, authority: Authority, secure: Any
    ) -> None:
        """TLS says how a connection ends: one that was cut on the way has no such end."""

        def cut(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            asyncio.get_running_loop().call_later(0.05, writer.transport.abort)

        port = await secure(cut)
        here = await rig(origin=f"https://localhost:{port}", app={"tls": OriginTls(ca=authority.ca)})
        client = await here.connect()
        client.send(GET)
        await client.until(lambda: client.ended)
        assert client.error is not None
        assert not client.received.endswith(b"0\r\n\r\n")

    async def test_one_with_a_proper_end_is(self, rig: Any, authority: Authority, secure: Any) -> None:
        def close(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            writer.close()

        port = await secure(close)
        here = await rig(origin=f"https://localhost:{port}", app={"tls": OriginTls(ca=authority.ca)})
        (answer,) = await here.talk(GET, "GET")
        assert (answer.body, answer.complete) == (b"all of it", True)


class _Only(list[Any]):
    """Errors of the event loop, but for those that tell of a handshake that failed as it should."""

    def __init__(self, before: list[Any], expected: str) -> None:
        super().__init__(before)
        self._expected = expected

    def append(self, context: Any) -> None:
        if self._expected not in repr(context.get("exception")):
            super().append(context)
