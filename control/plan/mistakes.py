"""Compares a parsed document with the shape it should have, and says every difference, not only the first. Pure.

``msgspec.convert`` stops at the first mistake; a person who edits a file wants all of them, each with its path in
the file, what was found and what was expected. ``partly`` makes the most of a document with mistakes, so that what
does not depend on them can be checked all the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from types import UnionType
from typing import Any, Final, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, inspect

from backends.backend import Backend
from backends.durations import Duration
from backends.kinds.registry import KINDS

SHOWN_MAX: Final = 60  # characters of a value: a line of a terminal holds the path and what was expected too
NOT_SHOWN: Final = "not_shown"  # in a type's ``Meta(extra=...)``: a secret is easily written in the value's place
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def problems(shape: type, value: object, path: str = "") -> list[str]:
    """Every way in which ``value`` is not a ``shape``, as ``path: what was found and expected``."""
    return [f"{where}: {what}" if where else what for where, what in _walk(inspect.type_info(shape), value, path)]


class UnknownValueError(Exception):
    """A value was looked at that is mistaken or missing."""


class _Unknown:
    """Stands for such a value. Whatever is asked of it raises ``UnknownValueError``."""

    def _refuse(self, *_: object) -> NoReturn:
        raise UnknownValueError

    __getattr__ = __bool__ = __hash__ = __iter__ = __len__ = __contains__ = __getitem__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __str__ = __format__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse


UNKNOWN: Final[Any] = _Unknown()


Convert = Callable[[object, Any], Any]  # a value without a mistake, and its shape → what the settings have


def partly(shape: Any, value: object, convert: Convert) -> Any:
    """``value`` as a ``shape``, with ``UNKNOWN`` for each part that is mistaken, or missing without a default."""
    if not problems(shape, value):
        return convert(value, shape)
    if shape is Backend:
        kind = KINDS.get(str(value.get("kind"))) if isinstance(value, dict) else None
        return UNKNOWN if kind is None else partly(kind.settings, value, convert)
    origin, arguments = get_origin(shape), get_args(shape)
    if origin in (Union, UnionType):
        return partly(arguments[0], value, convert)
    if origin is tuple and isinstance(value, list):
        return tuple(partly(arguments[0], inner, convert) for inner in value)
    if origin is dict and isinstance(value, dict):
        return {key: partly(arguments[1], inner, convert) for key, inner in value.items()}
    if isinstance(shape, type) and issubclass(shape, Struct) and isinstance(value, dict):
        return _partly_struct(shape, value, convert)
    return UNKNOWN


def _partly_struct(shape: type[Struct], table: dict[str, object], convert: Convert) -> Any:
    hints = get_type_hints(shape, include_extras=True)
    known: dict[str, Any] = {}
    for field in msgspec.structs.fields(shape):
        if field.encode_name in table:
            known[field.name] = partly(hints[field.name], table[field.encode_name], convert)
        elif field.required:
            known[field.name] = UNKNOWN
    try:
        return shape(**known)
    except (UnknownValueError, TypeError, ValueError):  # a struct may look at its values when it is made
        return UNKNOWN


def join(path: str, key: str) -> str:
    """The path of ``key`` in the table at ``path``, as TOML writes it."""
    part = key if _BARE.fullmatch(key) else f'"{key}"'
    return f"{path}.{part}" if path else part


def one_of(names: Iterator[str] | list[str]) -> str:
    """The choices in words: ``"a", "b" or "c"``."""
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def shown(value: object) -> str:
    """A value as a person reads it, at most ``SHOWN_MAX`` characters of it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


Mistakes = Iterator[tuple[str, str]]  # path, and what is wrong there


def _walk(info: inspect.Type, value: object, path: str) -> Mistakes:
    match info:
        case inspect.StructType():
            yield from _struct(info, value, path)
        case inspect.UnionType():
            yield from _union(info, value, path)
        case inspect.Metadata():
            mistake = _leaf(info.type, value, info)
            if mistake:
                yield path, mistake
        case inspect.CustomType() if info.cls is Backend:
            yield from _backend(value, path)
        case inspect.DictType():
            if not isinstance(value, dict):
                yield path, f"expected a table, found {shown(value)}"
                return
            for key, inner in value.items():
                yield from _walk(info.value_type, inner, join(path, key))
        case inspect.VarTupleType() | inspect.ListType():
            if not isinstance(value, list):
                yield path, f"expected a list, found {shown(value)}"
                return
            if info.max_length is not None and len(value) > info.max_length:
                yield path, f"expected a list of at most {info.max_length}, found {len(value)}"
                return
            for i, inner in enumerate(value):
                yield from _walk(info.item_type, inner, f"{path}[{i}]")
        case _:
            mistake = _leaf(info, value)
            if mistake:
                yield path, mistake


