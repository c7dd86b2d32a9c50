"""Firestore's writes as mutations of the port: the inverse of the client's ``encode_mutation``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from backends.documents.port import FieldPath, Fields, Mutation, Precondition, Transform, Value
from backends.emulator.refusal import invalid, not_offered
from backends.emulator.resources import document_path
from backends.kinds.firestore.codec import PbTransform, decode_fields, decode_path, decode_value, micros

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REQUEST_TIME: Final = PbTransform.ServerValue.REQUEST_TIME


class DecodedWrite(NamedTuple):
    """A mutation, and the fields whose values after it are told in the answer."""

    mutation: Mutation
    transformed: tuple[FieldPath, ...]


def decode_write(message: Any, database: str, now: int) -> DecodedWrite:
    """The write. ``now`` in microseconds is what the server's time becomes. Raises ``RefusedCall``."""
    precondition = _precondition(message.current_document) if message.HasField("current_document") else None
    which = message.WhichOneof("operation")
    fields: Fields
    mask: tuple[FieldPath, ...] | None
    if which == "delete":
        return DecodedWrite(Mutation(document_path(message.delete, database), None, precondition=precondition), ())
    if which == "transform":  # the older form of a write that only transforms
        path, fields, mask = document_path(message.transform.document, database), {}, ()
        transforms = message.transform.field_transforms
    elif which == "update":
        path, fields = document_path(message.update.name, database), _fields(message.update.fields)
        mask = tuple(map(field_path, message.update_mask.field_paths)) if message.HasField("update_mask") else None
        transforms = message.update_transforms
    else:
        raise not_offered(f"the write {which!r}") if which else invalid("a write has no operation")
    kept = []
    for each in transforms:
        field = field_path(each.field_path)
        if each.WhichOneof("transform_type") == "set_to_server_value":
            if each.set_to_server_value != _REQUEST_TIME:
                raise invalid(f"{each.field_path}: expected the server value REQUEST_TIME")
            _put(fields, field, _EPOCH + timedelta(microseconds=now - now % 1000))  # Firestore has milliseconds here
            mask = None if mask is None else (*mask, field)
        else:
            kept.append(_transform(each, field))
    transformed = tuple(field_path(each.field_path) for each in transforms)
    return DecodedWrite(Mutation(path, fields, mask, tuple(kept), precondition), transformed)


def field_path(text: str) -> FieldPath:
    """The names of a field path. Raises ``RefusedCall``."""
    try:
        return decode_path(text)
    except ValueError as problem:
        raise invalid(str(problem)) from None


def _fields(message: Any) -> Fields:
    try:
        return decode_fields(message)
    except ValueError as problem:
        raise not_offered(f"such values ({problem})") from None


def value_of(message: Any) -> Value:
    """A value of the port. Raises ``RefusedCall``."""
    try:
        return decode_value(message)
    except ValueError as problem:
        raise not_offered(f"such values ({problem})") from None


def _transform(message: Any, field: FieldPath) -> Transform:
    op = message.WhichOneof("transform_type")
    if op not in ("increment", "maximum"):
        raise not_offered(f"the transform {op!r}")
    operand = value_of(getattr(message, op))
    if not isinstance(operand, int | float) or isinstance(operand, bool):
        raise invalid(f"{message.field_path}: {op} takes a number")
    return Transform(field, op, operand)


def _precondition(message: Any) -> Precondition | None:
    match message.WhichOneof("condition_type"):
        case "exists":
            return Precondition(exists=message.exists)
        case "update_time":
            return Precondition(update_time=micros(message.update_time))
    return None


def _put(fields: Fields, field: FieldPath, value: Value) -> None:
    """Set a field of a message's fields, which nobody else has."""
    *above, last = field
    for name in above:
        child = fields.get(name)
        if not isinstance(child, dict):
            child = fields[name] = {}
        fields = child
    fields[last] = value


def found(fields: Fields, field: FieldPath) -> tuple[bool, Value]:
    """Whether there is such a field, and its value."""
    value: Value = fields
    for name in field:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value


def projected(fields: Fields, mask: tuple[FieldPath, ...]) -> Fields:
    """Only the fields that a mask names."""
    result: Fields = {}
    for field in mask:
        exists, value = found(fields, field)
        if exists:
            _put(result, field, value)
    return result
