"""Values, documents, mutations and queries to and from Firestore's protobuf messages. Pure.

It uses the raw protobuf classes: proto-plus's wrappers cost several times the call they wrap.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from backends.documents.port import (
    NAME,
    Document,
    FieldPath,
    Fields,
    Mutation,
    Operator,
    Precondition,
    Query,
    Value,
)
from backends.kinds.firestore.messages import common, document, query, write

# Protobuf's generated classes have no types.
PbValue: Final[Any] = document.Value.pb()
PbDocument: Final[Any] = document.Document.pb()
PbWrite: Final[Any] = write.Write.pb()
PbQuery: Final[Any] = query.StructuredQuery.pb()
PbPrecondition: Final[Any] = common.Precondition.pb()
PbTransform: Final[Any] = write.DocumentTransform.FieldTransform.pb()

LEAST_ID: Final = "\x01"  # no id that a person or a program makes sorts before it
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SEGMENT: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)|`((?:[^`\\]|\\.)+)`", re.DOTALL)
OPERATORS: Final[dict[Operator, int]] = {
    "==": PbQuery.FieldFilter.EQUAL,
    "<": PbQuery.FieldFilter.LESS_THAN,
    "<=": PbQuery.FieldFilter.LESS_THAN_OR_EQUAL,
    ">": PbQuery.FieldFilter.GREATER_THAN,
    ">=": PbQuery.FieldFilter.GREATER_THAN_OR_EQUAL,
    "in": PbQuery.FieldFilter.IN,
}


def micros(timestamp: Any) -> int:
    """A protobuf Timestamp in whole microseconds since 1970."""
    return int(timestamp.seconds) * 1_000_000 + int(timestamp.nanos) // 1000


def fill_time(timestamp: Any, us: int) -> None:
    """Set a protobuf Timestamp to whole microseconds since 1970."""
    timestamp.seconds, rest = divmod(us, 1_000_000)
    timestamp.nanos = rest * 1000


class Names:
    """The names of one store's documents in its database, to and from the paths that phasegate uses.

    ``documents`` is the database's root with a trailing slash. ``prefix`` stands before the name of every collection,
    also of those below a document: indexes and exemptions belong to a collection's own name, wherever it is, so only
    then does this store share none with another app.
    """

    def __init__(self, documents: str, prefix: str = "") -> None:
        self.documents = documents
        self.prefix = prefix

    def name(self, path: str) -> str:
        """The resource name of the document at ``path``."""
        return self.documents + (path if not self.prefix else self._prefixed(path))

    def path(self, name: str) -> str:
        """The path of the document with this resource name; ``ValueError`` if it is not in a collection of ours."""
        bare = name[len(self.documents) :]
        prefix = self.prefix
        if not prefix:
            return bare
        segments = bare.split("/")
        for at in range(0, len(segments), 2):
            if not segments[at].startswith(prefix):
                raise ValueError(f"its collection's name does not begin with {prefix}")
            segments[at] = segments[at][len(prefix) :]
        return "/".join(segments)

    def collection_id(self, collection: str) -> str:
        """The last segment of a collection's name in the database."""
        return self.prefix + collection[collection.rfind("/") + 1 :]

    def parent(self, collection: str) -> str:
        """The resource name under which a query of the collection runs."""
        cut = collection.rfind("/")
        return self.documents[:-1] if cut < 0 else self.name(collection[:cut])

    def _prefixed(self, path: str) -> str:
        segments = path.split("/")
        segments[::2] = [self.prefix + segment for segment in segments[::2]]
        return "/".join(segments)


# ------------------------------------------------------------------------------------------------------ decoding


def _time(value: Any) -> datetime:
    stamp = value.timestamp_value
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


_DECODERS: Final[dict[str | None, Callable[[Any], Value]]] = {
    "null_value": lambda value: None,
    "boolean_value": lambda value: bool(value.boolean_value),
    "integer_value": lambda value: int(value.integer_value),
    "double_value": lambda value: float(value.double_value),
    "timestamp_value": _time,
    "string_value": lambda value: str(value.string_value),
    "bytes_value": lambda value: bytes(value.bytes_value),
    "array_value": lambda value: [decode_value(item) for item in value.array_value.values],
    "map_value": lambda value: decode_fields(value.map_value.fields),
}


_UNREAD: Final = {"geo_point_value": "geographical point", "reference_value": "reference", None: "value of no type"}
# Firestore stores a vector as a map with this entry.
_TYPE: Final = "__type__"


def decode_value(value: Any) -> Value:
    """The value; ``ValueError`` for a type the adapters never write (references, points on Earth, vectors)."""
    which = value.WhichOneof("value_type")
    decoder = _DECODERS.get(which)
    if decoder is None:
        raise ValueError(f"a field holds a {_UNREAD.get(which, which)}, which phasegate does not read")
    return decoder(value)


def decode_fields(fields: Any) -> Fields:
    """A protobuf map of values as a dictionary. Raises ``ValueError`` as ``decode_value``."""
    if _TYPE in fields:
        special = fields[_TYPE].string_value[:40].strip("_")
        raise ValueError(f"a field holds a {special}, which phasegate does not read")
    return {name: decode_value(value) for name, value in fields.items()}


def decode_document(message: Any, names: Names) -> Document:
    """The document; ``ValueError`` for one that holds what ``decode_value`` does not read."""
    return Document(
        names.path(message.name),
        decode_fields(message.fields),
        micros(message.create_time),
        micros(message.update_time),
    )


