"""The configuration of the data plane: ``[app]``, ``[proxy]`` and what of a migration the workers need.

Shapes, defaults, and what shapes cannot say; ``control.plan.settings`` reads files. ``Plan`` is what a worker
process is handed as JSON.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from backends.backend import Backend
from backends.disk import Sync
from backends.durations import Duration
from backends.kinds.registry import KINDS
from backends.origin import OriginTls, Reach, origin_mistakes, place_tls, same_origin

Count = Annotated[int, Meta(ge=0)]


class CannotStartError(Exception):
    """Something outside this process is in the way; the message says what, and what to do."""


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The app behind the proxy: where everything goes that is no data request."""

    origin: str
    connect_timeout_s: Duration = msgspec.field(default=Duration(2.0), name="connect_timeout")
    timeout_s: Duration = msgspec.field(default=Duration(60.0), name="timeout")  # to the first byte of the answer
    # Between two pieces of an answer, or of a tunnel either way. Long: event streams are silent at times.
    quiet_timeout_s: Duration = msgspec.field(default=Duration(600.0), name="quiet_timeout")
    max_idle: Count = 256  # idle connections kept, a worker
    max_connections: Annotated[int, Meta(ge=1)] = 1024  # open connections, a worker; beyond it 503
    max_body: Count = 0  # of a request, in bytes; 0: any
    host: str | None = None  # the Host that the app is told; none: the client's
    tls: OriginTls | None = None


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A listener's certificate, in PEM files that are looked at again when they change."""

    certificate: str  # with the chain behind it
    key: str
    minimum: Literal["1.2", "1.3"] = "1.2"


class Listener(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address beyond those of ``listen``, with what is spoken on it."""

    address: str
    tls: Tls | None = None
    proxy_protocol: bool = False  # each connection begins with a PROXY header, from a trusted network alone


class Errors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of the errors that the proxy answers with by itself; none configured: JSON."""

    # the whole body: `{status}`, `{reason}`, `{code}` and `{message}` in it are replaced, anything else stays
    template: str
    content_type: str = "text/html; charset=utf-8"


class AccessLog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of JSON a request, appended to a file; errors are always logged, the rest by ``sample``."""

    path: str
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listeners and their limits."""

    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    listeners: tuple[Listener, ...] = ()
    workers: int = 0  # 0: one a core
    sticky: tuple[str, ...] = ("header:x-user-id", "cookie", "ip")
    run_dir: str = ".phasegate"
    # When the mock's journal and the change log are synced to the disk: before an answer, every second, or never.
    sync: Sync = Sync.EVERY_SECOND
    max_head: Annotated[int, Meta(ge=1024, le=1048576)] = 32 * 1024
    max_body: Count = 1024 * 1024  # of a data request; 0: any
    max_connections: Annotated[int, Meta(ge=1)] = 16384  # a worker; beyond it 503
    max_connections_per_address: Count = 0  # a worker; beyond it 429; 0: any
    pipeline: Annotated[int, Meta(ge=1)] = 16  # requests of one client answered in one go, before others have a turn
    min_rate: Count = 1024  # bytes a second that a body must move at, either way; 0: any
    trusted: tuple[str, ...] = ()  # networks whose own forwarding fields and PROXY headers are believed
    head_timeout_s: Duration = msgspec.field(default=Duration(10.0), name="head_timeout")
    # Over which ``min_rate`` is seen.
    body_timeout_s: Duration = msgspec.field(default=Duration(30.0), name="body_timeout")
    idle_timeout_s: Duration = msgspec.field(default=Duration(75.0), name="idle_timeout")
    drain_timeout_s: Duration = msgspec.field(default=Duration(30.0), name="drain_timeout")
    errors: Errors | None = None
    access_log: AccessLog | None = None

    def all_listeners(self) -> tuple[Listener, ...]:
        """Every listener, in the order in which its sockets are bound and handed on."""
        return (*(Listener(address) for address in self.listen), *self.listeners)


class Mode(StrEnum):
    """Which arms answer a migration's requests: both by its phases, or one alone whatever its phase."""

    HYBRID = "hybrid"
    SOURCE = "source"
    TARGET = "target"

    @classmethod
    def _missing_(cls, value: object) -> Mode | None:
        # Configurations and checkpoints of earlier versions name an arm by the kind that was behind it then.
        return {"mock": cls.SOURCE, "firestore": cls.TARGET}.get(str(value))


# Which side answers writes. ``arm``: the one that the visitor is on; ``source``: the source, until the migration is
# completed.
Writes = Literal["arm", "source"]


class Route(msgspec.Struct, frozen=True):
    """A migration as the data plane sees it: which paths are its, and which backends stand behind its arms."""

    name: str
    routes: tuple[str, ...]
    source: str
    target: str
    mode: Mode = Mode.HYBRID
    writes: Writes = "arm"
    was: str | None = None  # its earlier name: a run of version 0.1 splits by the name that it began with


class Plan(msgspec.Struct, frozen=True):
    """Everything a worker is told: written to its standard input as JSON when it is spawned."""

    app: App
    proxy: Proxy
    backends: dict[str, Backend]
    migrations: tuple[Route, ...]
    extensions: tuple[str, ...] = ()  # ``backends.extensions.added()`` where the plan was made


_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::\d{1,5})?")
_MEDIA_TYPE: Final = re.compile(r"[\x20-\x7e]+")


