"""Figures of phasegate's own processes: memory in one unit, whoever measured it."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.figures import counts
from control.figures.counts import Machine
from proxy.board import layout as at
from proxy.board.board import Board
from proxy.board.layout import Layout

LAYOUT = Layout(1, (("phase6", ("a",)),))
MB = 1_000_000
WORKER_PID = 4711


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board.create(tmp_path / "board", LAYOUT, 42)


def put_worker(board: Board, rss_kb: int) -> None:
    row = LAYOUT.worker(0)
    board.cells[row + at.W_PID] = WORKER_PID
    board.cells[row + at.W_RSS_KB] = rss_kb


def control_uses(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(counts, "own_memory_bytes", lambda: size)


@pytest.mark.parametrize(("worker_kb", "control_bytes"), [(500_000, 0), (0, 500_000 * 1024)])
def test_a_worker_and_the_control_process_of_one_size_are_the_same_number_of_megabytes(
    board: Board, monkeypatch: pytest.MonkeyPatch, worker_kb: int, control_bytes: int
) -> None:
    put_worker(board, worker_kb)
    control_uses(monkeypatch, control_bytes)
    assert Machine(board).sample(0.0)["memory_mb"] == pytest.approx(500_000 * 1024 / MB)


def test_the_largest_process_counts_and_a_slot_without_a_process_does_not(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_uses(monkeypatch, 90 * MB)
    put_worker(board, 200_000)
    assert Machine(board).sample(0.0)["memory_mb"] == pytest.approx(204.8)
    board.cells[LAYOUT.worker(0) + at.W_PID] = 0
    assert Machine(board).sample(0.0)["memory_mb"] == pytest.approx(90.0)


def test_this_process_measures_its_memory_as_the_kernel_tells_it() -> None:
    status = Path("/proc/self/status").read_text()
    rss_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert counts.own_memory_bytes() == pytest.approx(rss_kb * 1024, rel=0.04)
