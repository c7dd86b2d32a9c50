"""Compares a parsed document with the shape it should have, and says every difference, not only the first. Pure.

``msgspec.convert`` stops at the first mistake; a person who edits a file wants all of them, each with its path in
the file, what was found and what was expected.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any, Final

from msgspec import inspect

from backends.backend import Backend
from backends.durations import Duration
from backends.kinds.registry import KINDS

SHOWN_MAX: Final = 60  # characters of a value: a line of a terminal holds the path and what was expected too
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def problems(shape: type, value: object, path: str = "") -> list[str]:
    """Every way in which ``value`` is not a ``shape``, as ``path: what was found and expected``."""
    return [f"{where}: {what}" if where else what for where, what in _walk(inspect.type_info(shape), value, path)]


def sound_keys(shape: type, value: object) -> object:
    """A table without the keys whose values are mistaken, and without the unknown ones; anything else as it is."""
    info = inspect.type_info(shape)
    if not isinstance(info, inspect.StructType) or not isinstance(value, dict):
        return value
    fields = {field.encode_name: field.type for field in info.fields}
    return {key: inner for key, inner in value.items() if key in fields and not any(_walk(fields[key], inner, ""))}


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
    if info.pattern:
        return f"a text of the form {info.pattern}"
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


def _leaf(info: inspect.Type, value: object) -> str | None:
    if isinstance(info, inspect.CustomType):
        assert info.cls is Duration, info
        try:
            Duration.parse(value)
        except ValueError as error:
            return str(error)
        return None
    accepts, described = _LEAVES[type(info)]
    return None if accepts(info, value) else f"expected {described(info)}, found {shown(value)}"


def _described(info: inspect.Type) -> str:
    match info:
        case inspect.CustomType():
            return 'a duration such as "30s" or "5m"'
        case inspect.VarTupleType() | inspect.ListType():
            return "a list"
        case inspect.StructType() | inspect.DictType() | inspect.UnionType():
            return "a table"
        case _:
            return _LEAVES[type(info)][1](info)
