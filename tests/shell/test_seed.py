"""Seeding fills an empty side, refuses another one in words, replaces nothing, and goes on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from backends import extensions
from backends.copy import seed as seeding
from backends.copy.fixtures import fixture_documents, fixtures_digest, initial
from backends.copy.marker import MARKER, Marker, read_marker
from backends.copy.seed import Began, Seeded, SeedRefusedError, began, refusal, seed
from backends.documents.port import (
    COMMIT_LIMIT,
    Context,
    Document,
    Fields,
    Mutation,
    Query,
    Transform,
    create,
    merge,
    put,
)
from backends.documents.portions import COMMIT_BYTES, portions, sent_bytes
from backends.errors import Fault, FaultKind
from backends.kinds.firestore.codec import Names, encode_mutation
from backends.kinds.firestore.kind import PREFIX_LENGTH
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock
from tests.support.shelf import Shelf, ShelfStore

TARGET: Final = Shelf(boards=3)
NEVER = Context(1e9)


@pytest.fixture(autouse=True)
def shelves() -> Iterator[None]:
    """A kind that can be seeded without a network is known for one test."""
    extensions.use(["tests.support.shelf:KIND"])
    yield
    extensions.use(())


@pytest.fixture
def source(tmp_path: Path) -> Callable[[dict[str, Any]], Mock]:
    """A mock whose fixtures are these things."""

    def make(things: dict[str, Any]) -> Mock:
        folder = tmp_path / "fixtures"
        folder.mkdir(exist_ok=True)
        (folder / "things.json").write_text(json.dumps(things))
        return Mock(fixtures=str(folder))

    return make


class Side:
    """The target of the migration ``m``, as another process would open it."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    async def __aenter__(self) -> MemoryStore:
        self._store = ShelfStore(TARGET, tuple, Journal(self.run_dir / "m.shelf"))
        await self._store.start()
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()

    async def write(self, *mutations: Mutation) -> None:
        async with self as store:
            await store.commit(mutations, NEVER)

    async def documents(self) -> dict[str, Fields]:
        """All but the marker."""
        async with self as store:
            return {each.path: each.fields for each in store.documents() if each.path != MARKER}

    async def marker(self) -> Marker | None:
        async with self as store:
            return await read_marker(store)


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path / "run")


async def run(data: Mock, side: Side, **more: Any) -> Seeded:
    return await seed(TARGET, data=data, run_dir=side.run_dir, name="m", **more)


async def test_an_empty_side_gets_every_document_and_a_marker_with_their_digest(source: Any, side: Side) -> None:
    data = source({str(n): {"n": n} for n in range(1200)})
    asked: list[int] = []
    done = await run(data, side, agree=asked.append)
    assert (done.documents, done.written, done.left, done.before) == (1200, 1200, (), False)
    assert asked == [1200]
    assert await side.documents() == {f"things/{n}": {"n": n} for n in range(1200)}
    marker = await side.marker()
    assert marker is not None
    assert marker == Marker(1200, fixtures_digest(data))
    assert marker.whole


async def test_made_up_data_is_seeded_as_the_mock_has_it(side: Side) -> None:
    done = await run(Mock(seed=3), side)
    assert await side.documents() == {each.path: each.fields for each in fixture_documents(Mock(seed=3))()}
    assert done.written == done.documents > 500


async def test_the_same_fixtures_again_change_nothing_whatever_was_written_since(source: Any, side: Side) -> None:
    data = source({"a": {"n": 1}, "b": {"n": 2}})
    await run(data, side)
    await side.write(put("things/a", {"n": -1}), put("scans/x", {}))
    done = await run(data, side, weight=100.0)  # a script may say it again at any time
    assert (done.before, done.written) == (True, 0)
    assert await side.documents() == {"things/a": {"n": -1}, "things/b": {"n": 2}, "scans/x": {}}


async def test_a_side_that_an_older_version_seeded_is_left_unchanged(source: Any, side: Side) -> None:
    await side.write(put(MARKER, {"documents": 1}), put("things/a", {"n": 5}))
    assert (await run(source({"a": {"n": 1}}), side)).before
    assert await side.documents() == {"things/a": {"n": 5}}


