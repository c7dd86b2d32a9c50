"""What a copy, compare or repair that nobody serves beside leaves in the checkpoint, for the next control process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from backends.pair.changelog import LOSSES, changes_folder
from control.cli.check import known_data
from control.data.messages import ComparedCollection, TaskDone, TaskEnd, TaskFailed, TaskKind, TaskResult
from control.data.state import AskedTask, BegunTask, DataState, Lack
from control.lead.checkpoint import CheckpointDocument, decoded
from control.lead.offline import OfflineData
from control.lead.succession import STORE
from control.plan.settings import Settings, parse
from control.rollout.model import EnteredPhase, Rollout, State
from control.store.sqlite import Store
from proxy.board import layout as layouts
from proxy.board.board import Board, boot_id
from proxy.migration.routes import layout
from proxy.process.leftover import BOARD, rows_of
from proxy.process.rundir import form
from proxy.settings import CannotStartError
from tests.support.patience import WITHIN_S

COPY, COMPARE, REPAIR = (AskedTask(kind) for kind in (TaskKind.COPY, TaskKind.COMPARE, TaskKind.REPAIR))
ROOT = Path(__file__).parents[2]


def settings_in(run_dir: Path, **migration: Any) -> Settings:
    first = {"source": "mock", "target": "other", "routes": ["/api/dashboard/*"]}
    return parse(
        {
            "app": {"origin": "http://127.0.0.1:1"},
            "proxy": {"run_dir": str(run_dir), "workers": 1},
            "backends": {"mock": {"kind": "mock"}, "other": {"kind": "mock"}},
            "migrations": {"phase6": first | migration},
        }
    )


def ended(differing: int = 0) -> TaskDone:
    row = ComparedCollection("scans", 9, 9, 9 - differing, 0, 0, differing, 0)
    return TaskDone(TaskResult(equal=not differing, collections=(row,)), differing, 9)


class RunDir:
    """A run directory, and the commands that have it to themselves, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.settings = settings_in(folder)

    def open(self) -> OfflineData:
        return OfflineData(self.settings, "phase6")

    def task(self, asked: AskedTask, end: TaskEnd) -> None:
        data = self.open()
        data.begin(asked)
        data.over(end)

    def lack(self) -> Lack | None:
        return self.open().lack()

    def put(self, document: str | bytes) -> None:
        """A checkpoint that another process has written."""
        store = Store(self.folder / STORE)
        text = document if isinstance(document, str) else document.decode()
        store.save("phase6", text, (), 1.0)
        store.close()

    def saved(self) -> dict[str, Any]:
        store = Store(self.folder / STORE)
        found = store.checkpoint("phase6")
        assert not store.verify("phase6").problems
        store.close()
        assert found is not None
        document: dict[str, Any] = msgspec.json.decode(found.document)
        return document

    def trail(self) -> list[tuple[str, str]]:
        store = Store(self.folder / STORE)
        lines = [(line.actor, line.kind) for line in reversed(store.audit("phase6", 100))]
        store.close()
        return lines

    def board(self) -> Board:
        """The board that a run has left, and that the next one goes on with."""
        plan = self.settings.plan()
        return Board.create(self.folder / BOARD, layout(plan, rows_of(plan)), boot_id())

    def give_up(self, changes: int) -> None:
        """So many changes are given up while the change logs are read out."""
        folder = changes_folder(self.folder, "phase6")
        folder.mkdir(exist_ok=True)
        with (folder / LOSSES).open("ab") as losses:
            losses.write(b"{}\n" * changes)


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_finished_copy_is_what_the_next_control_process_knows(run_dir: RunDir) -> None:
    before = run_dir.lack()
    assert before is not None
    assert before.mend == "phasegate copy --migration phase6"
    run_dir.task(COPY, ended())
    assert run_dir.lack() is None
    known = decoded(run_dir.settings.migrations["phase6"].phases, msgspec.json.encode(run_dir.saved()).decode())
    assert known.rollout is None, "nothing was decided yet"
    assert known.data is not None
    assert known.data.copied_at is not None
    assert run_dir.trail() == [("offline", "copy"), ("offline", "copied")]
    assert form(run_dir.folder) > 1, "an earlier version would misread a checkpoint without a rollout"


