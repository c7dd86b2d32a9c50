"""Runs wrk against contenders in turn, round by round, and measures the contender's CPU time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from loadtest.bench import wrk
from loadtest.bench.contenders import CONTENDERS, BenchApp, BenchError, ContenderOptions, Place, Running
from loadtest.stage import procfs
from loadtest.stage.processes import get

CONNECTIONS: Final = 64
WARM_UP_S: Final = 2
_COUNTED_LEAST: Final = 100  # requests; a run with fewer is an error
_USUAL: Final = ContenderOptions()


@dataclass(frozen=True, slots=True)
class WrkSample:
    """One run. ``cpu_us`` is the contender's CPU time per request, user and system, of all its processes.

    ``busy`` is the used share of the contender's processors, ``foreign`` the share that other processes used. A large
    ``foreign`` makes the figure less reliable, because caches and time slices were shared.
    """

    cpu_us: float
    rate: float
    p50_ms: float
    p99_ms: float
    busy: float
    foreign: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(slots=True)
class WrkRow:
    """One contender at one work, round by round. ``ratio`` is relative to the reference in the same round."""

    work: str
    contender: str
    samples: list[WrkSample] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def spread(self, name: str) -> Spread:
        """The spread of one figure over the rounds."""
        return Spread.of([getattr(sample, name) for sample in self.samples])

    @property
    def ratio(self) -> Spread:
        """CPU time per request, relative to the reference's in the same round."""
        return Spread.of(self.ratios)

    def to_json(self) -> dict[str, object]:
        """All of it."""
        names = ("cpu_us", "rate", "p50_ms", "p99_ms", "busy", "foreign")
        summary = {name: asdict(self.spread(name)) for name in names}
        summary["ratio"] = asdict(self.ratio)
        return {
            "work": self.work,
            "contender": self.contender,
            **summary,
            "rounds": [{**asdict(s), "ratio": r} for s, r in zip(self.samples, self.ratios, strict=True)],
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender's requests in a work; ``label`` names the row."""

    label: str
    running: Running
    path: str
    lua: Path
    connections: int = CONNECTIONS


class Bench:
    """Where and how long to measure, and the app behind every contender."""

    def __init__(self, place: Place, app: BenchApp, rounds: int, seconds: int, say: Callable[[str], None]) -> None:
        self.place = place
        self.app = app
        self.rounds = rounds
        self.seconds = seconds
        self.say = say

    def script(self, name: str, varied: Mapping[str, str] | None = None, variants: int = 0, path: str = "") -> Path:
        """A file with wrk's script for a browser's head, with further fields and a path that vary."""
        file = self.place.folder / f"{name}.lua"
        fields = {key: value for key, value in wrk.BROWSER.items() if key not in (varied or {})}
        file.write_text(wrk.script(fields, varied or {}, variants, path))
        return file

    def sample(self, turn: Turn, seconds: int) -> WrkSample:
        """One run of wrk. Raises ``BenchError``."""
        pids = turn.running.pids()
        own, began, before = procfs.cpu_s(pids), time.monotonic(), procfs.cpus()
        try:
            report = wrk.run(self.place.load, turn.running.url + turn.path, turn.lua, turn.connections, seconds)
        except wrk.WrkError as error:
            raise BenchError(f"{turn.label}: {error}\n{turn.running.process.log()}") from None
        wall = time.monotonic() - began
        after = procfs.cpus()
        try:
            own = procfs.cpu_s(pids) - own
        except FileNotFoundError:
            raise BenchError(f"{turn.label}: a process of it ended meanwhile: {turn.running.process.log()}") from None
        if report.requests < _COUNTED_LEAST:
            raise BenchError(f"{turn.label}: {report.requests} requests in {report.seconds:.1f} s are too few")
        busy = used(before, after, self.place.proxy_cpus)
        cores = len(processors(self.place.proxy_cpus))
        foreign = max(0.0, busy - own / wall / cores)
        return WrkSample(own / report.requests * 1e6, report.rate, report.p50_ms, report.p99_ms, busy, foreign)

    def rounds_of(self, work: str, turns: Sequence[Turn], reference: str) -> list[WrkRow]:
        """Warm up each, then measure each once per round. Ratios are relative to the row called ``reference``."""
        for turn in turns:
            check(turn)
            self.sample(turn, WARM_UP_S)
        rows = [WrkRow(work, turn.label) for turn in turns]
        for number in range(self.rounds):
            samples = [self.sample(turn, self.seconds) for turn in turns]
            base = next(s.cpu_us for turn, s in zip(turns, samples, strict=True) if turn.label == reference)
            for row, sample in zip(rows, samples, strict=True):
                row.samples.append(sample)
                row.ratios.append(sample.cpu_us / base)
            figures = "  ".join(f"{t.label} {s.cpu_us:.2f}" for t, s in zip(turns, samples, strict=True))
            self.say(f"  {work}, round {number + 1} of {self.rounds}, CPU µs a request: {figures}")
        return rows


def check(turn: Turn) -> None:
    """Check that the requests to be measured are answered with 200. Raises ``BenchError``."""
    try:
        status, body = get(turn.running.url.removeprefix("http://"), turn.path, {"x-user-id": "bench"}, 10)
    except OSError as error:
        raise BenchError(f"{turn.label}: {turn.path}: {error}\n{turn.running.process.log()}") from None
    if status != 200 or not body:
        raise BenchError(f"{turn.label}: {turn.path}: status {status}, {len(body)} bytes: {body[:200]!r}")


def processors(cpus: str) -> list[int]:
    """``"0,2-3"`` → [0, 2, 3], as taskset takes them."""
    numbers: list[int] = []
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def used(before: Mapping[int, tuple[int, int]], after: Mapping[int, tuple[int, int]], cpus: str) -> float:
    """The used share of these processors between two readings."""
    numbers = processors(cpus)
    busy = sum(after[n][0] - before[n][0] for n in numbers)
    total = sum(after[n][1] - before[n][1] for n in numbers)
    return busy / total if total else 0.0


@contextmanager
def running(name: str, bench: Bench, options: ContenderOptions = _USUAL, suffix: str = "") -> Iterator[Running]:
    """A contender for the length of a block; ``suffix`` separates the files of several with one name."""
    place = replace(bench.place, folder=bench.place.folder / f"{name}{suffix}")
    place.folder.mkdir(exist_ok=True)
    contender = CONTENDERS[name](place, bench.app, options)
    try:
        yield contender
    finally:
        contender.end()
