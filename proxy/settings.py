"""The configuration of the data plane: ``[app]``, ``[proxy]`` and what of a migration the workers need.

Shapes and defaults only; ``control.settings`` reads files. ``Plan`` is what a worker process is handed as JSON.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from backends.settings import Backend, Duration


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The app behind the proxy: where everything goes that is no data request."""

    origin: str
    connect_timeout_s: Duration = msgspec.field(default=Duration(2.0), name="connect_timeout")
    timeout_s: Duration = msgspec.field(default=Duration(60.0), name="timeout")  # to the first byte of the answer
    max_idle: int = 256  # idle connections kept, a worker
    max_connections: int = 1024  # open connections, a worker; beyond it 503


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listeners and their limits."""

    listen: tuple[str, ...] = ("127.0.0.1:8080",)
    workers: int = 0  # 0: one a core
    sticky: tuple[str, ...] = ("header:x-user-id", "cookie", "ip")
    run_dir: str = ".phasegate"
    max_head: int = 32 * 1024
    max_body: int = 1024 * 1024  # of a data request
    trusted: tuple[str, ...] = ()  # networks whose own forwarding fields are kept
    head_timeout_s: Duration = msgspec.field(default=Duration(10.0), name="head_timeout")
    body_timeout_s: Duration = msgspec.field(default=Duration(30.0), name="body_timeout")  # of a data request
    idle_timeout_s: Duration = msgspec.field(default=Duration(75.0), name="idle_timeout")
    drain_timeout_s: Duration = msgspec.field(default=Duration(30.0), name="drain_timeout")


class Route(msgspec.Struct, frozen=True):
    """A migration as the data plane sees it: which paths are its, and which backends stand behind its arms."""

    name: str
    routes: tuple[str, ...]
    source: str
    target: str
    mode: Literal["mock", "firestore", "hybrid"] = "hybrid"


class Plan(msgspec.Struct, frozen=True):
    """Everything a worker is told: written to its standard input as JSON when it is spawned."""

    app: App
    proxy: Proxy
    backends: dict[str, Backend]
    migrations: tuple[Route, ...]
