"""The settings of an HTTP origin: ``[backends.NAME]`` with ``kind = "http"``. Pure."""

from __future__ import annotations

import msgspec

from backends.backend import Backend
from backends.durations import Duration
from backends.origin import OriginTls


class Http(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """An HTTP origin as one side of a migration."""

    origin: str  # where it listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/path/of/a/socket`
    deadline_s: Duration = msgspec.field(default=Duration(5.0), name="deadline")  # to the first byte of its answer
    tls: OriginTls | None = None  # TLS to it; none: the app's TLS settings, if it is the app's own origin
    health: str | None = None  # a path that answers GET with 2xx or 3xx while it is healthy; none: any answer will do