def _struct(info: inspect.StructType, value: object, path: str) -> Mistakes:
    if not isinstance(value, dict):
        yield path, f"expected a table, found {shown(value)}"
        return
    fields = {field.encode_name: field for field in info.fields}
    known = [*fields, info.tag_field] if info.tag_field else list(fields)
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(known)}"
            yield join(path, key), f"unknown key; {meant}"
    for name, field in fields.items():
        if name in value:
            yield from _walk(field.type, value[name], join(path, name))
        elif field.required:
            yield join(path, name), f"missing; expected {_described(field.type)}"


def _union(info: inspect.UnionType, value: object, path: str) -> Mistakes:
    others = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
    if value is None and len(others) < len(info.types):
        return
    yield from _walk(others[0], value, path)


def _backend(value: object, path: str) -> Mistakes:
    if not isinstance(value, dict):
        yield path, f"expected a table with a 'kind', found {shown(value)}"
        return
    name = value.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        found = f"found {shown(name)}" if "kind" in value else "missing"
        yield join(path, "kind"), f"{found}; expected {one_of(list(KINDS))}"
        return
    yield from _walk(inspect.type_info(KINDS[name].settings), value, path)


def _number(info: Any, value: object, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    bounds = ((info.ge, value.__ge__), (info.gt, value.__gt__), (info.le, value.__le__), (info.lt, value.__lt__))
    return all(bound is None or keeps(bound) is True for bound, keeps in bounds)


def _range(info: Any, noun: str) -> str:
    words = ((info.ge, "at least"), (info.gt, "above"), (info.le, "at most"), (info.lt, "below"))
    limits = [f"{word} {bound:g}" for bound, word in words if bound is not None]
    return f"{noun} {' and '.join(limits)}" if limits else noun


def _text(info: inspect.StrType, value: object) -> bool:
    if not isinstance(value, str):
        return False
    short = info.min_length is not None and len(value) < info.min_length
    long = info.max_length is not None and len(value) > info.max_length
    return not short and not long and (info.pattern is None or re.search(info.pattern, value) is not None)


def _text_described(info: inspect.StrType) -> str:
    if info.max_length is None:
        return "a text"
    least = f"{info.min_length} to" if info.min_length else "at most"
    return f"a text of {least} {info.max_length} characters"


def _chosen(choices: type[Enum], value: object) -> bool:
    """Whether ``value`` names a choice, by its name now or by one of earlier versions."""
    try:
        choices(value)
    except ValueError:
        return False
    return isinstance(value, str)


_LEAVES: Final[dict[type, tuple[Callable[[Any, object], bool], Callable[[Any], str]]]] = {
    inspect.IntType: (lambda i, v: _number(i, v, True), lambda i: _range(i, "a whole number")),
    inspect.FloatType: (lambda i, v: _number(i, v, False), lambda i: _range(i, "a number")),
    inspect.StrType: (_text, _text_described),
    inspect.BoolType: (lambda _, v: isinstance(v, bool), lambda _: "true or false"),
    inspect.LiteralType: (lambda i, v: v in i.values, lambda i: one_of([str(v) for v in i.values])),
    inspect.EnumType: (lambda i, v: _chosen(i.cls, v), lambda i: one_of([str(member) for member in i.cls])),
    inspect.DateTimeType: (
        lambda _, v: isinstance(v, datetime) and v.tzinfo is not None,
        lambda _: "a date and time with an offset, such as 2026-12-20T18:00:00Z",
    ),
}


def _leaf(info: inspect.Type, value: object, meta: inspect.Metadata | None = None) -> str | None:
    """What is wrong with a value that is no table and no list. ``meta``: what its type says beside its bounds."""
    if isinstance(info, inspect.CustomType):
        assert info.cls is Duration, info
        try:
            Duration.parse(value)
        except ValueError as error:
            return str(error)
        return None
    accepts, described = _LEAVES[type(info)]
    if accepts(info, value):
        return None
    expected = described(info) if meta is None else _described(meta)
    hidden = meta is not None and NOT_SHOWN in (meta.extra or {}) and isinstance(value, str)
    return f"expected {expected}, found {'another text' if hidden else shown(value)}"


def _described(info: inspect.Type) -> str:
    match info:
        case inspect.Metadata():
            words: str | None = (info.extra_json_schema or {}).get("description")
            return words or _described(info.type)
        case inspect.CustomType():
            return 'a duration such as "30s" or "5m"'
        case inspect.VarTupleType() | inspect.ListType():
            return "a list"
        case inspect.StructType() | inspect.DictType() | inspect.UnionType():
            return "a table"
        case _:
            return _LEAVES[type(info)][1](info)
