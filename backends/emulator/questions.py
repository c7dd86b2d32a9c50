"""Firestore's structured queries as questions to the store: the inverse of the client's ``encode_query``. Pure.

There are two kinds: a query of one collection, as the port has it, and a walk through documents by their names, in
one collection or in all collections of one id (a collection group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from backends.documents.patterns import order
from backends.documents.port import ID_BYTES, NAME, FieldPath, Filter, Operator, Query, Value
from backends.emulator.refusal import invalid, not_offered
from backends.emulator.resources import collection_name, document_path, parent_path
from backends.emulator.writes import field_path, value_of
from backends.kinds.firestore.codec import OPERATORS, PbQuery

_FILTERS: Final[dict[int, Operator]] = {number: op for op, number in OPERATORS.items()}
_COMPARED_BYTES: Final = 1_500  # of a text in a filter: no longer one is indexed
_BEFORE_ALL: Final = ""  # sorts before every id
_AFTER_ALL: Final = "\U0010ffff" * (ID_BYTES // 4)  # the last id that there can be


class NameBound(NamedTuple):
    """An end of a walk: a document's path, by segments, and whether that document is in the walk."""

    at: tuple[str, ...]
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """Documents in the order of their names: of a collection, or of every collection of its id below ``parent``."""

    parent: str  # the path of a document; empty: the root
    collection_id: str
    everywhere: bool
    low: NameBound | None
    high: NameBound | None
    limit: int | None


Asked: TypeAlias = "Query | Walk"


class Question(NamedTuple):
    """What is asked, how many documents of the result are left out first, and which fields are wanted (None: all)."""

    database: str
    asked: Asked
    offset: int
    mask: tuple[FieldPath, ...] | None


def decode_question(parent: str, message: Any) -> Question:
    """A StructuredQuery under a parent. Raises ``RefusedCall``."""
    database, above = parent_path(parent)
    if len(message.from_) != 1 or not message.from_[0].collection_id:
        raise not_offered("queries of several collections, or of all of them")
    if message.HasField("find_nearest"):
        raise not_offered("vector search")
    if message.offset < 0 or (message.HasField("limit") and message.limit.value < 0):
        raise invalid("limit and offset are not negative")
    source = message.from_[0]
    collection = collection_name(above, source.collection_id)
    where = _where(message.where) if message.HasField("where") else ()
    field, descending = _order(message.order_by, where)
    limit = message.limit.value + message.offset if message.HasField("limit") else None
    mask = tuple(field_path(each.field_path) for each in message.select.fields if each.field_path != NAME)
    asked: Asked
    if field == NAME and not where:
        if descending:
            raise not_offered("queries in descending order of ids")
        low, high = (
            _bound(message, name, database, collection) if message.HasField(name) else None
            for name in ("start_at", "end_at")
        )
        asked = Walk(above, source.collection_id, source.all_descendants, low, high, limit)
    elif source.all_descendants:
        raise not_offered("queries of a collection group with filters or in the order of a field")
    elif message.HasField("end_at"):
        raise not_offered("end_at and end_before in the order of a field; a filter does the same")
    else:
        start = _start(message.start_at, field, descending, database) if message.HasField("start_at") else None
        # A limit of 0 is no Query's; ``limited`` leaves the one document out again.
        asked = Query(collection, where, field, descending, None if limit is None else max(1, limit), start)
    wanted = None if not message.HasField("select") else mask
    return Question(database, asked, message.offset, wanted)


def _where(message: Any) -> tuple[Filter, ...]:
    match message.WhichOneof("filter_type"):
        case "composite_filter":
            if message.composite_filter.op != PbQuery.CompositeFilter.AND:
                raise not_offered("filters with OR")
            return tuple(each for part in message.composite_filter.filters for each in _where(part))
        case "unary_filter":
            if message.unary_filter.op != PbQuery.UnaryFilter.IS_NULL:
                raise not_offered("IS_NOT_NULL, IS_NAN and IS_NOT_NAN")
            return (Filter(_field(message.unary_filter.field), "==", None),)
        case "field_filter":
            each = message.field_filter
            if each.op not in _FILTERS:
                raise not_offered(f"the filter {PbQuery.FieldFilter.Operator.Name(each.op)}")
            value = value_of(each.value)
            if _FILTERS[each.op] == "in" and not (isinstance(value, list) and value):
                raise invalid("IN takes a list of one value or more")
            for one in value if isinstance(value, list) else [value]:
                _check_compared(one)
            return (Filter(_field(each.field), _FILTERS[each.op], value),)
    raise invalid("a filter without a condition")


def _check_compared(value: Value) -> None:
    size = len(value.encode()) if isinstance(value, str) else len(value) if isinstance(value, bytes) else 0
    if size >= _COMPARED_BYTES:
        raise invalid(f"a filter's value has {size} bytes, expected less than {_COMPARED_BYTES}")


def _field(message: Any) -> str:
    names = field_path(message.field_path)
    if len(names) > 1:
        raise not_offered(f"queries by a field inside a map ({message.field_path})")
    if names[0] == NAME:
        raise not_offered("filters on documents' names; start_at and end_at do the same")
    return names[0]


def _order(orders: Any, where: tuple[Filter, ...]) -> tuple[str, bool]:
    """The ordered field, and whether it is descending."""
    unequal = {each.field for each in where if each.op not in ("==", "in")}
    told = [(each.field.field_path, each.direction == PbQuery.DESCENDING) for each in orders]
    if not told:
        told = [(field, False) for field in unequal] or [(NAME, False)]
    elif told[0][0] != NAME:
        told[0] = (_field(orders[0].field), told[0][1])
    field, descending = told[0]
    rest = told[1:]
    if field != NAME and rest and rest[0] != (NAME, descending):
        raise not_offered("queries in the order of several fields, or of ids in the other direction")
    if unequal - {field}:
        raise not_offered("an inequality on another field than the first that is ordered by")
    return field, descending


def _bound(message: Any, name: str, database: str, collection: str) -> NameBound:
    cursor = getattr(message, name)
    is_start = name == "start_at"
    if len(cursor.values) != 1:
        raise invalid(f"{name} has {len(cursor.values)} values, and the query is ordered by __name__ alone")
    path = _reference(cursor.values[0], database)
    return NameBound(order(path), inclusive=cursor.before is is_start)


def _reference(value: Any, database: str) -> str:
    if value.WhichOneof("value_type") != "reference_value":
        raise invalid("a cursor's place in the order of __name__ is a reference")
    return document_path(value.reference_value, database)


def _start(cursor: Any, field: str, descending: bool, database: str) -> tuple[Value, str]:
    """The place in the order of values and ids after which the result begins."""
    inclusive = cursor.before
    if field == NAME:
        if len(cursor.values) != 1 or inclusive:
            raise not_offered("start_at in the order of ids together with filters")
        return None, _reference(cursor.values[0], database).rpartition("/")[2]
    if not 1 <= len(cursor.values) <= 2:
        raise invalid(f"start_at has {len(cursor.values)} values; expected one of the field, and a reference")
    value = value_of(cursor.values[0])
    if len(cursor.values) == 1:  # of every id: the result begins before all of them, or after
        return value, _BEFORE_ALL if inclusive is not descending else _AFTER_ALL
    if inclusive:
        raise not_offered("start_at a document; start_after is here")
    return value, _reference(cursor.values[1], database).rpartition("/")[2]
