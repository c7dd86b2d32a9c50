"""Changes as values: they can be written down, and one commit of many has the effect of one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import extensions
from backends.adapters import registry
from backends.adapters.analytics import SHARDS, Ingest
from backends.adapters.scans import ResultBatch
from backends.documents import changes
from backends.documents.batching import COMMIT_BYTES, TRANSFORM_LIMIT, CommitBatch
from backends.documents.changes import (
    All,
    Change,
    Documents,
    Newest,
    Once,
    Put,
    StateRule,
    decode,
    encode,
    kind_problem,
)
from backends.documents.port import (
    COMMIT_LIMIT,
    INT_MAX,
    Document,
    Fields,
    Mutation,
    Precondition,
    Transform,
    create,
    delete,
    merge,
    put,
)
from backends.documents.semantics import applied, refuse

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
SIZE = 100


def older_wins_never(mine: Fields, stored: Fields) -> bool:
    return int(str(mine.get("r", 0))) > int(str(stored.get("r", 0)))


RULE = StateRule.of_newer(older_wins_never)


@pytest.fixture(autouse=True)
def rules() -> Iterator[None]:
    """A rule for the collection ``d``, beside what the adapters have."""
    changes.install((Ingest, ResultBatch), {"d": RULE, "d/*/below": RULE})
    yield
    registry.install(registry.adapters())


# ------------------------------------------------------------------------------------------------------ written down

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)).map(
        lambda time: time.replace(fold=0)
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
fields = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=4)
transforms = st.builds(
    Transform,
    st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=2).map(tuple),
    st.sampled_from(("increment", "maximum")),
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
)
preconditions = st.builds(Precondition, st.none() | st.booleans(), st.none() | st.integers(0, 2**62))
mutations = st.one_of(
    st.builds(put, st.text(min_size=1, max_size=9), fields, st.none() | preconditions),
    st.builds(merge, st.text(min_size=1, max_size=9), fields, st.lists(transforms, max_size=3)),
    st.builds(delete, st.text(min_size=1, max_size=9)),
)
some = st.lists(mutations, max_size=3).map(tuple)
onces = st.builds(Once, st.text(min_size=1, max_size=9), fields, some)
steps = st.one_of(
    st.builds(Put, some),
    onces,
    st.builds(ResultBatch, st.text(min_size=1, max_size=9), fields, onces),
    st.builds(Newest, st.text(min_size=1, max_size=9), fields),
    st.builds(Ingest, st.lists(fields, max_size=3).map(tuple), st.integers(0, SHARDS - 1), st.booleans()),
)


@given(step=steps)
@settings(max_examples=300, deadline=None)
def test_a_change_is_read_as_it_was_written(step: Change) -> None:
    found = decode(encode(step))
    assert found == step
    assert repr(found) == repr(step), "the same types: 1 is not 1.0, and a tuple not a list"


def test_every_kind_that_the_adapters_have_can_be_read_and_says_what_it_writes() -> None:
    registry.install(registry.adapters())
    own = [kind for adapter in registry.adapters() for kind in adapter.changes]
    assert own == [ResultBatch, Ingest]
    assert {kind.__struct_config__.tag for kind in (*changes.BUILT_IN, *own)} == {
        "put",
        "once",
        "newest",
        "analytics.ingest",
        "scans.results",
    }


def test_a_change_that_consists_of_others_is_written_down_one_by_one() -> None:
    inner = Put((put("d/1", {}),))
    newest = Newest("d/2", {"r": 1})
    whole = All((All((inner, newest)), inner))
    assert whole.steps == (inner, newest, inner)
    assert whole.documents == ("d/1", "d/2", "d/1")


def test_what_is_no_change_or_of_a_kind_that_nobody_has_is_not_read() -> None:
    class Strange(Change, frozen=True, tag="elsewhere.strange"):
        x: int

    for body in (b"", b"\x01", encode(Strange(1)), encode(Put(()))[:-1], msgspec.msgpack.encode(["put", [1]])):
        with pytest.raises(msgspec.DecodeError):
            decode(body)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object()])
def test_a_value_that_no_store_takes_is_refused_in_known_ways(value: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError, RecursionError)):
        encode(Put((put("d/1", {"x": value}),)))


def test_an_adapter_from_outside_may_bring_a_kind_of_its_own() -> None:
    class Add(Change, frozen=True, tag="shop.add"):
        path: str

    class Unnamed(Change, frozen=True):
        path: str

    class Odd(Change, frozen=True, tag="shop.odd"):
        x: str | bytes | datetime

    assert kind_problem(Add, "shop") is None
    assert "begins with the adapter's name" in str(kind_problem(Add, "other"))
    assert "begins with the adapter's name" in str(kind_problem(Unnamed, "shop"))
    assert "cannot be decoded" in str(kind_problem(Odd, "shop"))
    assert "no subclass" in str(kind_problem(dict, "shop"))
    changes.install((Add,), {})
    assert decode(encode(Add("d/1"))) == Add("d/1")


def test_the_rule_of_an_adapter_from_outside_is_found_by_its_collection() -> None:
    extensions.use(["tests.support.orders.adapter:ADAPTER"])
    try:
        step = decode(encode(Newest("orders/1", {"state": "paid"})))
        assert step.plan({"orders/1": Document("orders/1", {"state": "placed"}, 0, 0)})
        assert not step.plan({"orders/1": Document("orders/1", {"state": "sent"}, 0, 0)})
    finally:
        extensions.use(())
    with pytest.raises(LookupError, match=r"newer in orders; expected a rule in Adapter\.newer"):
        step.plan({})


def test_a_rule_is_found_for_a_collection_below_another() -> None:
    assert changes.rule_of("d/1/below/2") is RULE
    with pytest.raises(LookupError, match=r"d/\*/other"):
        changes.rule_of("d/1/other/2")


# ------------------------------------------------------------------------------------------------------ one commit


class Contents:
    """A store, as far as a commit changes it. It takes commits as stores do."""

    def __init__(self, documents: dict[str, Document] | None = None) -> None:
        self.documents = dict(documents or {})
        self.time = 10

    def get(self, path: str) -> Document | None:
        return self.documents.get(path)

    def commit(self, writes: Sequence[Mutation]) -> None:
        assert len({write.path for write in writes}) == len(writes)
        self.time += 1
        for write in writes:
            refuse(self.get(write.path), write.precondition, write.path)
        for write in writes:
            found = applied(self.get(write.path), write, self.time)
            if found is None:
                self.documents.pop(write.path, None)
            else:
                self.documents[write.path] = found

    def fields(self) -> dict[str, Fields]:
        return {path: document.fields for path, document in self.documents.items()}


def one_by_one(store: Contents, given_steps: Sequence[Change]) -> None:
    for step in given_steps:
        store.commit(step.plan(store))


def together(store: Contents, given_steps: Sequence[Change]) -> int:
    """Apply them by as few commits as they fit into, all read before; how many it took."""
    left, commits = list(given_steps), 0
    while left:
        batch = CommitBatch(dict(store.documents))
        later = [step for step in left if not batch.add(step, SIZE)]
        assert len(later) < len(left), "each commit takes at least one"
        store.commit(batch.mutations)
        left, commits = later, commits + 1
    return commits


names = st.sampled_from(("d/1", "d/2", "d/3"))
small = st.integers(0, 5)
counted = st.builds(
    Transform,
    st.sampled_from((("n",), ("m",), ("x", "a"), ("x", "b"))),
    st.sampled_from(("increment", "maximum")),
    st.integers(-5, 5) | st.sampled_from((0.5, 1.5, -2.0)),
)
adding = st.builds(
    merge, names, st.dictionaries(st.sampled_from("pqn"), small, max_size=2), st.lists(counted, max_size=4)
)
writing = st.one_of(
    adding,
    adding,
    st.builds(put, names, st.dictionaries(st.sampled_from("pn"), small, max_size=2)),
    st.builds(delete, names),
)


def apart(writes: Sequence[Mutation]) -> tuple[Mutation, ...]:
    return tuple({write.path: write for write in writes}.values())


together_steps = st.one_of(
    st.builds(Put, st.lists(writing, max_size=3).map(apart)),
    st.builds(
        Once, st.sampled_from(("m/1", "m/2", "m/3")), st.just({"o": 1}), st.lists(adding, max_size=3).map(apart)
    ),
    st.builds(Newest, names, st.builds(lambda r, s: {"r": r, "s": s}, small, small)),
)


@given(given_steps=st.lists(together_steps, max_size=8), before=st.lists(together_steps, max_size=4))
@settings(max_examples=1500, deadline=None)
def test_changes_in_one_commit_have_the_effect_of_one_after_the_other(
    given_steps: list[Change], before: list[Change]
) -> None:
    first, second = Contents(), Contents()
    one_by_one(first, before)
    second.documents = dict(first.documents)
    taken: list[Change] = []
    batch = CommitBatch(dict(second.documents))
    for step in given_steps:
        if not batch.add(step, SIZE):
            break
        taken.append(step)
    assert taken or not given_steps
    one_by_one(first, taken)
    second.commit(batch.mutations)
    assert repr(sorted_fields(second)) == repr(sorted_fields(first))


def sorted_fields(store: Contents) -> Any:
    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: ordered(value[name]) for name in sorted(value)}
        return value

    return ordered(store.fields())


def event(nth: int, item: str = "i", at: datetime = NOON) -> Fields:
    return {"id": f"e{nth}", "user": "u", "type": "t", "item": item, "at": at}


def test_events_of_one_counter_write_it_once() -> None:
    store = Contents()
    sent = [Ingest((event(nth),), 3) for nth in range(400)]
    assert together(store, sent) == 1
    totals = store.documents["analytics_totals/3"]
    assert totals.fields["events"] == 400
    assert totals.update_time == totals.create_time, "written once"
    assert len([path for path in store.documents if path.startswith("analytics_events/")]) == 400


def test_increments_that_demand_their_document_still_demand_it_as_one() -> None:
    batch, demand = CommitBatch({}), Precondition(exists=True)
    for marker in ("m/1", "m/2", "m/3"):
        counter = merge("a/1", {}, (Transform(("n",), "increment", 2),), demand)
        assert batch.add(Once(marker, {}, (counter,)), SIZE)
    (counted,) = (write for write in batch.mutations if write.path == "a/1")
    assert counted.precondition == demand
    assert counted.transforms == (Transform(("n",), "increment", 6),)


def test_an_event_that_comes_twice_in_one_commit_counts_once() -> None:
    store = Contents()
    twice = [Ingest((event(1), event(2)), 0), Ingest((event(2), event(3)), 0), Ingest((event(1),), 1)]
    assert together(store, twice) == 1
    assert store.documents["analytics_totals/0"].fields["events"] == 3
    assert "analytics_totals/1" not in store.documents


def test_states_of_one_document_collapse_to_the_newest_whatever_their_order() -> None:
    store = Contents({"d/1": Document("d/1", {"r": 4, "files": 7}, 1, 5)})
    states = [Newest("d/1", {"r": r, "s": "x" * r}) for r in (3, 6, 5, 6, 2)]
    batch = CommitBatch(dict(store.documents))
    assert all(batch.add(state, SIZE) for state in states)
    (write,) = batch.mutations
    assert write.fields == {"r": 6, "s": "x" * 6}
    assert write.precondition == Precondition(update_time=5)
    store.commit(batch.mutations)
    assert store.documents["d/1"].fields == {"r": 6, "s": "x" * 6, "files": 7}
    assert CommitBatch(dict(store.documents)).add(states[0], SIZE)


def test_a_commit_takes_no_more_writes_bytes_and_increments_than_a_store_does() -> None:
    batch = CommitBatch({})
    puts = [Put((put(f"d/{nth}", {}),)) for nth in range(COMMIT_LIMIT + 1)]
    assert [batch.add(step, SIZE) for step in puts] == [True] * COMMIT_LIMIT + [False]
    batch = CommitBatch({})
    assert batch.add(puts[0], COMMIT_BYTES + 1), "one alone is sent, however large"
    assert not batch.add(puts[1], 1)
    batch = CommitBatch({})
    adds = [Put((merge("d/1", {}, [Transform((f"f{n}",), "increment", 1)]),)) for n in range(TRANSFORM_LIMIT + 1)]
    assert [batch.add(step, SIZE) for step in adds] == [True] * TRANSFORM_LIMIT + [False]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((("maximum", -7), ("increment", 14)), (("maximum", -7), ("increment", 7))),  # as a group of equal files
        ((("maximum", 0), ("increment", -5)), (("maximum", -2),)),
        ((("maximum", 0), ("increment", 5)), (("maximum", 9), ("increment", -1))),
        ((("increment", 5),), (("maximum", 3), ("increment", 2))),
    ],
)
@pytest.mark.parametrize("before", [None, -9, -1, 0, 4, 2.5])
def test_a_fields_increments_and_maxima_come_out_as_one_by_one(first: Any, second: Any, before: Any) -> None:
    adds = [
        Put((merge("d/1", {}, [Transform(("n",), op, operand) for op, operand in chain]),))
        for chain in (first, second, second)
    ]
    stored = {} if before is None else {"d/1": Document("d/1", {"n": before}, 1, 5)}
    one_after_other, at_once = Contents(stored), Contents(stored)
    one_by_one(one_after_other, adds)
    assert together(at_once, adds) == 1
    assert repr(at_once.fields()) == repr(one_after_other.fields())


def test_sums_stop_at_64_bits_as_they_do_one_by_one() -> None:
    for operands in ((INT_MAX, 5, -5), (INT_MAX, INT_MAX), (-5, INT_MAX, 10)):
        adds = [Put((merge("d/1", {}, [Transform(("n",), "increment", n)]),)) for n in operands]
        first, second = Contents(), Contents()
        one_by_one(first, adds)
        together(second, adds)
        assert first.fields() == second.fields()


# ------------------------------------------------------------------------------------------------------ held or not


def documents(*found: tuple[str, Fields]) -> Documents:
    return {path: Document(path, held, 0, 0) for path, held in found}


def test_what_a_store_holds_of_a_change_is_seen_by_its_traces() -> None:
    put_two = Put((put("d/1", {"x": 1}), delete("d/2")))
    assert put_two.held(documents(("d/1", {"x": 1}))) == put_two
    assert put_two.held(documents(("d/1", {"x": 1}), ("d/2", {}))) == Put((put("d/1", {"x": 1}),))
    assert put_two.held(documents(("d/1", {"x": 1.0}), ("d/2", {}))) is None
    once = Once("m/1", {}, (merge("d/1", {}, [Transform(("n",), "increment", 1)]),))
    assert once.traces == ("m/1",)
    assert once.held(documents(("m/1", {"whatever": 1}))) == once
    assert once.held(documents(("d/1", {"n": 1}))) is None
    two = Ingest((event(1), event(2)), 0)
    assert two.held(documents((two.traces[1], {}))) == Ingest((event(2),), 0)
    assert two.held(documents()) is None


@pytest.mark.parametrize(
    ("stored", "held"),
    [({"r": 2, "c": "mine", "files": 3}, True), ({"r": 2, "c": "other"}, False), ({"r": 3, "c": "mine"}, False)],
)
def test_a_state_is_held_only_where_it_is_that_very_state(stored: Fields, held: bool) -> None:
    """Of two writers who raced for one revision, one was refused: its state must not get to the other side."""
    state = Newest("d/1", {"r": 2, "c": "mine"})
    assert (state.held(documents(("d/1", stored))) is not None) is held


def test_a_marker_that_is_there_leaves_nothing_to_write() -> None:
    once = Once("m/1", {"o": 1}, (merge("d/1", {}, [Transform(("n",), "increment", 1)]),))
    assert [write.path for write in once.plan({})] == ["m/1", "d/1"]
    assert once.plan(documents(("m/1", {}))) == ()
    assert create("m/1", {"o": 1}) in once.plan({})


def test_a_full_counter_is_counted_under_other_names() -> None:
    named = Ingest((event(1, at=NOON - timedelta(days=1)),), 0)
    coarser = named.coarser
    assert coarser is not None
    assert coarser.coarser is None
    assert "(other)" in str(coarser.plan({}))
    assert "'i'" not in str([write.transforms for write in coarser.plan({})])
