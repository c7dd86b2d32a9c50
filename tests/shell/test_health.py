"""How backends and the app are asked after their health, of real servers over TCP, TLS and unix sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backends.origin import OriginTls, Reach
from control.checks.check import Check
from control.checks.health import Arms, ask_origin
from control.checks.preflight import run_checks
from control.plan.settings import Settings
from tests.support.authority import Authority
from tests.support.origin import Behave, Origin, answering, half_an_answer, hang_up, silent
from tests.support.patience import WITHIN_S
from tests.support.servers import tcp

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,  # pre-flight's
    "uvloop": uvloop.new_event_loop,  # the control process's
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine on each event loop that the product asks on."""

    def runner(work: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as loop:
            return loop.run(work)

    return runner


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def listening(behave: Behave, context: ssl.SSLContext | None = None) -> AsyncIterator[Origin]:
    """An origin on loopback, behind TLS where there is a context for it."""
    origin = Origin(behave)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)  # handshakes that fail as they should
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, ssl=context)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


WELL = answering(200, b"hello")


@pytest.mark.parametrize(
    ("status", "path", "below_500", "ok"),
    [
        (200, None, False, True),
        (404, None, False, True),
        (503, None, False, True),  # which paths an origin has is its own affair
        (404, None, True, True),
        (503, None, True, False),  # pre-flight: hardly meant
        (200, "/healthz", False, True),
        (302, "/healthz", False, True),
        (404, "/healthz", False, False),
        (503, "/healthz", False, False),
        (404, "/healthz", True, False),
    ],
)
async def test_which_status_is_well(status: int, path: str | None, below_500: bool, ok: bool) -> None:
    async with listening(answering(status, b"")) as origin:
        url = f"http://127.0.0.1:{origin.port}"
        health = (await ask_origin(Reach(url, WITHIN_S, health=path), below_500=below_500)).health
        assert health.ok is ok, health
        assert f"{url} answers {status}" in health.detail
        assert ("; expected 2xx or 3xx" in health.detail) is (path is not None and not ok)
        assert origin.heads[0].startswith(b"GET %b HTTP/1.1\r\n" % (path or "/").encode())