@pytest.mark.parametrize("path", ["scans/a", "analytics_totals/3", "things/z"])
async def test_a_side_that_holds_anything_is_refused_with_an_example(path: str, source: Any, side: Side) -> None:
    await side.write(put(path, {"kept": True}))
    with pytest.raises(SeedRefusedError) as refused:
        await run(source({"a": {"n": 1}}), side)
    for words in (f"its collection {path.split('/')[0]} holds {path},", "Nothing was written", "`phasegate copy`"):
        assert words in str(refused.value)
    assert await side.documents() == {path: {"kept": True}}
    assert await side.marker() is None


async def test_a_side_that_was_emptied_after_a_seed_is_filled_again(source: Any, side: Side) -> None:
    data = source({"a": {"n": 1}})
    await run(data, side)
    await side.write(Mutation("things/a", None))
    assert (await run(data, side)).written == 1


async def test_forced_it_creates_what_is_missing_and_replaces_nothing(source: Any, side: Side) -> None:
    await side.write(put("things/a", {"n": -1}), put("things/b", {"n": 2}), put("scans/x", {}))
    data = source({name: {"n": n} for n, name in enumerate("cab")})
    done = await run(data, side, force=True)
    assert done == Seeded(documents=3, written=1, left=("things/a",))
    assert await side.documents() == {
        "things/a": {"n": -1},
        "things/b": {"n": 2},
        "things/c": {"n": 0},
        "scans/x": {},
    }
    marker = await side.marker()
    assert marker is not None
    assert (marker.finished, marker.left, marker.forced, marker.whole) == (True, 1, True, False)


async def test_forced_into_an_empty_side_it_is_as_whole_as_any(source: Any, side: Side) -> None:
    await run(source({"a": {}}), side, force=True)
    marker = await side.marker()
    assert marker is not None
    assert marker.whole


async def test_a_side_that_answers_visitors_is_refused_though_it_is_empty(source: Any, side: Side) -> None:
    with pytest.raises(SeedRefusedError, match=r"it answers 25 % of the visitors by now.*Nothing was written"):
        await run(source({"a": {}}), side, weight=25.0)
    assert await side.documents() == {}
    assert (await run(source({"a": {}}), side, weight=25.0, force=True)).written == 1


# ---------------------------------------------------------------------------------------------------- interruption


class KilledError(Exception):
    """Stands for a killed process."""


async def interrupted(data: Mock, side: Side, monkeypatch: pytest.MonkeyPatch, commits: int) -> None:
    """A seed that ends before its commit number ``commits``, counted from 0."""
    original = ShelfStore.commit
    done = 0

    async def commit(self: ShelfStore, mutations: Sequence[Mutation], ctx: Context) -> int:
        nonlocal done
        if done == commits:
            raise KilledError
        done += 1
        return await original(self, mutations, ctx)

    monkeypatch.setattr(ShelfStore, "commit", commit)
    with pytest.raises(KilledError):
        await run(data, side)
    monkeypatch.undo()


