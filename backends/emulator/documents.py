"""Documents of the store as Firestore's messages: the inverse of the client's ``decode_document``. Pure."""

from __future__ import annotations

from typing import Any

from backends.documents.port import Document, FieldPath
from backends.emulator.writes import projected
from backends.kinds.firestore.codec import fill_time, fill_value


def encode_document(into: Any, document: Document, root: str, mask: tuple[FieldPath, ...] | None = None) -> None:
    """Write it into a protobuf Document. ``root`` stands before its path; ``mask`` names the fields wanted."""
    into.name = root + document.path
    fields = document.fields if mask is None else projected(document.fields, mask)
    for name, value in fields.items():
        fill_value(into.fields[name], value)
    fill_time(into.create_time, document.create_time)
    fill_time(into.update_time, document.update_time)
