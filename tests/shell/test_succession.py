"""What a configuration makes of the migrations in a run directory: refused, renamed or abandoned, in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.lead.succession import ConfiguredSuccession
from control.plan.settings import ConfigError, Settings, parse
from control.rollout.model import Entry, Raise, Rollout, State
from control.store.chain import genesis
from control.store.sqlite import Store, checkpoints_in, verify_file
from proxy.board.layout import PINNED, Word
from proxy.settings import CannotStartError

HALF = Rollout(State.PAUSED, phase=0, weight_bp=5000, revision=3, generation=2)
DONE = Rollout(State.COMPLETED, phase=0, weight_bp=10_000, pinned=True, revision=9, generation=7)
HELD_AT_0 = Rollout(State.ROLLED_BACK, revision=4, generation=3, resume_phase=0)
ASKED = Rollout(pending=Raise("start", State.RUNNING, 0, 500, False, 0.0, 1, True, True))


def settings(*names: str, abandon: tuple[str, ...] = (), **was: str) -> Settings:
    migrations: dict[str, dict[str, Any]] = {
        name: {"source": "old", "target": "new", "routes": [f"/{i}/*"]} | ({"was": was[name]} if name in was else {})
        for i, name in enumerate(names)
    }
    origins = {
        name: {"kind": "http", "origin": f"http://127.0.0.1:{port}"} for name, port in (("old", 1), ("new", 2))
    }
    document = {"app": {"origin": "http://127.0.0.1:3"}, "backends": origins, "migrations": migrations}
    return parse(document | {"abandon": list(abandon)})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "control.db")
    yield made
    made.close()


@pytest.fixture
def saved(store: Store) -> Callable[..., None]:
    def save(kind: str = "start", /, **rollouts: Rollout) -> None:
        for name, rollout in rollouts.items():
            now = time.time()
            store.save(name, msgspec.json.encode({"rollout": rollout}).decode(), [(now, Entry(kind, "ci", {}))], now)

    return save


def state_of(store: Store, name: str) -> dict[str, Any]:
    found = store.checkpoint(name)
    assert found is not None
    rollout: dict[str, Any] = msgspec.json.decode(found.document)["rollout"]
    return rollout


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (HALF, "is paused at 50 %"),
        (DONE, "is completed at 100 %"),
        (HELD_AT_0, "is rolled back at 0 %"),
        (ASKED, "is idle at 0 %"),
    ],
)
def test_what_is_in_flight_may_not_be_missing(
    store: Store, saved: Callable[..., None], rollout: Rollout, said: str
) -> None:
    saved(shop=rollout, other=HALF)
    refusal = ConfiguredSuccession(settings("other"), store.path).refusal({})
    assert refusal is not None
    for part in ('migration "shop"', said, "no [migrations.shop]", 'was = "shop"', 'abandon = ["shop"]'):
        assert part in refusal
    assert "[migrations.other]" not in refusal
    for accepted in (settings("shop", "other"), settings("store", "other", store="shop")):
        assert ConfiguredSuccession(accepted, store.path).refusal({}) is None
    assert ConfiguredSuccession(settings("other", abandon=("shop",)), store.path).refusal({}) is None


@pytest.mark.parametrize("state", [State.IDLE, State.ABORTED])
def test_what_is_at_rest_may_go_without_a_word(store: Store, saved: Callable[..., None], state: State) -> None:
    saved(shop=Rollout(state, revision=3, generation=2))
    assert ConfiguredSuccession(settings("other"), store.path).refusal({"shop": Word(2, 0, 0)}) is None


def test_the_board_alone_tells_where_the_store_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"no database at all " * 1000)
    succession = ConfiguredSuccession(settings("other"), path)
    refusal = succession.refusal({"shop": Word(2, 0, 2500), "idle": Word(2, 0, 0)})
    assert refusal is not None
    assert 'migration "shop" has weight on the target at 25 %' in refusal
    assert "idle" not in refusal
    assert path.read_bytes().startswith(b"no database"), "nothing is set aside before control can note it"
    ConfiguredSuccession(settings("store", store="shop"), path).take_over()
    assert path.read_bytes().startswith(b"no database")


def test_nothing_is_renamed_on_a_guess_while_the_store_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "control.db").mkdir()
    with pytest.raises(CannotStartError, match="cannot be renamed or abandoned"):
        ConfiguredSuccession(settings("store", store="shop"), tmp_path / "control.db").take_over()
    ConfiguredSuccession(settings("store"), tmp_path / "control.db").take_over()


def test_the_weight_told_is_the_one_on_the_board(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=HALF)
    refusal = ConfiguredSuccession(settings("other"), store.path).refusal({"shop": Word(3, 0, 500)})
    assert refusal is not None
    assert "is paused at 5 %" in refusal


def test_a_renamed_migration_goes_on_and_both_trails_say_so_once(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=HALF)
    before = state_of(store, "shop")
    succession = ConfiguredSuccession(settings("store", store="shop"), store.path)
    for _ in range(2):
        succession.take_over()
    assert state_of(store, "store") == before
    assert state_of(store, "shop")["state"] == "idle"
    assert [(line.kind, line.detail) for line in store.audit("store", 10)] == [
        ("renamed", {"from": "shop", "state": "paused", "weight": 50.0})
    ]
    assert [line.kind for line in store.audit("shop", 10)] == ["renamed", "start"]
    assert store.audit("store", 1)[0].previous == genesis("store")
    assert not any(trail.problems for trail in verify_file(store.path).values())
    assert succession.refusal({}) is None


def test_the_run_of_a_renamed_migration_is_told_from_its_start(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=HALF)
    ConfiguredSuccession(settings("store", store="shop"), store.path).take_over()
    saved("resume", store=HALF)
    assert [line.kind for line in store.run("store")] == ["start", "renamed", "resume"]
    ConfiguredSuccession(settings("shop", shop="store"), store.path).take_over()
    assert [line.kind for line in store.run("shop")] == ["start", "renamed", "resume", "renamed"], "and back"
    saved(store=HALF)
    assert [line.kind for line in store.run("store")] == ["start"], "a run of its own"


def test_an_abandoned_migration_is_at_rest_and_its_trail_says_so_once(
    store: Store, saved: Callable[..., None]
) -> None:
    saved(shop=DONE, other=HALF)
    succession = ConfiguredSuccession(settings("other", abandon=("shop",)), store.path)
    for _ in range(2):
        succession.take_over()
    assert [(line.kind, line.detail) for line in store.audit("shop", 1)] == [
        ("abandoned", {"state": "completed", "weight": 100.0})
    ]
    assert (state_of(store, "shop")["state"], state_of(store, "shop")["weight_bp"]) == ("aborted", 0)
    assert state_of(store, "other")["weight_bp"] == 5000
    assert ConfiguredSuccession(settings("other"), store.path).refusal({}) is None, "the key may go"
    assert not any(trail.problems for trail in verify_file(store.path).values())


def test_one_migration_does_not_continue_two(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=HALF, store=HALF)
    refusal = ConfiguredSuccession(settings("store", store="shop"), store.path).refusal({})
    assert refusal is not None
    assert 'migrations.store.was: "shop" is paused at 50 %, and "store" is paused at 50 % itself' in refusal


def test_the_mocks_documents_and_the_tasks_files_go_with_the_name_and_nothing_else_does(tmp_path: Path) -> None:
    names = (
        "control.mock.journal",
        "control.mock.journal.0",
        "control.target.mock.journal",
        "control.copy.json",
        "control.compare.again",
        "control.differences.jsonl",
        "control.db",
        "controls.mock.journal",
    )
    for name in names:
        (tmp_path / name).write_text(name)
    ConfiguredSuccession(settings("store", store="control"), tmp_path / "none.db").take_over()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "control.db",
        "controls.mock.journal",
        "store.compare.again",
        "store.copy.json",
        "store.differences.jsonl",
        "store.mock.journal",
        "store.mock.journal.0",
        "store.target.mock.journal",
    ]


def test_changes_that_wait_go_with_the_name_and_those_of_one_that_is_given_up_are_removed(tmp_path: Path) -> None:
    for name in ("control", "gone", "other"):
        (tmp_path / f"{name}.changes").mkdir()
        (tmp_path / f"{name}.changes" / "to_target.1").write_text(name)
    configured = settings("store", "other", store="control", abandon=("gone", "../elsewhere"))
    elsewhere = tmp_path.parent / "elsewhere.changes"
    elsewhere.mkdir()
    for _ in range(2):
        ConfiguredSuccession(configured, tmp_path / "none.db").take_over()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.changes", "store.changes"]
    assert (tmp_path / "store.changes" / "to_target.1").read_text() == "control"
    assert elsewhere.exists()
    elsewhere.rmdir()


def test_the_words_that_a_checkpoint_may_have_on_the_board(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=DONE, asked=ASKED)
    store.save("spoilt", "{no json", [], 1.0)
    assert ConfiguredSuccession(settings("other"), store.path).expected() == {
        "shop": frozenset({Word(7, PINNED, 10_000)}),
        "asked": frozenset({Word(0, 0, 0), Word(1, 0, 500)}),
    }


def test_checkpoints_are_read_while_another_process_writes(store: Store, saved: Callable[..., None]) -> None:
    saved(shop=HALF)
    assert list(checkpoints_in(store.path)) == ["shop"]
    assert checkpoints_in(store.path.with_name("none.db")) == {}


@pytest.mark.parametrize(
    ("names", "abandon", "was", "problem"),
    [
        (("a", "b"), (), {"a": "b"}, 'migrations.a.was: "b" is migrations.b already'),
        (("a",), (), {"a": "a"}, 'migrations.a.was: "a" is migrations.a already'),
        (("a", "b"), (), {"a": "old", "b": "old"}, 'migrations.b.was: "old" is migrations.a.was already'),
        (("a",), ("old",), {"a": "old"}, 'abandon[0]: "old" is migrations.a.was already'),
        (("a",), ("a",), {}, 'abandon[0]: "a" is migrations.a already'),
    ],
)
def test_a_name_has_one_fate(
    names: tuple[str, ...], abandon: tuple[str, ...], was: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem.replace("[", r"\[")):
        settings(*names, abandon=abandon, **was)


@pytest.mark.parametrize(
    ("was", "said"),
    [
        ("shpo", 'nothing is in flight under the name "shpo"; did you mean "shop"?'),
        ("zebra", 'nothing is in flight under the name "zebra"; expected "shop", or no `was`'),
        ("before", 'nothing is in flight under the name "before"; expected "shop", or no `was`'),
    ],
)
def test_a_mistyped_was_is_told_beside_what_it_misses(
    store: Store, saved: Callable[..., None], was: str, said: str
) -> None:
    saved(shop=HALF, before=Rollout(State.IDLE))
    refusal = ConfiguredSuccession(settings("store", store=was), store.path).refusal({"store": Word(0, 0, 0)})
    assert refusal is not None
    assert 'migration "shop" is paused at 50 %' in refusal
    assert f"migrations.store.was: {said}" in refusal


def test_a_was_of_a_rename_that_was_done_is_no_mistake_when_another_migration_is_missing(
    store: Store, saved: Callable[..., None]
) -> None:
    saved(shop=HALF, store=HALF, blog=HALF)
    ConfiguredSuccession(settings("blog", "diary", diary="store"), store.path).take_over()
    refusal = ConfiguredSuccession(settings("blog", "diary", diary="store"), store.path).refusal({})
    assert refusal is not None
    assert 'migration "shop"' in refusal
    assert "migrations.diary.was" not in refusal
