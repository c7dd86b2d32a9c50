"""The mock answers as Firestore does: random commands on both, the emulator being the judge, errors included.

phasegate's own emulator is held to the same: what it answers over gRPC is what the mock answers.
"""

from __future__ import annotations

import asyncio
import os
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backends.documents.port import (
    NAME,
    Context,
    Count,
    Document,
    DocumentStore,
    Filter,
    Mutation,
    Precondition,
    Query,
    Rejected,
    Transform,
    merge,
    put,
)
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.memory import MemoryStore

STEPS = int(os.environ.get("PHASEGATE_DIFFERENTIAL_STEPS", "1500"))
COLLECTIONS = ("a", "b", "a/1/inner")
IDS = ("1", "2", "3", "x y", "é", "Z")
FIELDS = ("n", "s", "m", "odd `name`.\\")
SUMMED = "k"  # always an integer: a sum over doubles is a double, which no adapter asks for
START = datetime(2026, 1, 1, tzinfo=UTC)


class Commands:
    """Random commands, few enough names that they meet."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def scalar(self) -> Any:
        dice = self.dice
        return dice.choice(
            (
                None,
                True,
                False,
                dice.randint(-3, 3),
                dice.randint(-3, 3),
                dice.choice((-1.5, 0.0, 1.0, 2.0, 2.5)),
                2**63 - dice.randint(1, 3),
                dice.choice(("", "a", "b", "é", "z", "\U0001f600", "\uffff")),
                dice.choice((b"", b"\x00", b"a")),
                START + timedelta(microseconds=dice.randint(-2, 2)),
            )
        )

    def value(self, depth: int = 0) -> Any:
        dice = self.dice
        if depth < 2 and dice.random() < 0.15:
            return {dice.choice(FIELDS): self.value(depth + 1) for _ in range(dice.randrange(3))}
        if depth < 2 and dice.random() < 0.1:
            return [self.value(depth + 2) for _ in range(dice.randrange(3))]
        return self.scalar()

    def fields(self) -> dict[str, Any]:
        fields = {name: self.value() for name in self.dice.sample(FIELDS, self.dice.randrange(len(FIELDS) + 1))}
        return fields | ({SUMMED: self.dice.randint(-5, 5)} if self.dice.random() < 0.5 else {})

    def path(self) -> str:
        return f"{self.dice.choice(COLLECTIONS)}/{self.dice.choice(IDS)}"

    def field_path(self) -> tuple[str, ...]:
        return tuple(self.dice.choice(FIELDS) for _ in range(self.dice.choice((1, 1, 2))))

    def query(self, order: str | None = None) -> Query:
        dice = self.dice
        order = order or dice.choice((NAME, *FIELDS))
        where: list[Filter] = []
        if dice.random() < 0.4:
            where.append(Filter(dice.choice(FIELDS), "==", self.scalar()))
        elif dice.random() < 0.2:
            where.append(
                Filter(dice.choice(FIELDS), "in", [v for v in (self.scalar() for _ in range(3)) if v is not None])
            )
        if order != NAME and dice.random() < 0.5:
            where.append(Filter(order, dice.choice(("<", "<=", ">", ">=")), self.bound()))
        where = [condition for condition in where if condition.value != []]
        start = (None if order == NAME else self.scalar(), dice.choice(IDS)) if dice.random() < 0.3 else None
        limit = dice.choice((None, 1, 2, 5))
        return Query(
            dice.choice(COLLECTIONS), tuple(where), order, order != NAME and dice.random() < 0.5, limit, start
        )

    def bound(self) -> Any:
        while (value := self.scalar()) is None:
            pass
        return value


class Side:
    """One store, whose times are told as the number of the commit they belong to."""

    def __init__(self, store: DocumentStore) -> None:
        self.store = store
        self.commits: dict[int, int] = {}

    def told(self, document: Document | None) -> Any:
        if document is None:
            return None
        times = self.commits[document.create_time], self.commits[document.update_time]
        return document.path, typed(document.fields), times

    async def do(self, command: tuple[Any, ...]) -> Any:
        name, *arguments = command
        ctx = Context(asyncio.get_running_loop().time() + 10)
        try:
            match name:
                case "get":
                    return self.told(await self.store.get(arguments[0], ctx))
                case "get_many":
                    return [self.told(found) for found in await self.store.get_many(arguments[0], ctx)]
                case "query":
                    return [self.told(found) for found in await self.store.query(arguments[0], ctx)]
                case "count":
                    counted: Count = await self.store.count(arguments[0], ctx, arguments[1])
                    return counted
                case "commit":
                    when = await self.store.commit([self.resolved(m) for m in arguments[0]], ctx)
                    self.commits[when] = len(self.commits)
                    return "committed"
        except Rejected as refusal:
            return refusal.reason
        raise AssertionError(name)

    def resolved(self, mutation: Mutation) -> Mutation:
        """A precondition names its commit by number: here by this store's time of it."""
        condition = mutation.precondition
        if condition is None or condition.update_time is None:
            return mutation
        times = {number: time for time, number in self.commits.items()}
        time = times.get(condition.update_time, 1)
        return Mutation(
            mutation.path, mutation.fields, mutation.mask, mutation.transforms, Precondition(update_time=time)
        )


