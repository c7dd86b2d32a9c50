"""The run directory: one phasegate at a time, and none that is older than whoever wrote it last."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import msgspec
import pytest

from proxy.process import rundir
from proxy.settings import CannotStartError


def test_a_new_directory_is_made_for_its_owner_alone_and_gets_this_versions_form(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with rundir.take(folder):
        assert rundir.form(folder) == rundir.FIRST
        rundir.note_form(folder)
        rundir.note_form(folder)
        assert rundir.form(folder) == rundir.FORM
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_phasegate_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    with rundir.take(tmp_path), pytest.raises(CannotStartError, match=r"another phasegate \(process \d+\) uses"):
        rundir.take(tmp_path)


@pytest.mark.parametrize(
    ("written", "said"),
    [("3", "written by a newer phasegate .form 3; this version knows 2"), ("x", "does not say which version")],
)
def test_a_form_that_is_newer_or_none_is_refused_in_words(tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "version").write_text(written)
    with pytest.raises(CannotStartError, match=said):
        rundir.form(tmp_path)


def test_a_link_where_the_form_is_written_is_not_followed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "version.new").symlink_to(tmp_path / "elsewhere")
    rundir.note_form(run)
    assert not (tmp_path / "elsewhere").exists()
    assert rundir.form(run) == rundir.FORM


def test_who_serves_is_told_only_while_it_has_the_directory(tmp_path: Path) -> None:
    ready = rundir.ReadyNote(os.getpid(), ("127.0.0.1:8080",), "127.0.0.1:40001")
    assert rundir.owner(tmp_path / "none") is None
    assert rundir.served_by(tmp_path / "none") is None
    with rundir.take(tmp_path):
        assert rundir.owner(tmp_path) == str(os.getpid())
        assert rundir.served_by(tmp_path) is None, "it has not said yet where it is"
        rundir.note_ready(tmp_path, ready)
        assert rundir.served_by(tmp_path) == ready
        # Left by an earlier one that was killed: another process may have its port by now.
        rundir.note_ready(tmp_path, msgspec.structs.replace(ready, pid=ready.pid + 1))
        assert rundir.served_by(tmp_path) is None
    rundir.note_ready(tmp_path, ready)
    assert rundir.owner(tmp_path) is None
    assert rundir.served_by(tmp_path) is None


def test_whoever_looks_keeps_nobody_from_starting(tmp_path: Path) -> None:
    rundir.take(tmp_path).close()
    looking = (tmp_path / "lock").open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    done = threading.Timer(rundir.TAKE_WITHIN_S / 5, looking.close)
    done.start()
    with rundir.take(tmp_path):
        assert looking.closed
    done.join()
