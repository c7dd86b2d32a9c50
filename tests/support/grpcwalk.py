"""What a Firestore or an emulator holds in the collections of the three adapters, read by gRPC without the product.

``sides.firestore`` reads the same by REST, which phasegate's own emulator does not speak.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import grpc
from google.cloud.firestore_v1.types import firestore, query

from tests.support.sides import BELOW, TOP

_Request: Final[Any] = firestore.RunQueryRequest.pb()
_Response: Final[Any] = firestore.RunQueryResponse.pb()
_Query: Final[Any] = query.StructuredQuery.pb()
_PAGE: Final = 2000
_WITHIN_S: Final = 300.0
_OPTIONS: Final = [("grpc.max_receive_message_length", -1)]


def stored(address: str, project: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document's path and plain fields, as ``sides`` has them, collection by collection."""
    root = f"projects/{project}/databases/(default)/documents"
    nested = {name for names in BELOW.values() for name in names}
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        run = channel.unary_stream(
            "/google.firestore.v1.Firestore/RunQuery",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_Response.FromString,
        )
        for collection in (*TOP, *sorted(nested)):
            for document in _documents(run, root, collection, is_group=collection in nested):
                fields = {name: _value(value) for name, value in document.fields.items()}
                yield document.name.removeprefix(f"{root}/"), fields


def _documents(run: Any, root: str, collection: str, *, is_group: bool) -> Iterator[Any]:
    last = ""
    while True:
        asked = _Query()
        asked.from_.add(collection_id=collection, all_descendants=is_group)
        asked.order_by.add(direction=_Query.ASCENDING).field.field_path = "__name__"
        asked.limit.value = _PAGE
        if last:
            asked.start_at.values.add().reference_value = last
        request = _Request(parent=root, structured_query=asked)
        answers = run(request, timeout=_WITHIN_S, metadata=(("authorization", "Bearer owner"),))
        page = [answer.document for answer in answers if answer.HasField("document")]
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1].name


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    content = getattr(value, kind)
    match kind:
        case "null_value":
            return None
        case "timestamp_value":
            return ("time", content.seconds * 1_000_000 + content.nanos // 1000)
        case "array_value":
            return [_value(item) for item in content.values]
        case "map_value":
            return {name: _value(item) for name, item in content.fields.items()}
        case _:
            return content
