"""Two latencies: what phasegate adds to a request at a steady rate, and how fast a new weight takes effect."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from loadtest.bench.contenders import BenchError, ContenderOptions, Running
from loadtest.bench.measuring import Bench, Turn, running
from loadtest.stage.api import ControlApi
from loadtest.stage.leash import leashed
from loadtest.stage.processes import Process

RATE: Final = 1000
SECONDS: Final = 60
_CHANGE_S: Final = 6  # duration of the full load around a change of the weight
_OVER_WITHIN_S: Final = 60  # for the open loop to end after that: an answer may take 30
_OPEN_LOOP: Final = (sys.executable, "-m", "loadtest.generator.openloop")


@dataclass(frozen=True, slots=True)
class SteadyRow:
    """An open loop to the app, directly and through phasegate at the same time. Milliseconds."""

    path: str
    rate: float
    seconds: float
    direct_ms: dict[str, float]
    through_ms: dict[str, float]
    generator_cpu: float
    late_p99_ms: float

    @property
    def added_p99_ms(self) -> float:
        """What phasegate adds at p99."""
        return self.through_ms["p99"] - self.direct_ms["p99"]

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {"work": "steady", **asdict(self), "added_p99_ms": self.added_p99_ms}


def open_loop(bench: Bench, urls: list[str], *more: str) -> dict[str, Any]:
    """Run the open loop on the load's processors. Raises ``BenchError`` if any answer was wrong or repeated."""
    out = bench.place.folder / "openloop.json"
    command = [*bench.place.load, *_OPEN_LOOP, *urls, "--json", str(out), *more]
    done = subprocess.run(leashed(command), capture_output=True, text=True, check=False)
    if done.returncode == 1:
        raise BenchError(f"answers were wrong:\n{done.stdout}")
    if done.returncode not in (0, 3):
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(out.read_text())
    if any(target["repeated"] for target in result["targets"]):
        raise BenchError(f"kept connections were closed on requests:\n{done.stdout}")
    return result


def steady(bench: Bench, seconds: float = SECONDS, rate: float = RATE) -> list[SteadyRow]:
    """A small GET of the app's, and the snapshot (from phasegate's memory, compared with the app's own)."""
    rows = []
    with running("phasegate", bench) as contender:
        for path in ("/", contender.data_path):
            arguments = ("--rate", f"{rate:g}", "--for", f"{seconds:g}", "--path", path)
            result = open_loop(bench, [bench.app.url, contender.url], *arguments)
            direct, through = result["targets"]
            late = max(direct["late_ms"]["p99"], through["late_ms"]["p99"])
            row = SteadyRow(
                path, rate, seconds, direct["latency_ms"], through["latency_ms"], result["generator_cpu"], late
            )
            bench.say(f"  {path} at {rate:g}/s: p99 {row.added_p99_ms:+.3f} ms; the generator was {late:.3f} ms late")
            rows.append(row)
    return rows


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A rollback under full load, seen on the wire. Milliseconds.

    ``last_old_ms``: when the last request that the target answered was sent, relative to the request for the
    rollback; below 0 if before it. ``seen_ms`` is phasegate's own figure: when every worker showed the new weight.
    """

    workers: int
    load_rate: float
    last_old_ms: list[float]
    seen_ms: list[float]
    answered_ms: list[float]

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {"work": "weight change", **asdict(self), "median_ms": statistics.median(self.last_old_ms)}


def weight_change(bench: Bench, emulator: str, workers: int = 2) -> list[ChangeRow]:
    """Full load by wrk, beside it an open loop that records which arm answers; the weight goes from 50 % to 0."""
    lua = bench.script("change", {"X-User-Id": "user-%d"}, 64)
    options = ContenderOptions(workers=workers, firestore=emulator)
    with running("phasegate", bench, options) as contender:
        api = ControlApi(contender.control, contender.token, "data")
        turn = Turn("phasegate", contender, contender.data_path, lua)
        rates: list[float] = []
        rounds = [_change(bench, contender, api, turn, rates) for _ in range(bench.rounds)]
    last, seen, answered = (list(figures) for figures in zip(*rounds, strict=True))
    row = ChangeRow(workers, statistics.median(rates), last, seen, answered)
    bench.say(f"  {workers} workers: last request of the old weight sent {max(last):.1f} ms after the change at most")
    return [row]


def _change(
    bench: Bench, contender: Running, api: ControlApi, turn: Turn, rates: list[float]
) -> tuple[float, float, float]:
    out = bench.place.folder / "change.json"
    out.unlink(missing_ok=True)
    arguments = ["--path", contender.data_path, "--rate", "1000", "--for", str(_CHANGE_S)]
    arguments += ["--json", str(out), "--live"]
    with ThreadPoolExecutor(1) as pool:
        full_load = pool.submit(bench.sample, turn, _CHANGE_S)
        command = [*bench.place.load, *_OPEN_LOOP, contender.url, *arguments]
        watcher = Process("the open loop", command, bench.place.folder / "change.log", read=True)
        try:
            watcher.start()
            _wait_for_both_arms(watcher)
            began = time.monotonic_ns()
            status = api.act("rollback", to="start", reason="a benchmark")
            answered = (time.monotonic_ns() - began) / 1e6
            watcher.finish(_CHANGE_S + _OVER_WITHIN_S)
        finally:
            watcher.end()
        rates.append(full_load.result().rate)
    if not out.exists():
        raise BenchError(f"the open loop wrote no figures: {watcher.log()}")
    (target,) = json.loads(out.read_text())["targets"]
    if target["failed"]:
        raise BenchError(f"{target['failed']} answers were wrong: {target['examples']}")
    api.act("start", reason="a benchmark")  # for the next round
    return (target["last_start_ns"]["firestore"] - began) / 1e6, status["last_rollback"]["seen_ms"], answered


def _wait_for_both_arms(watcher: Process) -> None:
    """Wait until both arms answer, so that a change is visible. Raises ``StageError`` if the run ends before."""
    while True:
        (target,) = watcher.line()["targets"]
        if {"mock", "firestore"} <= target["sources"].keys():
            return
