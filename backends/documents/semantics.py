"""Firestore's rules as pure functions: order of values, matching, the effect of writes, limits.

Pure. Source: https://cloud.google.com/firestore/docs/concepts/data-types and the v1 RPC reference; where those are
silent, the emulator's behaviour. Values are compared by type first; integers and doubles are compared as one type
but stored as two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from backends.documents.port import (
    COMMIT_LIMIT,
    DEPTH_LIMIT,
    DOCUMENT_BYTES,
    FIELD_PATH_BYTES,
    ID_BYTES,
    INT_MAX,
    INT_MIN,
    VALUE_BYTES,
    Document,
    FieldPath,
    Fields,
    Filter,
    Mutation,
    Precondition,
    Reason,
    Rejected,
    Transform,
    Value,
)

SortKey: TypeAlias = tuple[Any, ...]

# https://cloud.google.com/firestore/docs/storage-size
NUMBER_BYTES: Final = 8
MAP_BYTES: Final = 32  # of a map itself, beside what it holds

_RANK: Final[dict[type, int]] = {
    type(None): 0,
    bool: 1,
    int: 2,
    float: 2,
    datetime: 3,
    str: 4,
    bytes: 5,
    list: 6,
    dict: 7,
}


def sort_key(value: Value) -> SortKey:
    """A key that orders values as Firestore does. Strings by code point, which is the order of their UTF-8."""
    kind = type(value)
    if kind is list:
        return (6, tuple(sort_key(item) for item in value))  # type: ignore[union-attr]  # narrowed by type()
    if kind is dict:
        items = sorted(value.items())  # type: ignore[union-attr]  # narrowed by type()
        return (7, tuple((name, sort_key(item)) for name, item in items))
    if kind is type(None):
        return (0,)
    return (_RANK[kind], value)


def matches(document: Document, condition: Filter) -> bool:
    """Whether the document satisfies the condition; a document without the field never does."""
    if condition.field not in document.fields:
        return False
    key = sort_key(document.fields[condition.field])
    if condition.op == "in":
        assert isinstance(condition.value, list)
        return any(key == sort_key(item) for item in condition.value)
    operand = sort_key(condition.value)
    if condition.op == "==":
        return key == operand
    if key[0] != operand[0]:
        return False
    match condition.op:
        case "<":
            return key < operand
        case "<=":
            return key <= operand
        case ">":
            return key > operand
        case ">=":
            return key >= operand


def same(a: Value, b: Value) -> bool:
    """Equal in value and in type, also inside lists and maps: 1, 1.0 and True are three values."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        assert isinstance(b, dict)
        return a.keys() == b.keys() and all(same(value, b[name]) for name, value in a.items())
    if isinstance(a, list):
        assert isinstance(b, list)
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def refuse(current: Document | None, precondition: Precondition | None, path: str) -> None:
    """Raise ``Rejected`` unless the precondition holds of the stored document."""
    if precondition is None:
        return
    if precondition.exists is False and current is not None:
        raise Rejected(Reason.EXISTS, f"{path} already exists")
    if precondition.exists is True and current is None:
        raise Rejected(Reason.MISSING, f"{path} does not exist")
    if precondition.update_time is not None and (current is None or current.update_time != precondition.update_time):
        raise Rejected(Reason.CHANGED, f"{path} has changed since it was read")


def applied(current: Document | None, mutation: Mutation, time: int) -> Document | None:
    """The stored document after the mutation, ignoring preconditions; None if it is deleted.

    A write that changes nothing returns ``current`` itself, so its update time stays too.
    """
    if mutation.fields is None:
        return None
    if mutation.mask is None:
        fields = dict(mutation.fields)
    else:
        fields = dict(current.fields) if current is not None else {}
        for path in mutation.mask:
            _set(fields, path, *_found(mutation.fields, path))
    for transform in mutation.transforms:
        exists, value = _found(fields, transform.field)
        _set(fields, transform.field, True, _transformed(transform, value if exists else None))
    if current is None:
        return Document(mutation.path, fields, time, time)
    if same(fields, current.fields):
        return current
    return Document(mutation.path, fields, current.create_time, time)


def _found(fields: Fields, path: FieldPath) -> tuple[bool, Value]:
    value: Value = fields
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def _set(fields: Fields, path: FieldPath, exists: bool, value: Value) -> None:
    """Set or remove the field, copying each map on the path: the maps may belong to the stored document."""
    *parents, last = path
    for name in parents:
        child = fields.get(name)
        if not isinstance(child, dict):
            if not exists:
                return
            child = {}
        child = dict(child)
        fields[name] = child
        fields = child
    if exists:
        fields[last] = value
    else:
        fields.pop(last, None)


def _transformed(transform: Transform, value: Value) -> int | float:
    operand = transform.operand
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if transform.op == "maximum":
        return operand if number is None or operand > number else number
    if number is None:
        return operand
    total = number + operand
    return max(INT_MIN, min(INT_MAX, total)) if isinstance(total, int) else total


