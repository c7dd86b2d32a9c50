"""A soak test: steady load while the weight goes up and down; checks for leaks and for exact counters.

``python -m loadtest.rehearse.soak --minutes 60``. The load adds no documents after its first seconds, so any growth
is a leak: memory, file descriptors, threads or sockets of any of phasegate's processes. At the end phasegate's
counters must equal the client's exactly, through every start, advance and rollback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.rehearse.faults import MIXTURE
from loadtest.rehearse.judge import RehearsalFinding
from loadtest.rehearse.load import RehearsalLoad
from loadtest.rehearse.records import APP, SOURCE, TARGET, RequestRecord
from loadtest.stage import procfs
from loadtest.stage.api import ControlApiError
from loadtest.stage.errors import StageError
from loadtest.stage.setting import Setting
from loadtest.stage.stage import StagedPhasegate, World, folder

OK, USAGE, FAILED = 0, 2, 3
HOLD_S: Final = 2.0  # at each weight
SAMPLE_S: Final = 1.0  # between samples
WARM_S: Final = 10.0  # before the first sample that counts
GROWTH_SHARE: Final = 0.1  # allowed growth of memory, as a share, plus
GROWTH_MB: Final = 8.0  # memory that an allocator may keep
GROWTH_COUNT: Final = 24.0  # allowed for descriptors and sockets: client connections may move to the other worker
GROWTH_THREADS: Final = 1.0  # allowed: a thread pool may start its next thread late
EXAMPLES: Final = 3  # of failures, shown as text

# STEADY lacks the operations that add documents, so that stored data stays constant once every visitor has a scan.
ADDING: Final = frozenset({"dashboard.publish", "scans.create", "scans.add_results", "analytics.ingest"})
STEADY: Final = {name: often for name, often in MIXTURE.items() if name not in ADDING}


class ProcessSample(NamedTuple):
    """One process at one moment."""

    rss_mb: float
    descriptors: int
    sockets: int
    threads: int


@dataclass(slots=True)
class ClientCounts:
    """The client's counts."""

    sent: int = 0
    app: int = 0
    source: int = 0
    target: int = 0
    fallbacks: int = 0
    repeated: int = 0

    def add(self, record: RequestRecord) -> None:
        """Count a request."""
        self.sent += 1
        self.app += record.source == APP
        self.source += record.asked == SOURCE
        self.target += record.asked == TARGET
        self.fallbacks += bool(record.fallback)
        self.repeated += record.repeated


def sample(pid: int) -> ProcessSample:
    """Sample a process. Raises ``OSError`` if it has ended."""
    targets = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            targets.append(str(entry.readlink()))
        except OSError:
            continue  # closed in between
    sockets = sum(target.startswith("socket:") for target in targets)
    status = Path(f"/proc/{pid}/status").read_text()
    threads = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))
    return ProcessSample(round(procfs.rss([pid]) / 2**20, 1), len(targets), sockets, threads)