# ------------------------------------------------------------------------------------------------------ encoding


def fill_value(into: Any, value: Value) -> None:
    """Write the value into a protobuf Value."""
    match value:
        case None:
            into.null_value = 0
        case bool():
            into.boolean_value = value
        case int():
            into.integer_value = value
        case float():
            into.double_value = value
        case str():
            into.string_value = value
        case datetime():
            fill_time(into.timestamp_value, (value - _EPOCH) // timedelta(microseconds=1))
        case bytes():
            into.bytes_value = value
        case list():
            into.array_value.SetInParent()
            for item in value:
                fill_value(into.array_value.values.add(), item)
        case dict():
            into.map_value.SetInParent()
            for name, item in value.items():
                fill_value(into.map_value.fields[name], item)


def encode_path(path: FieldPath) -> str:
    """A field path as Firestore spells it: segments that are not plain identifiers in backticks."""
    return ".".join(name if _PLAIN.fullmatch(name) else _quoted(name) for name in path)


def decode_path(text: str) -> FieldPath:
    """The inverse of ``encode_path``. Raises ``ValueError``."""
    names, at = [], 0
    while match := _SEGMENT.match(text, at):
        plain, quoted = match.groups()
        names.append(plain or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL))
        at = match.end()
        if at == len(text):
            return tuple(names)
        if text[at] != ".":
            break
        at += 1
    raise ValueError(f"{text!r} is no field path: expected names with a dot between them, in backticks where needed")


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def encode_mutation(mutation: Mutation, names: Names) -> Any:
    """The mutation as a protobuf Write."""
    if mutation.fields is None:
        message = PbWrite(delete=names.name(mutation.path))
    else:
        message = PbWrite()
        message.update.name = names.name(mutation.path)
        for name, value in mutation.fields.items():
            fill_value(message.update.fields[name], value)
        if mutation.mask is not None:
            message.update_mask.SetInParent()
            message.update_mask.field_paths.extend(map(encode_path, mutation.mask))
        for transform in mutation.transforms:
            entry = PbTransform(field_path=encode_path(transform.field))
            fill_value(getattr(entry, transform.op), transform.operand)
            message.update_transforms.append(entry)
    if mutation.precondition is not None:
        message.current_document.CopyFrom(_encode_precondition(mutation.precondition))
    return message


def _encode_precondition(precondition: Precondition) -> Any:
    message = PbPrecondition()
    if precondition.update_time is not None:
        fill_time(message.update_time, precondition.update_time)
    elif precondition.exists is not None:
        message.exists = precondition.exists
    return message


def encode_query(question: Query, names: Names) -> Any:
    """The query as a protobuf StructuredQuery, to be run under ``names.parent(question.collection)``."""
    message = PbQuery()
    collection = question.collection
    message.from_.add(collection_id=names.collection_id(collection))
    filters = message.where.composite_filter.filters if len(question.where) > 1 else None
    if filters is not None:
        message.where.composite_filter.op = PbQuery.CompositeFilter.AND
    for condition in question.where:
        entry = filters.add() if filters is not None else message.where
        if condition.op == "==" and condition.value is None:
            entry.unary_filter.field.field_path = encode_path((condition.field,))
            entry.unary_filter.op = PbQuery.UnaryFilter.IS_NULL
        else:
            entry.field_filter.field.field_path = encode_path((condition.field,))
            entry.field_filter.op = OPERATORS[condition.op]
            fill_value(entry.field_filter.value, condition.value)
    direction = PbQuery.DESCENDING if question.descending else PbQuery.ASCENDING
    if question.order != NAME:
        message.order_by.add(direction=direction).field.field_path = encode_path((question.order,))
    message.order_by.add(direction=direction).field.field_path = NAME
    if question.start_after is not None:
        value, doc_id = question.start_after
        if question.order != NAME:
            fill_value(message.start_at.values.add(), value)
        message.start_at.values.add().reference_value = names.name(f"{collection}/{doc_id}")
        message.start_at.before = False
    if question.limit is not None:
        message.limit.value = question.limit
    return message


def encode_scan(pattern: str, after: str | None, limit: int | None, names: Names) -> tuple[str, Any]:
    """The documents of a pattern of collections by path: the parent, and the StructuredQuery.

    ``after`` is the resource name of a document, after which they begin. A pattern with ``*`` is a query of the
    collection group, from where the pattern's first collection begins to where it ends. Documents of the group in
    collections that do not fit the pattern are in the result too.
    """
    is_group = "/" in pattern
    first = names.documents + names.collection_id(pattern[: pattern.find("/")] if is_group else pattern)
    message = PbQuery()
    message.from_.add(collection_id=names.collection_id(pattern), all_descendants=is_group)
    message.order_by.add(direction=PbQuery.ASCENDING).field.field_path = NAME
    if after is not None:
        message.start_at.values.add().reference_value = after
        message.start_at.before = False
    elif is_group:
        message.start_at.values.add().reference_value = f"{first}/{LEAST_ID}"
        message.start_at.before = True
    if is_group:
        message.end_at.values.add().reference_value = f"{first}{LEAST_ID}/{LEAST_ID}"
        message.end_at.before = True
    if limit is not None:
        message.limit.value = limit
    return names.documents[:-1], message
