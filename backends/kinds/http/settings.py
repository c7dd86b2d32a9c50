"""The settings of an HTTP origin: ``[backends.NAME]`` with ``kind = "http"``. Pure."""

from __future__ import annotations

import msgspec

from backends.backend import Backend
from backends.durations import Duration
from backends.origin import OriginTls


class Http(Backend, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="http"):
    """Another HTTP origin standing as an arm."""

    origin: str  # where it listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/path/of/a/socket`
    deadline_s: Duration = msgspec.field(default=Duration(5.0), name="deadline")  # to the first byte of its answer
    tls: OriginTls | None = None  # TLS toward it; none: the app's, where the origin is the app's own
    health: str | None = None  # a path that answers GET with 2xx or 3xx while it is well; none: any answer will do