def check(mutations: Sequence[Mutation]) -> None:
    """Raise ``Rejected(INVALID)`` for what no store accepts, before anything is sent.

    The limits are Firestore's: https://cloud.google.com/firestore/quotas.
    """
    if len(mutations) > COMMIT_LIMIT:
        raise Rejected(Reason.INVALID, f"a commit takes at most {COMMIT_LIMIT} writes, found {len(mutations)}")
    if len({mutation.path for mutation in mutations}) < len(mutations):
        raise Rejected(Reason.INVALID, "a commit writes a document at most once")
    for mutation in mutations:
        check_path(mutation.path)
        if mutation.fields is not None:
            for named in mutation.mask or ():
                _check_field_path(named, mutation.path)
            for transform in mutation.transforms:
                _check_field_path(transform.field, mutation.path)
            check_size(mutation.path, _size_of_document(mutation.path, mutation.fields))


def check_size(path: str, size: int) -> None:
    """Raise ``Rejected(INVALID)`` for a document that is too large."""
    if size > DOCUMENT_BYTES:
        raise Rejected(Reason.INVALID, f"{path} is {size} bytes, a document takes at most {DOCUMENT_BYTES}")


def check_path(path: str) -> None:
    """Raise ``Rejected(INVALID)`` for an invalid document path."""
    segments = path.split("/")
    if len(segments) % 2 or not all(map(valid_id, segments)):
        raise Rejected(Reason.INVALID, f"{path!r} is no document path")


def valid_id(name: str) -> bool:
    """Whether a collection or document may have this id. (``/`` separates segments and is never in one.)"""
    if not name or name in (".", "..") or "/" in name or (name.startswith("__") and name.endswith("__")):
        return False
    try:
        return len(name.encode()) <= ID_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def size_of(document: Document) -> int:
    """The document's size in bytes."""
    return _size_of_document(document.path, document.fields)


def growth(current: Document, mutation: Mutation) -> int:
    """An upper bound of the bytes that a merge adds to the document. Reads only the fields that it changes."""
    assert mutation.fields is not None
    fields = current.fields
    added = {n: v for n, v in mutation.fields.items() if n not in fields or not same(v, fields[n])}
    size = _size_of_map(added, mutation.path, 0, 0) if added else 0
    for transform in mutation.transforms:
        value: Value = fields
        missing = len(transform.field)
        for name in transform.field:
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
            missing -= 1
        if missing:
            # Missing maps on the path are created, also where another value has to give way.
            size += NUMBER_BYTES + MAP_BYTES * (missing - isinstance(value, dict))
            size += sum(len(name.encode()) + 1 for name in transform.field[-missing:])
        elif type(value) not in (int, float):
            size += NUMBER_BYTES
    return size


def _check_field_path(field: FieldPath, path: str) -> None:
    # The emulator counts a path that is spelled out (in a mask) as one byte shorter than the path of a stored value.
    above = 1
    for name in field:
        above += _size_of_name(name, path, above) + 1


def _size_of_document(path: str, fields: Fields) -> int:
    """Bytes, as https://cloud.google.com/firestore/docs/storage-size counts them."""
    return 32 + 16 + len(path.encode()) + 1 + _size_of_map(fields, path, 0, 0)


def _size_of_map(fields: Fields, path: str, depth: int, above: int) -> int:
    """``above``: bytes of the field path down to this map, its last dot included. A list adds nothing to it."""
    if depth > DEPTH_LIMIT:
        raise Rejected(Reason.INVALID, f"{path} nests deeper than {DEPTH_LIMIT} levels")
    size = 0
    for name, value in fields.items():
        length = _size_of_name(name, path, above)
        size += length + 1 + _size(value, path, depth + 1, above + length + 1)
    return size


def _size_of_name(name: str, path: str, above: int) -> int:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise Rejected(Reason.INVALID, f"{path} has a field name that is not valid Unicode") from None
    if length == 0:
        raise Rejected(Reason.INVALID, f"{path} has a field without a name")
    if above + length > FIELD_PATH_BYTES:
        message = f"{path} has a field whose path takes {above + length} bytes, expected at most {FIELD_PATH_BYTES}"
        raise Rejected(Reason.INVALID, message)
    if name.startswith("__") and name.endswith("__") and length >= 4:
        raise Rejected(Reason.INVALID, f"{path} has a field named {name!r}, which is reserved")
    return length


def _size(value: Value, path: str, depth: int, above: int) -> int:
    match value:
        case None | bool():
            return 1
        case int():
            if not INT_MIN <= value <= INT_MAX:
                raise Rejected(Reason.INVALID, f"{path} has an integer of more than 64 bits")
            return 8
        case float():
            if not math.isfinite(value):
                raise Rejected(Reason.INVALID, f"{path} has a number that is not finite")
            return 8
        case str():
            try:
                length = len(value.encode())
            except UnicodeEncodeError:
                raise Rejected(Reason.INVALID, f"{path} has a string that is not valid Unicode") from None
            if length > VALUE_BYTES:
                raise Rejected(
                    Reason.INVALID, f"{path} has a string of {length} bytes, expected at most {VALUE_BYTES}"
                )
            return length + 1
        case bytes():
            return len(value)
        case datetime():
            return 8
        case list():
            if depth > DEPTH_LIMIT:
                raise Rejected(Reason.INVALID, f"{path} nests deeper than {DEPTH_LIMIT} levels")
            if any(isinstance(item, list) for item in value):
                raise Rejected(Reason.INVALID, f"{path} has a list directly inside a list")
            return sum(_size(item, path, depth + 1, above) for item in value)
        case dict():
            return MAP_BYTES + _size_of_map(value, path, depth, above)
