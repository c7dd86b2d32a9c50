"""A request's body and query parameters, decoded by their declared types or refused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import msgspec

from backends.adapters.replies import refused
from backends.adapters.times import parse_time
from backends.operations import Call

T = TypeVar("T")


class Parameter(Protocol):
    """A query parameter: its name, and its JSON schema for the OpenAPI document. It is always optional."""

    @property
    def name(self) -> str:
        """As it is written in the query string."""

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time: RFC 3339, or seconds since 1970."""

    name: str

    @property
    def schema(self) -> dict[str, Any]:
        """As ``Parameter.schema``."""
        return {"type": "string", "description": "RFC 3339, or seconds since 1970"}

    def of(self, call: Call) -> datetime | None:
        """The time that the call asks for; None if it names none. Raises ``OperationRefused``."""
        text = call.query.get(self.name)
        if text is None:
            return None
        moment = parse_time(text)
        if moment is None:
            expected = "expected a time such as 2026-01-31T12:00:00Z"
            raise refused(400, "invalid_query", f"{self.name}: {expected}, found {text[:40]!r}")
        return moment


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    name: str
    words: tuple[str, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """As ``Parameter.schema``."""
        return {"type": "string", "enum": list(self.words)}

    def of(self, call: Call) -> str | None:
        """The word that the call asks for; None if it names none. Raises ``OperationRefused``."""
        word = call.query.get(self.name)
        if word is not None and word not in self.words:
            expected = ", ".join(self.words)
            raise refused(400, "invalid_query", f"{self.name}: expected one of {expected}, found {word[:40]!r}")
        return word


def read_body(body: bytes, shape: type[T], example: str) -> T:
    """The body decoded as ``shape``. Raises ``OperationRefused``, which says what was found and what was expected."""
    if not body:
        raise refused(400, "invalid_body", f"the body is empty, expected JSON such as {example}")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise refused(400, "invalid_body", f"{problem}; expected JSON such as {example}") from None
    except UnicodeDecodeError:
        raise refused(400, "invalid_body", "the body is not UTF-8") from None