def flat(name: str, series: Sequence[ProcessSample]) -> list[RehearsalFinding]:
    """Whether a process used no more in the last third of the run than in the first. Pure."""
    third = max(1, len(series) // 3)
    findings = []
    for figure, allowed in (
        ("rss_mb", GROWTH_MB),
        ("descriptors", GROWTH_COUNT),
        ("sockets", GROWTH_COUNT),
        ("threads", GROWTH_THREADS),
    ):
        first = statistics.median(getattr(one, figure) for one in series[:third])
        last = statistics.median(getattr(one, figure) for one in series[-third:])
        limit = first * (1 + GROWTH_SHARE if figure == "rss_mb" else 1.0) + allowed
        evidence = f"{first:g} in the first third, {last:g} in the last, at most {limit:.1f} allowed"
        findings.append(RehearsalFinding(f"{name}: {figure} is flat", last <= limit, evidence))
    return findings


def equal(client: ClientCounts, counted: dict[str, int]) -> RehearsalFinding:
    """Whether phasegate's counters equal the client's exactly. Pure."""
    wire = {"source": client.source, "target": client.target, "fallbacks": client.fallbacks, "app": client.app}
    evidence = ", ".join(f"{name} {counted[name]} counted, {count} on the wire" for name, count in wire.items())
    return RehearsalFinding("every counter agrees to the request", wire == counted and client.sent > 0, evidence)


async def soak(world: World, seconds: float, rate: float) -> tuple[list[RehearsalFinding], dict[str, object]]:
    """Run the soak; returns the findings and the figures."""
    counts, failures, examples = ClientCounts(), Counter[str](), list[str]()

    def note(record: RequestRecord) -> None:
        counts.add(record)
        if record.failure:
            failures[f"{record.operation} {record.failure}"] += 1
            if len(examples) < EXAMPLES:
                examples.append(record.detail or record.failure)

    async with StagedPhasegate(world, Setting(), "soak") as stage:
        load = RehearsalLoad(stage.listen, rate, STEADY, note)
        before = await asyncio.to_thread(counted, stage)
        series: dict[str, list[ProcessSample]] = {}
        load.start()
        turning = asyncio.create_task(_turn(stage))
        try:
            await _watch(stage, series, seconds)
            turning.cancel()
            turns = (await asyncio.gather(turning, return_exceptions=True))[0]
            await load.stop()
            after = await asyncio.to_thread(counted, stage)
            audit = await asyncio.to_thread(stage.audit)
        finally:
            turning.cancel()
            await load.stop()
            await load.close()
    rollbacks = [line["detail"] for line in audit if line["kind"] == "rollback_complete"]
    late = [detail for detail in rollbacks if not detail["within_deadline"]]
    findings = [
        RehearsalFinding("no request failed", not failures, "; ".join([str(dict(failures)), *examples])),
        equal(counts, {name: after[name] - before[name] for name in after}),
        RehearsalFinding(
            "the weight went up and down",
            len(rollbacks) > 0 and not late,
            f"{len(rollbacks)} times, {len(late)} late",
        ),
        RehearsalFinding("every turn was obeyed", isinstance(turns, asyncio.CancelledError), repr(turns)),
    ]
    for name, samples in series.items():
        findings += flat(name, samples)
    figures = {
        "seconds": seconds,
        "rate": rate,
        "counts": asdict(counts),
        "rollbacks": len(rollbacks),
        "processes": {
            name: [samples[0], samples[len(samples) // 2], samples[-1]] for name, samples in series.items()
        },
    }
    return findings, figures


async def _turn(stage: StagedPhasegate) -> None:
    """Go up phase by phase and roll back to 0, repeatedly."""
    while True:
        for action, fields in (("start", {}), ("advance", {}), ("advance", {}), ("rollback", {"to": "start"})):
            await asyncio.to_thread(stage.api.act, action, reason="the soak's", **fields)
            await asyncio.sleep(HOLD_S)


async def _watch(stage: StagedPhasegate, series: dict[str, list[ProcessSample]], seconds: float) -> None:
    """Sample every process once a second."""
    pids = {f"worker {slot}": pid for slot, pid in (await asyncio.to_thread(stage.workers)).items()}
    pids |= {"control": stage.control_pid(), "supervisor": stage.phasegate.pid}
    end = time.monotonic() + seconds
    await asyncio.sleep(min(WARM_S, seconds / 3))
    while time.monotonic() < end:
        for name, pid in pids.items():
            series.setdefault(name, []).append(await asyncio.to_thread(sample, pid))
        await asyncio.sleep(SAMPLE_S)


def counted(stage: StagedPhasegate) -> dict[str, int]:
    """phasegate's own counters. Raises ``ControlApiError``."""
    figures = stage.api.call("GET", f"{stage.api.path}/metrics")
    arms = {
        name: sum(one["arms"][name]["requests"] for one in figures["operations"]) for name in ("source", "target")
    }
    request = urllib.request.Request(f"http://{stage.control}/metrics", headers=stage.credentials)
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
        lines = answer.read().decode().splitlines()
    app = sum(float(line.split()[-1]) for line in lines if line.startswith("phasegate_app_requests_total"))
    return arms | {"fallbacks": sum(one["fallbacks"] for one in figures["operations"]), "app": int(app)}


def main(arguments: Sequence[str]) -> int:
    """Run it and print the findings; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.rehearse.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        findings, figures = asyncio.run(_run(60 * options.minutes, options.rate))
    except (StageError, ControlApiError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return USAGE
    for finding in findings:
        print(f"{'yes' if finding.held else 'NO ':4} {finding.name}: {finding.evidence}")
    if options.json:
        options.json.write_text(
            json.dumps(figures | {"findings": [asdict(one) for one in findings]}, indent=1) + "\n"
        )
    return OK if all(finding.held for finding in findings) else FAILED


async def _run(seconds: float, rate: float) -> tuple[list[RehearsalFinding], dict[str, object]]:
    with folder() as place:
        async with World(place) as world:
            return await soak(world, seconds, rate)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
