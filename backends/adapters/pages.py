"""Pages of a listing: how many entries one has, and the cursor with which the next one begins."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson

from backends.adapters.replies import OperationRefused, refused
from backends.adapters.times import EPOCH, to_micros
from backends.documents.port import INT_MAX, INT_MIN, Document, Value
from backends.documents.semantics import valid_id
from backends.operations import Call


@dataclass(frozen=True, slots=True)
class Limit:
    """The parameter ``limit``: how many entries a page has, 1 to ``maximum``."""

    default: int
    maximum: int
    name = "limit"

    @property
    def schema(self) -> dict[str, Any]:
        """As ``Parameter.schema``."""
        return {"type": "integer", "minimum": 1, "maximum": self.maximum, "default": self.default}

    def of(self, call: Call) -> int:
        """The limit that the call asks for. Raises ``OperationRefused``."""
        text = call.query.get(self.name)
        if text is None:
            return self.default
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= self.maximum):
            expected = f"expected a number from 1 to {self.maximum}"
            raise refused(400, "invalid_query", f"limit: {expected}, found {text[:40]!r}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Cursor:
    """The parameter ``cursor``: where a page begins; opaque to the client. Its parts have these types."""

    kinds: tuple[type, ...]
    name = "cursor"

    @property
    def schema(self) -> dict[str, Any]:
        """As ``Parameter.schema``."""
        return {"type": "string", "description": "next_cursor of the page before"}

    def of(self, call: Call) -> list[int | str] | None:
        """The cursor's parts; None where the call has no cursor. Raises ``OperationRefused``.

        A client can forge a cursor, so its parts are checked: strings must be document ids and integers 64-bit, or a
        store could not be queried with them.
        """
        text = call.query.get(self.name)
        if not text:
            return None
        try:
            parts = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValueError, binascii.Error):
            parts = None
        if (
            not isinstance(parts, list)
            or [type(part) for part in parts] != list(self.kinds)
            or not all(valid_id(part) if isinstance(part, str) else INT_MIN <= part <= INT_MAX for part in parts)
        ):
            raise invalid_cursor()
        return parts

    @staticmethod
    def write(*parts: int | str) -> str:
        """The cursor of these parts."""
        return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def invalid_cursor() -> OperationRefused:
    """The refusal of a cursor that is no page's ``next_cursor``."""
    return refused(400, "invalid_cursor", "cursor: expected the next_cursor of an earlier page")


# The cursor of a listing ordered by a time: the time of the last entry, and its document's id.
MOMENT_CURSOR: Final = Cursor((int, str))


def moment_cursor(call: Call) -> tuple[Value, str] | None:
    """``MOMENT_CURSOR`` as a query's ``start_after``. Raises ``OperationRefused``."""
    parts = MOMENT_CURSOR.of(call)
    if parts is None:
        return None
    at, doc_id = parts
    assert isinstance(at, int)
    assert isinstance(doc_id, str)
    try:
        return EPOCH + timedelta(microseconds=at), doc_id
    except OverflowError:
        raise invalid_cursor() from None


def moment_after(document: Document, field: str) -> str:
    """The cursor that continues a listing ordered by the time ``field`` after this document."""
    at = document.fields[field]
    assert isinstance(at, datetime)
    return MOMENT_CURSOR.write(to_micros(at), document.id)