def test_what_a_compare_finds_holds_and_what_a_repair_mends_does_not(run_dir: RunDir) -> None:
    run_dir.task(COPY, ended())
    run_dir.task(COMPARE, ended(differing=3))
    found = run_dir.lack()
    assert found is not None
    assert (found.what, found.mend) == (
        "3 documents differ between source and target",
        "phasegate compare --migration phase6 --repair",
    )
    run_dir.task(REPAIR, ended())
    assert run_dir.lack() is None
    assert [kind for _, kind in run_dir.trail()[2:]] == ["compare", "compared", "repair", "repaired"]


@pytest.mark.parametrize(
    ("asked", "end"),
    [
        (COPY, TaskFailed("no answer", "unreachable")),
        (AskedTask(TaskKind.COPY, ("scans",)), ended()),
        (AskedTask(TaskKind.COMPARE, sample=9), ended()),
    ],
)
def test_a_part_of_the_documents_opens_nothing_here_either(run_dir: RunDir, asked: AskedTask, end: TaskEnd) -> None:
    run_dir.task(asked, end)
    assert run_dir.lack() is not None
    assert len(run_dir.trail()) == 2


def test_the_rest_of_the_checkpoint_stays_as_it_was_whichever_version_wrote_it(run_dir: RunDir) -> None:
    running = Rollout(state=State.PAUSED, phase=EnteredPhase("early", 2500), weight_bp=2500, revision=9)
    for rollout in (
        msgspec.to_builtins(running),
        {"state": "paused", "phase": 1, "weight_bp": 2500, "pinned": False},
    ):
        run_dir.put(msgspec.json.encode({"rollout": rollout, "chapter": None, "of a later version": [1]}))
        run_dir.task(COPY, ended())
        left = run_dir.saved()
        assert (left["rollout"], left["of a later version"]) == (rollout, [1])
        assert left["data"]["copied_at"]


def test_a_copy_that_the_last_control_process_left_unfinished_is_not_begun_again(run_dir: RunDir) -> None:
    left = BegunTask("copy-1", "ci", 1.0, 0, COPY)
    run_dir.put(msgspec.json.encode(CheckpointDocument(Rollout(), data=replace(DataState(), copying=left))))
    identity = run_dir.open().state.identity
    run_dir.put(msgspec.json.encode(CheckpointDocument(Rollout(), data=DataState(identity, copying=left))))
    run_dir.task(AskedTask(TaskKind.COPY, ("scans",)), ended())
    assert run_dir.open().state.copying == left, "this one has copied a part"
    run_dir.task(COPY, ended())
    assert run_dir.open().state.copying is None


def losing(board: Board, changes: int) -> None:
    board.cells[board.layout.share(0, 0) + layouts.S_LOST] += changes


def test_what_was_lost_before_is_settled_by_it_though_no_checkpoint_had_counted_it_yet(run_dir: RunDir) -> None:
    run_dir.task(COPY, ended())
    board = run_dir.board()
    losing(board, 3)
    found = run_dir.lack()
    assert found is not None
    assert found.what.startswith("3 changes reached one side alone")
    run_dir.task(COPY, ended())
    assert run_dir.lack() is None
    losing(board, 1)
    assert str(run_dir.lack()).startswith("1 change reached")
    board.close()


@pytest.mark.parametrize("board_goes_on", [True, False])
def test_what_is_given_up_on_the_way_is_settled_by_the_task_that_begins_after_it(
    run_dir: RunDir, board_goes_on: bool
) -> None:
    if board_goes_on:
        run_dir.board().close()
    data = run_dir.open()
    run_dir.give_up(2)
    data.begin(COPY)
    assert data.state.missed == 2
    data.over(ended())
    assert data.lack() is None
    assert run_dir.lack() is None


def spoil(run_dir: RunDir) -> None:
    (run_dir.folder / STORE).write_bytes(b"not a database " * 500)


def renamed(run_dir: RunDir) -> None:
    run_dir.task(COPY, ended())
    first = run_dir.settings.migrations["phase6"]
    migrations = {"phase7": replace(first, was="phase6")}
    run_dir.settings = replace(run_dir.settings, migrations=migrations)


@pytest.mark.parametrize(
    ("spoilt", "name", "words"),
    [
        (spoil, "phase6", "the checkpoints cannot be read: .*`phasegate serve` sets a broken one aside"),
        (renamed, "phase7", 'the run directory knows it as "phase6", and `phasegate serve` alone renames it'),
        (lambda it: it.put('{"data": 7}'), "phase6", "cannot be understood .*do this while it serves"),
        (lambda it: (it.folder / "version").write_text("99"), "phase6", "written by a newer phasegate"),
    ],
)
def test_what_cannot_be_gone_on_from_is_refused_in_words_before_anything_is_copied(
    run_dir: RunDir, spoilt: Callable[[RunDir], Any], name: str, words: str
) -> None:
    spoilt(run_dir)
    with pytest.raises(CannotStartError, match=words):
        OfflineData(run_dir.settings, name)