def typed(value: Any) -> Any:
    """A value that is equal only to the same value of the same type."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, value


def listed(outcome: Any) -> list[Any]:
    return outcome if isinstance(outcome, list) else [outcome]


def command(commands: Commands, seen: dict[str, int]) -> tuple[Any, ...]:
    dice = commands.dice
    kind = dice.choice(("get", "get_many", "query", "query", "query", "count", "commit", "commit", "commit"))
    match kind:
        case "get":
            return kind, commands.path()
        case "get_many":
            return kind, [commands.path() for _ in range(3)]
        case "query":
            return kind, commands.query()
        case "count":
            total = dice.choice((None, SUMMED))
            return kind, commands.query(total), total
    return kind, [mutation(commands, seen) for _ in range(dice.choice((1, 1, 2, 3)))]


def mutation(commands: Commands, seen: dict[str, int]) -> Mutation:
    dice, path = commands.dice, commands.path()
    condition = dice.choice(
        (
            None,
            None,
            None,
            Precondition(exists=True),
            Precondition(exists=False),
            Precondition(update_time=seen.get(path, 0)),
        )
    )
    shape = dice.choice(("put", "put", "merge", "merge", "transform", "delete"))
    if shape == "delete":
        return Mutation(path, None, precondition=condition)
    if shape == "put":
        return Mutation(path, commands.fields(), precondition=condition)
    fields = commands.fields()
    mask = tuple((name,) for name in dice.sample(FIELDS, 2)) if dice.random() < 0.7 else tuple((n,) for n in fields)
    fields = {name: value for name, value in fields.items() if (name,) in mask}
    transforms: tuple[Transform, ...] = ()
    if shape == "transform":
        mask, fields = (), {}
        transforms = tuple(
            Transform(
                commands.field_path(),
                dice.choice(("increment", "increment", "maximum")),
                dice.choice((1, -2, 0.5, 2**62)),
            )
            for _ in range(dice.choice((1, 2)))
        )
        transforms = () if len({t.field[0] for t in transforms}) < len(transforms) else transforms
    return Mutation(path, fields, mask, transforms, condition)


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_commands_have_the_same_outcome_on_the_mock_and_on_the_emulator(
    either_emulated: str, seed: int
) -> None:
    mock, real = Side(MemoryStore()), Side(FirestoreStore(Firestore(project=either_emulated)))
    await real.store.start()
    commands = Commands(seed)
    seen: dict[str, int] = {}  # by path, the update time last read, as a commit's number
    outcomes: dict[str, int] = {}
    try:
        for step in range(STEPS):
            each = command(commands, seen)
            expected, found = await real.do(each), await mock.do(each)
            assert found == expected, f"step {step}: {each}"
            if each[0] in ("get", "get_many", "query"):
                seen.update({told[0]: told[2][1] for told in listed(expected) if told is not None})
            kind = (
                f"{each[0]}: {expected}" if each[0] == "commit" else f"{each[0]}: {'found' if expected else 'none'}"
            )
            outcomes[kind] = outcomes.get(kind, 0) + 1
    finally:
        await real.store.close()
    # The comparison is worth something only if everything happened, often enough.
    for kind in ("committed", "Reason.EXISTS", "Reason.MISSING", "Reason.CHANGED"):
        assert outcomes[f"commit: {kind}"] >= STEPS / 200, outcomes
    assert outcomes["query: found"] > STEPS / 20


def nested(*names: str) -> Any:
    value: Any = 1
    for name in reversed(names):
        value = {name: value}
    return value


def edges(over: int) -> list[Mutation]:
    """Writes at a limit of names and values, or ``over`` it by so many bytes."""

    def x(length: int) -> str:
        return "x" * (length + over)

    return [
        put("a/1", nested(x(1500))),
        put("a/1", nested("m", x(1498))),
        put("a/1", nested("m", x(1497) + "`")),
        put("a/1", nested("m", x(0) + "é" * 749)),
        put("a/1", nested("a" * 700, "b" * 700, x(98))),
        put("a/1", {"abcd": [1, {x(1495): {}}]}),
        put("a/1", {"a": [{"b": [{x(1496): 1}]}]}),
        put("a/1", {x(1498): {"a": [{}]}}),
        merge("a/1", {x(1499): 1}),
        Mutation("a/1", nested("m", x(1497)), (("m", x(1497)),)),
        put("a/1", {"m": {"a": x(1_048_487)}}),
    ]


@pytest.mark.parametrize("over", [0, 1])
async def test_the_limits_of_names_and_values_are_the_emulators_to_the_byte(either_emulated: str, over: int) -> None:
    """The emulator alone judges first: what is checked before sending must not hide what it says."""
    real = FirestoreStore(Firestore(project=either_emulated))
    await real.start()
    try:
        for each in edges(over):
            ctx = Context(asyncio.get_running_loop().time() + 10)
            by_emulator, by_us = "taken", "taken"
            try:
                await real._commit((each,), 10.0)
            except Rejected as refusal:
                by_emulator = refusal.reason.name
            try:
                await MemoryStore().commit((each,), ctx)
            except Rejected as refusal:
                by_us = refusal.reason.name
            what = f"{len(repr(each))} characters: {repr(each)[:60]}"
            assert (what, by_us) == (what, by_emulator)
    finally:
        await real.close()