async def test_an_answer_is_the_final_one_and_its_date_is_told() -> None:
    async def behave(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 X\r\nDate: Sun, 29 Nov 2026 10:00:00 GMT\r\n\r\n")

    async with listening(behave) as origin:
        health, date, _ = await ask_origin(Reach(f"http://127.0.0.1:{origin.port}", WITHIN_S, health="/up"))
        assert health.ok
        assert date == "Sun, 29 Nov 2026 10:00:00 GMT"


async def not_http(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n\r\n")


async def endless(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + b"x-more: 1\r\n" * 20_000)


async def hints_only(head: bytes, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


@pytest.mark.parametrize(
    ("behave", "said"),
    [
        (silent, "no answer to GET {path} within 0.2 s"),
        (hang_up, "closed the connection without an answer"),
        (not_http, "not HTTP/1"),
        (endless, "a head of more than 64 KiB"),
        (hints_only, "interim answers"),
    ],
)
@pytest.mark.parametrize("path", [None, "/healthz"])
def test_an_origin_that_gives_no_answer_is_not_well_and_why_is_told(
    run: Callable[[Awaitable[Any]], Any], behave: Behave, said: str, path: str | None
) -> None:
    async def ask() -> None:
        async with listening(behave) as origin:
            health = (await ask_origin(Reach(f"http://127.0.0.1:{origin.port}", 0.2, health=path))).health
            assert not health.ok
            assert said.format(path=path or "/") in health.detail

    run(ask())


def test_a_dead_port_and_a_name_that_is_none_are_told(run: Callable[[Awaitable[Any]], Any]) -> None:
    async def ask(url: str) -> str:
        health = (await ask_origin(Reach(url, WITHIN_S))).health
        assert not health.ok
        return health.detail

    port = closed_port()
    assert run(ask(f"http://127.0.0.1:{port}")) == f"http://127.0.0.1:{port} does not answer: connection refused"
    assert "the host's name is not known" in run(ask("http://nowhere.invalid:80"))


async def test_half_an_answer_is_one_for_its_head_is_all_that_is_asked() -> None:
    async with listening(half_an_answer) as origin:
        assert (await ask_origin(Reach(f"http://127.0.0.1:{origin.port}", WITHIN_S))).health.ok


def test_a_unix_socket_is_asked(run: Callable[[Awaitable[Any]], Any], tmp_path: Path) -> None:
    async def ask() -> None:
        path = tmp_path / "app.sock"
        reach = Reach(f"unix:{path}", WITHIN_S, health="/healthz")
        missing = (await ask_origin(reach)).health
        assert not missing.ok
        assert "no such file" in missing.detail
        origin = Origin(WELL)
        server = await asyncio.start_unix_server(origin.serve, path)
        assert (await ask_origin(reach)).health.ok
        server.close()

    run(ask())


# TLS: who, what was found, what was expected, what to do.

WRONG: dict[str, tuple[dict[str, Any], OriginTls | None, tuple[str, ...]]] = {
    "an unknown authority": ({}, None, ("signed by an authority that is not trusted", "`tls.ca`")),
    "another name": ({"names": ("other.example",)}, OriginTls(), ("is for another name", "`tls.server_name`")),
    "expired": ({"expired": True}, OriginTls(), ("has expired", "renew it")),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_certificate_is_told(
    run: Callable[[Awaitable[Any]], Any], authority: Authority, case: str
) -> None:
    issue, tls, words = WRONG[case]
    trusting = None if tls is None else OriginTls(ca=authority.ca)

    async def ask() -> None:
        async with listening(WELL, authority.server(**issue)) as origin:
            url = f"https://localhost:{origin.port}"
            health = (await ask_origin(Reach(url, WITHIN_S, trusting))).health
            assert not health.ok
            assert health.detail.startswith(f"{url} does not answer: its certificate ")
            assert "; expected " in health.detail
            assert all(part in health.detail for part in words)

    run(ask())


def test_an_origin_with_the_certificate_it_should_have_is_well(
    run: Callable[[Awaitable[Any]], Any], authority: Authority
) -> None:
    async def ask() -> None:
        async with listening(WELL, authority.server(names=("other.example",))) as origin:
            tls = OriginTls(ca=authority.ca, server_name="other.example")
            assert (await ask_origin(Reach(f"https://localhost:{origin.port}", WITHIN_S, tls))).health.ok

    run(ask())


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_client_certificate_is_shown_and_one_that_is_missing_or_unknown_is_told(
    run: Callable[[Awaitable[Any]], Any], authority: Authority, version: str
) -> None:
    ours = authority.issue("us", files=("us.pem", "us.key"))
    stranger = Authority(authority.folder, "stranger.pem").issue("them", files=("them.pem", "them.key"))
    context = authority.server(asks=True)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]

    async def ask(port: int, **own: str) -> Any:
        tls = OriginTls(ca=authority.ca, **own)
        return (await ask_origin(Reach(f"https://localhost:{port}", WITHIN_S, tls))).health

    with tcp(context) as server:
        port = server.server_address[1]
        known = run(ask(port, certificate=ours.certificate, key=ours.key))
        missing = run(ask(port))
        unknown = run(ask(port, certificate=stranger.certificate, key=stranger.key))
    assert known.ok, known
    assert not missing.ok
    assert "set `tls.certificate` and `tls.key`" in missing.detail
    assert not unknown.ok
    assert "does not accept our certificate" in unknown.detail


async def test_a_server_that_only_hangs_up_on_who_shows_no_certificate_is_told_with_what_may_be_missing(
    authority: Authority,
) -> None:
    async with listening(WELL, authority.server(asks=True)) as origin:
        tls = OriginTls(ca=authority.ca)
        health = (await ask_origin(Reach(f"https://localhost:{origin.port}", WITHIN_S, tls))).health
        assert not health.ok
        assert "set `tls.certificate` and `tls.key`" in health.detail


def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_told(
    run: Callable[[Awaitable[Any]], Any], authority: Authority
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def ask(url: str) -> Any:
        return (await ask_origin(Reach(url, WITHIN_S))).health

    async def ask_plain() -> Any:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        health = await ask(f"https://localhost:{server.sockets[0].getsockname()[1]}")
        server.close()
        return health

    health = run(ask_plain())
    assert not health.ok
    assert "does not speak TLS there" in health.detail
    assert "write http://" in health.detail
    with tcp(authority.server()) as server:
        health = run(ask(f"http://localhost:{server.server_address[1]}"))
    assert not health.ok
    assert "where it speaks TLS, write https://" in health.detail


async def test_a_port_where_nobody_finishes_a_handshake_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        health = (await ask_origin(Reach(f"https://localhost:{nobody.getsockname()[1]}", 0.2))).health
    assert not health.ok
    assert "it accepted no connection within 0.2 s" in health.detail


@pytest.mark.parametrize("missing", ["ca", "certificate"])
async def test_a_file_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path, missing: str) -> None:
    ours = authority.issue("us")
    files = {"ca": authority.ca, "certificate": ours.certificate, "key": ours.key} | {missing: str(tmp_path / "none")}
    health = (await ask_origin(Reach("https://127.0.0.1:1", WITHIN_S, OriginTls(**files)))).health
    assert not health.ok
    assert f"its `tls` cannot be used: {tmp_path / 'none'}" in health.detail
    assert "expected" in health.detail


# The same through pre-flight and through what is asked before a raise.

Configured = Callable[..., Settings]


@pytest.fixture
def between(settings_of: Configured, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a migration between two HTTP origins, old and new."""

    def make(new: dict[str, Any], **rest: Any) -> Settings:
        old = {"kind": "http", "origin": "http://127.0.0.1:1"}
        return settings_of(
            {
                "proxy": {"run_dir": str(tmp_path / "run")},
                "backends": {"old": old, "new": {"kind": "http", **new}},
                "migrations": {"phase6": {"source": "old", "target": "new", "routes": ["/api/*"]}},
                **rest,
            }
        )

    return make


async def in_preflight(settings: Settings, name: str) -> Check:
    return next(check for check in await run_checks(settings, lambda _: iter(())) if check.name == name)


async def before_a_raise(settings: Settings, name: str) -> Check:
    """What the gate is told of one backend, and then the probe of the migration's target."""
    arms = Arms(settings)
    opened = asyncio.create_task(arms.run())
    try:
        migration = settings.migrations["phase6"]
        told = {check.name: check for check in await arms.health_of(migration)()}
        assert await arms.probe_of(migration)() is (told["backend new"].ok is not False)
        return told[name]
    finally:
        opened.cancel()
        await arms.close()


@pytest.mark.parametrize("ask", [in_preflight, before_a_raise])
async def test_a_target_over_https_with_its_authority_is_well_and_without_it_is_not(
    between: Callable[..., Settings], authority: Authority, ask: Callable[[Settings, str], Awaitable[Check]]
) -> None:
    async with listening(WELL, authority.server()) as origin:
        url = f"https://localhost:{origin.port}"
        known = await ask(between({"origin": url, "tls": {"ca": authority.ca}}), "backend new")
        unknown = await ask(between({"origin": url}), "backend new")
        assert known.ok, known
        assert unknown.ok is False
        assert "not trusted here" in unknown.found
        assert unknown.mend


@pytest.mark.parametrize("ask", [in_preflight, before_a_raise])
async def test_a_backend_at_the_apps_own_origin_has_the_apps_tls_where_it_says_nothing(
    between: Callable[..., Settings], authority: Authority, ask: Callable[[Settings, str], Awaitable[Check]]
) -> None:
    async with listening(WELL, authority.server()) as origin:
        app = {"origin": f"https://localhost:{origin.port}", "tls": {"ca": authority.ca}}
        elsewhere = f"https://127.0.0.1:{origin.port}"
        assert (await ask(between({"origin": f"{app['origin']}/"}, app=app), "backend new")).ok
        assert (await ask(between({"origin": elsewhere}, app=app), "backend new")).ok is False
        own = {"origin": app["origin"], "tls": {"ca": authority.ca, "server_name": "other.example"}}
        assert (await ask(between(own, app=app), "backend new")).ok is False, "what it says of its own counts"


@pytest.mark.parametrize("ask", [in_preflight, before_a_raise])
async def test_unix_targets_health_paths_dead_ports_and_hangs(
    between: Callable[..., Settings], tmp_path: Path, ask: Callable[[Settings, str], Awaitable[Check]]
) -> None:
    async def healthz(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answering(200 if b" /healthz " in head else 404, b"")(head, reader, writer)

    path = tmp_path / "new.sock"
    server = await asyncio.start_unix_server(Origin(healthz).serve, path)
    assert (await ask(between({"origin": f"unix:{path}", "health": "/healthz"}), "backend new")).ok
    ill = await ask(between({"origin": f"unix:{path}", "health": "/other"}), "backend new")
    assert ill.ok is False
    assert "answers 404 to GET /other; expected 2xx or 3xx" in ill.found
    server.close()

    dead = await ask(between({"origin": f"http://127.0.0.1:{closed_port()}"}), "backend new")
    assert dead.ok is False
    assert "connection refused" in dead.found
    async with listening(silent) as origin:
        new = {"origin": f"http://127.0.0.1:{origin.port}", "deadline": "200ms"}
        hung = await ask(between(new), "backend new")
        assert hung.ok is False
        assert "no answer to GET / within 0.2 s" in hung.found


async def test_preflight_asks_an_app_over_https_and_over_a_unix_socket(
    between: Callable[..., Settings], authority: Authority, tmp_path: Path
) -> None:
    new = {"origin": "http://127.0.0.1:1"}
    async with listening(answering(404, b""), authority.server()) as origin:
        app = {"origin": f"https://localhost:{origin.port}", "tls": {"ca": authority.ca}}
        assert (await in_preflight(between(new, app=app), "app")).ok
        app = {"origin": f"https://localhost:{origin.port}"}
        assert (await in_preflight(between(new, app=app), "app")).ok is False
    server = await asyncio.start_unix_server(Origin(WELL).serve, tmp_path / "app.sock")
    assert (await in_preflight(between(new, app={"origin": f"unix:{tmp_path}/app.sock"}), "app")).ok
    server.close()
    async with listening(answering(500, b"")) as origin:
        failing = await in_preflight(between(new, app={"origin": f"http://127.0.0.1:{origin.port}"}), "app")
        assert failing.ok is False
        assert "answers 500" in failing.found