# What `phasegate check` makes of it.


def test_check_says_what_was_copied_and_by_which_command_the_rest_is(run_dir: RunDir) -> None:
    before = known_data(run_dir.settings, "phase6", set())
    assert before is not None
    assert (before.check.ok, before.mend) == (None, "phasegate copy --migration phase6")
    assert "0 of its documents" in before.check.found
    assert "While phasegate serves, `phasegate copy --migration phase6` copies them" in before.check.mend
    assert not (run_dir.folder / STORE).exists(), "it only looks"
    run_dir.task(COPY, ended())
    after = known_data(run_dir.settings, "phase6", set())
    assert after is not None
    assert (after.check.ok, after.mend) == (True, "")
    run_dir.task(COMPARE, ended(differing=1))
    differing = known_data(run_dir.settings, "phase6", set())
    assert differing is not None
    assert differing.mend == "phasegate compare --migration phase6 --repair"


def test_check_names_no_step_where_none_is_needed_or_nothing_can_be_told(run_dir: RunDir) -> None:
    run_dir.settings = settings_in(run_dir.folder, data={"gate": False})
    off = known_data(run_dir.settings, "phase6", set())
    assert off is not None
    assert (off.check.ok, off.mend) == (None, "")
    assert "the gate is switched off" in off.check.mend
    spoil(run_dir)
    unread = known_data(run_dir.settings, "phase6", set())
    assert unread is not None
    assert (unread.check.ok, unread.mend) == (None, "")
    assert "it cannot be told what was copied: the checkpoints cannot be read" in unread.check.found
    http = {"kind": "http", "origin": "http://127.0.0.1:1"}
    between = {"source": "a", "target": "b", "routes": ["/x/*"]}
    document = {"app": {"origin": "http://127.0.0.1:1"}, "backends": {"a": http, "b": http}}
    services = parse(document | {"migrations": {"phase6": between}, "proxy": {"run_dir": str(run_dir.folder)}})
    assert known_data(services, "phase6", set()) is None


# By the command line, with the task's own process.


@pytest.fixture
def command(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "scans.json").write_text("{}")
    (tmp_path / "phasegate.toml").write_text(
        f"""
[app]
origin = "http://127.0.0.1:1"
[proxy]
run_dir = "run"
workers = 1
[backends.mock]
kind = "mock"
[backends.other]
kind = "mock"
fixtures = "nothing"
[migrations.phase6]
source = "mock"
target = "other"
routes = ["/api/dashboard/*"]
[control]
listen = "127.0.0.1:{free_port()}"
"""
    )
    begun: list[subprocess.Popen[str]] = []

    def run(*args: str) -> subprocess.Popen[str]:
        whole = [sys.executable, "-m", "control.cli", *args, "--config", str(tmp_path / "phasegate.toml")]
        begun.append(subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield run
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_command_says_what_the_next_phasegate_will_know(command: Callable[..., subprocess.Popen[str]]) -> None:
    dry = command("copy", "--dry-run")
    assert dry.communicate(timeout=WITHIN_S)[1] == ""
    first = command("compare")
    _, told = first.communicate(timeout=WITHIN_S)
    assert first.returncode == 3, told
    assert "The next one will know of this: the target lacks the source's data" in told
    copy = command("copy")
    out, told = copy.communicate(timeout=WITHIN_S)
    assert copy.returncode == 0, told
    assert "phase6: copied 1,7" in out
    assert "The next one will know of this: the target is not known to lack anything." in told


def test_an_interrupted_copy_is_in_the_trail_and_goes_on(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path, until: Callable[..., None]
) -> None:
    copy = command("copy")
    trail = tmp_path / "run" / STORE

    def kinds() -> list[str]:
        store = Store(trail)
        try:
            return [line.kind for line in reversed(store.audit("phase6", 10))]
        finally:
            store.close()

    until(lambda: trail.exists() and kinds() == ["copy"], WITHIN_S, "the copy has begun")
    copy.send_signal(signal.SIGINT)
    copy.communicate(timeout=WITHIN_S)
    assert copy.returncode == 130
    assert kinds() == ["copy", "data_task_failed"]
    again = command("copy")
    again.communicate(timeout=WITHIN_S)
    assert again.returncode == 0
    assert kinds()[-1] == "copied"
