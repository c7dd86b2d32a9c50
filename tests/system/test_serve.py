"""What a running phasegate owes its clients, whatever is killed: real processes, real emulator, real traffic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil

from backends.kinds.firestore.emulator import Emulator
from control.lead.priority import NICENESS

Start = Callable[..., Any]
Wait = Callable[..., None]

HALF = [("half", 50, "10m")]
FULL = [("initial", 25, "10m"), ("complete", 100, "10m")]


def answered_by(counts: dict[str, Any], source: str) -> int:
    return int(counts.get("sources", {}).get(source, 0))


def test_no_answer_that_started_after_a_rollback_came_from_the_target(
    serving: Start, emulated: str, until: Wait
) -> None:
    running = serving(emulated, FULL)
    traffic = running.traffic()
    assert running.phasegate("start", "--detach").returncode == 0
    assert running.phasegate("advance", "--reason", "a rehearsal").returncode == 0
    until(lambda: answered_by(traffic.counts, "firestore") > 100, 60, "answers from Firestore")

    done = running.phasegate("rollback", "--to", "start", "--reason", "a rehearsal")
    complete_ns = time.monotonic_ns()
    before = traffic.counts["sources"]["mock"]
    until(lambda: answered_by(traffic.counts, "mock") > before + 100, 60, "answers from the mock")
    counts = traffic.end()

    assert done.returncode == 0, done.stderr
    assert "complete after" in done.stdout
    assert "within its limit" in done.stdout
    assert counts["last_start_ns"]["firestore"] < complete_ns < counts["last_start_ns"]["mock"]
    assert counts["failed"] == 0, counts["examples"]
    last = running.client.status().last_rollback
    assert last.within_deadline
    assert (last.from_weight, last.to_weight) == (100, 0)
    kinds = [entry.kind for entry in running.client.audit(20).entries]
    assert "rollback_complete" in kinds


def test_a_killed_firestore_fails_no_reader_and_the_migration_rolls_back_by_itself(
    serving: Start, own_emulator: Emulator, until: Wait
) -> None:
    running = serving("demo-killed", HALF)
    traffic = running.traffic()
    assert running.phasegate("start", "--detach").returncode == 0
    until(lambda: answered_by(traffic.counts, "firestore") > 100, 60, "answers from Firestore")

    own_emulator.signal(signal.SIGKILL)
    until(lambda: running.client.status().state == "rolled_back", 60, "the rollback")
    last = running.client.status().last_rollback
    until(lambda: running.client.status().weight == 0, 60)
    failed_at_rollback = traffic.counts["failed"]
    counts = traffic.end()

    assert counts["failed_reads"] == 0, counts["examples"]
    assert counts["failed"] == failed_at_rollback, "writes go to the source again"
    assert sum(counts["fallbacks"].values()) > 0
    assert last.trigger == "breach"
    assert last.within_deadline
    report = running.client.report()
    assert report.outcome == "rolled_back"
    assert report.phases[0].arms.target.errors > 0
    fallbacks = sum(found.fallbacks for found in running.client.metrics().operations)
    assert fallbacks == sum(counts["fallbacks"].values())


def test_a_killed_worker_is_back_within_two_seconds_and_loses_only_what_it_had_in_flight(
    serving: Start, emulated: str, until: Wait
) -> None:
    running = serving(emulated, HALF)
    traffic = running.traffic()
    assert running.phasegate("start", "--detach").returncode == 0
    until(lambda: answered_by(traffic.counts, "firestore") > 50, 60, "answers from Firestore")
    before_it = [worker.pid for worker in running.client.status().workers]
    victim = before_it[0]

    connections = len(psutil.Process(traffic.pid).net_connections("tcp"))
    os.kill(victim, signal.SIGKILL)
    killed_at = time.time()

    def replaced() -> bool:
        workers = running.client.status().workers
        return len(workers) == 2 and all(worker.pid != victim for worker in workers)

    until(replaced, 60, "a new worker")
    workers = running.client.status().workers
    successor = psutil.Process(next(worker.pid for worker in workers if worker.pid not in before_it))
    cpu_s = sum(successor.cpu_times()[:2])
    begun_after_s = successor.create_time() - killed_at
    before = traffic.counts["answered"]
    until(lambda: traffic.counts["answered"] > before, 60, "counts that are newer than the replacement")
    failed, before = traffic.counts["failed"], traffic.counts["answered"]
    until(lambda: traffic.counts["answered"] > before + 150, 60, "answers of the new worker")
    counts = traffic.end()

    # Two seconds on a machine with a processor for it; on any other, what does not depend on the machine's load.
    assert begun_after_s < 2.0, "it is started at once"
    assert cpu_s < 2.0, "and has little to do before it serves"
    assert counts["failed"] == failed, "nothing fails once it is back"
    assert failed <= connections, "at most one request in flight on each of the client's connections"
    assert running.client.status().state == "running"


def test_a_killed_control_plane_costs_no_request_and_goes_on_from_its_checkpoint(
    serving: Start, emulated: str, until: Wait
) -> None:
    running = serving(emulated, HALF)
    traffic = running.traffic()
    assert running.phasegate("start", "--detach").returncode == 0
    until(lambda: running.client.status().phase.soaked_s > 1, 60, "a second of soak")
    before = running.client.status()
    (control,) = running.processes("control.serve")

    control.send_signal(signal.SIGKILL)
    answered = traffic.counts["answered"]
    until(lambda: traffic.counts["answered"] > answered + 30, 60, "answers while control is dead")
    until(lambda: [p.pid for p in running.processes("control.serve")] not in ([], [control.pid]), 60, "a new one")
    until(running.client.ready, 60, "the control plane")
    after = running.client.status()
    sources = dict(traffic.counts["sources"])
    until(lambda: answered_by(traffic.counts, "firestore") > sources["firestore"] + 20, 60, "answers from Firestore")
    counts = traffic.end()

    assert (after.state, after.weight) == ("running", 50)
    assert after.phase.name == before.phase.name
    assert after.revision >= before.revision
    assert counts["failed"] == 0, counts["examples"]


def test_a_hung_control_plane_loses_its_lease_and_the_source_answers_everything(
    serving: Start, emulated: str, until: Wait
) -> None:
    running = serving(emulated, HALF, lease="1s")
    traffic = running.traffic()
    assert running.phasegate("start", "--detach").returncode == 0
    until(lambda: answered_by(traffic.counts, "firestore") > 50, 60, "answers from Firestore")
    (control,) = running.processes("control.serve")

    control.send_signal(signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    try:
        until(
            lambda: traffic.counts["at_ns"] - traffic.counts["last_start_ns"]["firestore"] > 1_000_000_000,
            20,
            "a second without an answer from Firestore",
        )
    finally:
        control.send_signal(signal.SIGCONT)
    counts = traffic.end()

    lapsed_s = (counts["last_start_ns"]["firestore"] - stopped_ns) / 1e9
    assert lapsed_s < 1.5, "the lease of 1 s, and half a second for the machine"
    assert counts["failed"] == 0, counts["examples"]


def test_control_goes_before_the_load_where_the_system_grants_it(serving: Start, emulated: str, until: Wait) -> None:
    asked = subprocess.run([sys.executable, "-c", f"import os; os.setpriority(os.PRIO_PROCESS, 0, {NICENESS})"])
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    running = serving(emulated, HALF)
    (control,) = running.processes("control.serve")
    until(lambda: control.nice() == (NICENESS if asked.returncode == 0 else ours), 90, "it works little")
    workers = [worker.pid for worker in running.client.status().workers]
    assert [psutil.Process(pid).nice() for pid in workers] == [ours] * len(workers)


def test_a_restart_holds_the_migration_where_it_was_and_ends_without_a_trace(
    serving: Start, emulated: str, until: Wait
) -> None:
    running = serving(emulated, HALF)
    assert running.phasegate("start", "--detach").returncode == 0
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 3

    assert running.children.end("phasegate") == 0
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]