@pytest.mark.parametrize("commits", [0, 1, 2, 3, 4])
async def test_an_interrupted_seed_goes_on(
    source: Any, side: Side, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    data = source({str(n): {"n": n} for n in range(1200)})
    await interrupted(data, side, monkeypatch, commits)
    marker = await side.marker()
    assert (marker is not None and not marker.finished) == (commits > 0)
    there = len(await side.documents())
    done = await run(data, side)
    assert done.written == 1200 - there
    assert done.left == ()
    marker = await side.marker()
    assert marker is not None
    assert marker.whole
    assert len(await side.documents()) == 1200


async def test_a_seed_of_other_fixtures_does_not_go_on_from_an_interrupted_one(
    source: Any, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    await interrupted(source({str(n): {"n": n} for n in range(600)}), side, monkeypatch, 2)
    with pytest.raises(
        SeedRefusedError, match="a seed of other fixtures was interrupted there, which wrote things/0"
    ):
        await run(source({"a": {}}), side)


async def test_what_others_write_during_a_seed_is_left_and_told(
    source: Any, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source({"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}})
    original = seeding._write

    async def write(store: MemoryStore, documents: Sequence[Mutation], now: Marker) -> Seeded:
        await store.commit([create("things/b", {"n": -2}), create("things/c", {"n": 3})], NEVER)
        return await original(store, documents, now)

    monkeypatch.setattr(seeding, "_write", write)
    assert await run(data, side) == Seeded(documents=3, written=1, left=("things/b",))
    marker = await side.marker()
    assert marker is not None
    assert not marker.whole


@pytest.mark.parametrize("shown", [True, False])
async def test_a_document_that_cannot_be_read_is_somebodys_and_is_left(
    source: Any, side: Side, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    await side.write(put("things/b", {"place": "on Earth"}), put("things/c", {"n": 3}))
    original = MemoryStore.get_many
    data = source({"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 3}})

    def hidden(path: str) -> bool:
        if path == "things/b" and shown:
            raise Fault(FaultKind.CORRUPT, "things/b: a field holds a geo_point_value, which is not supported")
        return path == "things/b"

    async def get_many(self: MemoryStore, paths: Sequence[str], ctx: Context) -> list[Document | None]:
        found = await original(self, paths, ctx)
        return [None if hidden(path) else document for path, document in zip(paths, found, strict=True)]

    async def query(self: MemoryStore, asked: Query, ctx: Context, max_age: float = 0.0) -> list[Document]:
        hidden(f"{asked.collection}/b")
        return []

    monkeypatch.setattr(MemoryStore, "get_many", get_many)
    monkeypatch.setattr(MemoryStore, "query", query)
    if shown:
        with pytest.raises(SeedRefusedError, match=r"its collection things holds things/\(a document that phasegate"):
            await run(data, side)
    assert await run(data, side, force=True) == Seeded(documents=3, written=1, left=("things/b",))
    monkeypatch.undo()
    assert await side.documents() == {
        "things/a": {"n": 1},
        "things/b": {"place": "on Earth"},
        "things/c": {"n": 3},
    }


async def test_what_is_created_and_deleted_by_others_all_the_time_is_written_once(
    source: Any, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = seeding._stored

    async def stored(store: MemoryStore, portion: Sequence[Mutation]) -> dict[str, Document | None]:
        await store.commit([Mutation("things/b", None)], NEVER)
        return await original(store, portion)

    await side.write(put("things/b", {}))
    monkeypatch.setattr(seeding, "_stored", stored)
    assert (await run(source({"a": {}, "b": {"n": 1}}), side, force=True)).written == 2


async def test_a_backend_that_fails_is_told_as_it_fails(source: Any, side: Side) -> None:
    glued = Shelf(boards=3, read_only=True)
    with pytest.raises(Fault) as fault:
        await seed(glued, data=source({"a": {}}), run_dir=side.run_dir, name="m")
    assert fault.value.kind is FaultKind.PERMISSION


# -------------------------------------------------------------------------------------------- how the source began


async def opened(data: Mock, run_dir: Path) -> MemoryStore:
    store = MemoryStore(initial(data), Journal(run_dir / "m.mock.journal", compact_bytes=2000))
    await store.start()
    return store


async def test_whether_a_mock_was_written_to_since_it_began_is_told_without_opening_it(
    source: Any, tmp_path: Path
) -> None:
    data = source({"a": {"n": 1}})
    digest = fixtures_digest(data)
    assert began(data, tmp_path, "m") is None
    store = await opened(data, tmp_path)
    assert began(data, tmp_path, "m") == Began(digest, written=False)
    other = await opened(data, tmp_path)  # another process that finds it begun
    assert began(source({"a": {"n": 2}}), tmp_path, "m") == Began(digest, written=False)
    await other.commit([put("things/b", {})], NEVER)
    assert began(data, tmp_path, "m") == Began(digest, written=True)
    for n in range(100):  # compacted: there is no first commit any more
        await store.commit([put("things/b", {"n": n})], NEVER)
    assert not (tmp_path / "m.mock.journal.0").exists()
    assert began(data, tmp_path, "m") == Began(None, written=True)
    assert await read_marker(store) == Marker(1, digest)
    await store.close()
    await other.close()


async def test_a_mock_that_an_older_version_began_has_no_digest(tmp_path: Path) -> None:
    store = MemoryStore(lambda: [put("things/a", {})], Journal(tmp_path / "m.mock.journal"))
    await store.start()
    await store.close()
    assert began(Mock(), tmp_path, "m") == Began(None, written=False)


async def test_a_journal_that_is_damaged_is_told(source: Any, tmp_path: Path) -> None:
    data = source({"a": {"n": 1}})
    await (await opened(data, tmp_path)).close()
    path = tmp_path / "m.mock.journal.0"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(OSError, match=r"m.mock.journal: its first record is not what was written; remove"):
        began(data, tmp_path, "m")
    path.unlink()
    with pytest.raises(OSError, match="its data file is missing; remove"):
        began(data, tmp_path, "m")
    (tmp_path / "m.mock.journal").write_bytes(b"?" * 64)
    with pytest.raises(OSError, match="is not a journal of the mock; remove it"):
        began(data, tmp_path, "m")
    (tmp_path / "m.mock.journal").write_bytes(b"")
    assert began(data, tmp_path, "m") is None


async def test_a_source_that_cannot_be_looked_at_is_told_and_forced_counts_as_written(
    source: Any, side: Side
) -> None:
    side.run_dir.mkdir()
    (side.run_dir / "m.mock.journal").write_bytes(b"?" * 64)
    with pytest.raises(OSError, match="is not a journal of the mock"):
        await run(source({"a": {}}), side)
    assert (await run(source({"a": {}}), side, force=True)).written == 1
    marker = await side.marker()
    assert marker is not None
    assert marker.forced


async def test_a_source_that_was_written_to_has_more_than_its_fixtures(source: Any, side: Side) -> None:
    data = source({"a": {"n": 1}})
    store = await opened(data, side.run_dir)
    assert (await run(data, side)).written == 1  # it has begun, and nothing was written
    await side.write(Mutation("things/a", None), Mutation(MARKER, None))
    await store.commit([put("scans/new", {})], NEVER)
    await store.close()
    with pytest.raises(SeedRefusedError, match=r"the source was written to since it began.*`phasegate copy`"):
        await run(data, side)
    assert await side.documents() == {}


def test_nothing_speaks_against_an_empty_side_and_everything_that_does_is_told() -> None:
    assert refusal(None, "d", None, written=False, weight=0.0) is None
    assert refusal(Marker(1, "d", finished=False), "d", "things/a", written=False, weight=0.0) is None
    assert refusal(Marker(1, "e"), "d", None, written=False, weight=0.0) is None
    for before in (None, Marker(1, "d"), Marker(1, "e"), Marker(1, "e", finished=False), Marker(1, None)):
        assert refusal(before, "d", "things/a", written=False, weight=0.0) is not None


# --------------------------------------------------------------------------------------------------------- portions


def test_a_commit_is_bounded_by_its_writes_and_by_its_bytes() -> None:
    small = [put(f"things/{n}", {"n": n}) for n in range(1201)]
    assert [len(portion) for portion in portions(small)] == [COMMIT_LIMIT, COMMIT_LIMIT, 201]
    large = [put(f"things/{n}", {"text": "x" * 600_000}) for n in range(30)]
    parts = [*portions(large)]
    assert [mutation for part in parts for mutation in part] == large
    assert [len(part) for part in parts] == [6, 6, 6, 6, 6]
    assert [len(part) for part in portions([put("things/a", {"text": "x" * (COMMIT_BYTES + 1)}), *small[:2]])] == [
        1,
        2,
    ]
    assert [*portions(())] == []


TINY: Final[Fields] = {str(n): None for n in range(2000)}


@pytest.mark.parametrize(
    "mutation",
    [
        put("scans/a", {}),
        put("scans/a", TINY),
        put("scans/a", {str(n): 2**62 + n for n in range(1000)}),
        put("scans/a", {str(n): -n for n in range(1000)}),
        put("scans/a", {str(n): n / 7 for n in range(1000)}),
        put("scans/a", {"é" * 500: "é" * 100_000, "b": b"x" * 70_000, "t": True}),
        put("scans/a", {"a": [{"b": [{"c": {}}]}] * 500}),
        put("scans/" + "é" * 700, {"a": 1}),
        merge("scans/a", dict(TINY), [Transform(("items", f"`{n}`"), "increment", n) for n in range(500)]),
        create("scans/a", {"`\\" * 600: 1}),
        Mutation("scans/a", None),
    ],
    ids=lambda mutation: mutation.path[:40],
)
def test_the_bound_of_a_write_is_never_below_what_is_sent(mutation: Mutation) -> None:
    assert sent(mutation) <= sent_bytes(mutation)


def test_the_bound_of_made_up_data_is_not_far_above_what_is_sent() -> None:
    documents = fixture_documents(Mock())()
    assert all(sent(each) <= sent_bytes(each) for each in documents)
    assert sum(map(sent_bytes, documents)) < 3 * sum(map(sent, documents))


def sent(mutation: Mutation) -> int:
    """Bytes of a write in a request, with its own tag and length."""
    root = "projects/a-project-with-a-long-name-30/databases/a-database-with-a-name-of-60-characters/documents/"
    return int(encode_mutation(mutation, Names(root, "p" * PREFIX_LENGTH)).ByteSize()) + 6
