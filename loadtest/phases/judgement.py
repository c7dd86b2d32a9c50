"""The result of a load test, from phasegate's own figures. Pure.

The percentiles of a closed loop in Python measure the loop as much as the server. So latency and errors are judged by
phasegate's histograms, which hold every request, against the migration's own thresholds. The client adds what only it
knows: whether each answer was right, and whether the client itself was fast enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

CPU_MOST: Final = 0.70  # of a core; above it the generator's own delays distort every figure
SAMPLES_LEAST: Final = 100  # target requests; with fewer the target is not judged
_DEVIATIONS: Final = 5  # standard deviations that a split may be off; chance exceeds them once in two million runs

# As everywhere in phasegate: a load test is a gate.
PASSED, USAGE, GATE, ROLLED_BACK, UNREACHABLE = 0, 2, 3, 4, 5

Json = dict[str, Any]

_FIGURES: Final = ("error_rate", "p95_ms", "p99_ms")  # of an arm; the rules have the same names
_GONE_BACK: Final = ("rolling_back", "rolled_back", "aborted")


@dataclass(frozen=True, slots=True)
class Run:
    """What the client measured. ``cpu`` is its busiest ten seconds, as a share of a core; ``wrong`` are examples.

    ``phase`` is the phase that the load is for; "" for the whole migration.
    """

    phase: str
    requests: int
    failures: int
    cpu: float
    wrong: Sequence[str] = ()
    split: str | None = None  # what is wrong with the visitors' split, in words


@dataclass(frozen=True, slots=True)
class Judgement:
    """The exit code, and why."""

    code: int
    reasons: list[str] = field(default_factory=list)


def judge(run: Run, before: Json, after: Json) -> Judgement:
    """The judgement on a run between two statuses of the migration. The first check that finds a problem decides."""
    for code, check in _CHECKS:
        reasons = list(check(run, before, after))
        if reasons:
            return Judgement(code, reasons)
    return Judgement(PASSED, [_figure(rule, "kept") for rule in _rules(after)])


def _went_back(run: Run, before: Json, after: Json) -> Iterator[str]:
    last = after.get("last_rollback")
    if last and last != before.get("last_rollback"):
        yield f"phasegate rolled back: {last['trigger']}: {last['reason']}"
    elif after["state"] in _GONE_BACK:
        yield f"the migration is {after['state']}"


def _too_slow(run: Run, before: Json, after: Json) -> Iterator[str]:
    if run.cpu > CPU_MOST:
        yield (
            f"not judged: the load generator used {run.cpu:.0%} of a core, more than {CPU_MOST:.0%}, so it sent less "
            "than it was to; use fewer users, or several processes"
        )


def _wrong_answers(run: Run, before: Json, after: Json) -> Iterator[str]:
    if not run.requests:
        yield "no request was answered"
    if run.failures:
        yield f"{run.failures} of {run.requests} answers were wrong"
        yield from run.wrong


def _another_phase(run: Run, before: Json, after: Json) -> Iterator[str]:
    if run.phase:
        for when, status in (("began", before), ("ended", after)):
            phase = phase_name(status)
            if status["state"] == "completed":
                phase = status["phases"][-1]["name"]  # it completed meanwhile, and stays at the last phase's weight
            if phase != run.phase:
                yield f"the run was for phase {run.phase}, and {when} in {phase or status['state']}"
    elif after["state"] != "completed":
        yield f"the migration did not complete: it is {after['state']}"


def _limits(run: Run, before: Json, after: Json) -> Iterator[str]:
    samples = int(after["arms"]["target"]["requests"])
    if samples < SAMPLES_LEAST:
        yield f"no judgement: the target has answered {samples} requests, {SAMPLES_LEAST} are needed"
        return
    for rule in _rules(after):
        if rule["value"] is None:
            yield f"{rule['rule']}: no figure"
        elif rule["value"] > rule["limit"] or rule["outcome"] == "roll_back":
            yield _figure(rule, "BROKEN")


def _split(run: Run, before: Json, after: Json) -> Iterator[str]:
    if run.split:
        yield run.split


# A rollback comes first, whatever caused it; then whether the client's figures are valid, its findings, and the
# limits.
_CHECKS: Final = (
    (ROLLED_BACK, _went_back),
    (GATE, _too_slow),
    (GATE, _wrong_answers),
    (GATE, _another_phase),
    (GATE, _limits),
    (GATE, _split),
)


def _rules(status: Json) -> list[Json]:
    """The verdict's rules; those about the target's answers with its current figures."""
    target = status["arms"]["target"]
    return [
        {**rule, "value": target[rule["rule"]], "samples": target["requests"]} if rule["rule"] in _FIGURES else rule
        for rule in status["verdict"]["rules"]
    ]


def _figure(rule: Json, word: str) -> str:
    return f"{rule['rule']}: {rule['value']:.4g} of at most {rule['limit']:.4g}, {word} ({rule['samples']} samples)"


def split_problem(on_target: int, visitors: int, weight: float) -> str | None:
    """What is wrong with the number of visitors on the target at ``weight`` percent; None if it is plausible.

    Each visitor is on the target with that probability, so the count varies, except at 0 and 100 percent.
    """
    if not visitors:
        return None
    share = weight / 100
    allowed = _DEVIATIONS * math.sqrt(share * (1 - share) * visitors) + (0.5 if 0 < share < 1 else 0)
    if abs(on_target - share * visitors) <= allowed:
        return None
    return (
        f"{on_target} of {visitors} visitors are on the target: {100 * on_target / visitors:.1f} %, not {weight:g} %"
    )


def phase_name(status: Json) -> str:
    """The live phase's name; "" if there is none."""
    phase = status.get("phase")
    return str(phase["name"]) if phase else ""
