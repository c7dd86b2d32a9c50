"""Checks a demo's outcome: each phase's share, the client's counts against phasegate's, no failed request. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

from control.report.documents import Report, ReportedPhase
from control.report.wording import measured, percent, words
from control.rollout.model import State

Json = Mapping[str, Any]  # the client's counts, as ``control.demo.load`` writes them

STANDARD_ERRORS: Final = 3.0  # allowed deviation of a share: by chance alone 0.3 % of phases would deviate further


@dataclass(frozen=True, slots=True)
class DemoPromise:
    """One check of the outcome: whether it passed, and the figures that show it."""

    name: str
    held: bool
    evidence: str


def promises(report: Report, kinds: tuple[str, str], counters: Json, wire: Json) -> list[DemoPromise]:
    """Every check of a demo's outcome.

    ``kinds`` are the source's and the target's ``x-data-source``. ``counters`` has phasegate's own counts of
    ``source`` and ``target`` requests and of ``fallbacks`` since its start; ``wire`` has the client's over the same
    time.
    """
    return [
        DemoPromise("the migration completed", report.outcome is State.COMPLETED, words(report.outcome)),
        _copied(report),
        *(_share(phase) for phase in report.phases),
        *_wire(kinds, counters, wire),
        DemoPromise(
            "no client request failed",
            wire["failed"] == 0 and wire["sent"] == wire["answered"] > 0,
            ", ".join(f"{wire[key]} {words(key)}" for key in ("sent", "answered", "failed", "held_back"))
            + "".join(f"; {example}" for example in wire["examples"]),
        ),
        DemoPromise("reads and writes were both sent", wire["reads"] > 0 and wire["writes"] > 0, _mix(wire)),
    ]


def _copied(report: Report) -> DemoPromise:
    """The source's documents must have been copied before the first phase, and nothing be missing at the end."""
    name, data = "the data was copied before the first phase", report.data
    if data is None or data.copied_at is None or report.started_at is None:
        return DemoPromise(name, False, "no copy, or no start")
    held = data.complete and data.copied_at <= report.started_at  # RFC 3339 in UTC, to the millisecond: sorts as text
    evidence = f"copied at {data.copied_at}, started at {report.started_at}, {data.lost} changes lost"
    return DemoPromise(name, held, evidence)


def _share(phase: ReportedPhase) -> DemoPromise:
    """A phase's share of target requests must be within three standard errors of its weight."""
    weight, share = phase.weight / 100, phase.target_share
    requests = phase.arms.source.requests + phase.arms.target.requests
    name = f"{phase.name}: {percent(phase.weight)} on the target"
    if not requests or share is None:
        return DemoPromise(name, False, "no request in this phase")
    error = sqrt(weight * (1 - weight) / requests)
    held = abs(share - weight) <= STANDARD_ERRORS * error
    evidence = f"{measured(share)} of {requests} requests, ± {100 * STANDARD_ERRORS * error:.2f} allowed"
    return DemoPromise(name, held, evidence)


def _wire(kinds: tuple[str, str], counters: Json, wire: Json) -> list[DemoPromise]:
    """The client's counts by ``x-data-source`` must agree with phasegate's.

    phasegate counts a fallback as a target request, but the source answers it, and the client sees the source's name.
    """
    seen = wire["sources"]
    fallbacks = counters["fallbacks"]
    expected = (counters["source"] + fallbacks, counters["target"] - fallbacks)
    pairs = [(kind, seen.get(kind, 0), count) for kind, count in zip(kinds, expected, strict=True)]
    strangers = sorted(set(seen) - set(kinds))
    return [
        DemoPromise(
            "answers by x-data-source agree with the counters",
            all(on_wire == counted for _, on_wire, counted in pairs) and not strangers,
            ", ".join(f"{kind}: {on_wire} on the wire, {counted} counted" for kind, on_wire, counted in pairs)
            + "".join(f", unknown: {name}" for name in strangers),
        ),
        DemoPromise(
            "fallbacks on the wire agree with the counters",
            sum(wire["fallbacks"].values()) == fallbacks,
            f"{sum(wire['fallbacks'].values())} on the wire, {fallbacks} counted",
        ),
    ]


def _mix(wire: Json) -> str:
    return f"{wire['reads']} reads, {wire['writes']} writes, {wire['app']} of the app"