def reach_of(backend: Backend, app: App) -> Reach | None:
    """How a backend is reached that is an HTTP origin; None for one that keeps documents.

    One with the app's own origin is reached with the app's TLS, where it says nothing of its own.
    """
    found = KINDS[backend.kind].reach
    if found is None:
        return None
    reach = found(backend)
    if reach.tls is None and app.tls is not None and same_origin(reach.url, app.origin):
        return reach._replace(tls=app.tls)
    return reach


# What the shapes of ``[app]`` and ``[proxy]`` cannot say, as (key, what was expected and found); a check each.
# Addresses to listen on are not looked at here: they may collide with those of other sections.

Facts = Iterator[tuple[str, str]]


def _app_origin(app: App) -> Facts:
    yield from origin_mistakes(app.origin, app.tls)


def _app_host(app: App) -> Facts:
    if app.host is not None and not _HOST.fullmatch(app.host):
        yield "host", f'expected a host such as "app.example.com", found "{app.host}"'


def _trusted(proxy: Proxy) -> Facts:
    for i, network in enumerate(proxy.trusted):
        yield from _wrong(f"trusted[{i}]", _network, network)


def _proxy_headers(proxy: Proxy) -> Facts:
    for i, listener in enumerate(proxy.listeners):
        if listener.proxy_protocol and not proxy.trusted:
            yield f"listeners[{i}].proxy_protocol", "expected proxy.trusted to say whose headers are believed"


def _error_form(proxy: Proxy) -> Facts:
    if proxy.errors is not None and not _MEDIA_TYPE.fullmatch(proxy.errors.content_type):
        yield "errors.content_type", "expected a media type in printable ASCII"


def _head_timeout(proxy: Proxy) -> Facts:
    yield from _above_0("head_timeout", proxy.head_timeout_s)


def _body_timeout(proxy: Proxy) -> Facts:
    yield from _above_0("body_timeout", proxy.body_timeout_s)


def _idle_timeout(proxy: Proxy) -> Facts:
    yield from _above_0("idle_timeout", proxy.idle_timeout_s)


def _above_0(key: str, duration: Duration) -> Facts:
    if duration <= 0:
        yield key, f"expected more than 0, found {duration.shown}"


OF_APP: Final[tuple[Callable[[App], Facts], ...]] = (_app_origin, _app_host)
OF_PROXY: Final[tuple[Callable[[Proxy], Facts], ...]] = (
    *(_trusted, _proxy_headers, _error_form),
    *(_head_timeout, _body_timeout, _idle_timeout),
)


def _network(text: str) -> None:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'expected a network such as "10.0.0.0/8", found "{text}"') from None


def _wrong(path: str, check: Callable[[str], object], text: str) -> Iterator[tuple[str, str]]:
    try:
        check(text)
    except ValueError as error:
        yield path, str(error)


def located(app: App, proxy: Proxy, place: Callable[[str], str]) -> tuple[App, Proxy]:
    """The sections with ``place`` put around each file that they name."""
    replace = msgspec.structs.replace
    app = replace(app, tls=place_tls(app.tls, place))
    listeners = tuple(
        one
        if one.tls is None
        else replace(one, tls=replace(one.tls, certificate=place(one.tls.certificate), key=place(one.tls.key)))
        for one in proxy.listeners
    )
    log = proxy.access_log
    log = None if log is None else replace(log, path=place(log.path))
    return app, replace(proxy, run_dir=place(proxy.run_dir), listeners=listeners, access_log=log)
