"""Whether a demo held its promises: each phase's share, the wire against the counters, no failed request. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

from control.report.wording import Json, words

STANDARD_ERRORS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One promise: whether it held, and the figures that say so."""

    name: str
    held: bool
    evidence: str


def findings(report: Json, kinds: tuple[str, str], counters: Json, wire: Json) -> list[Finding]:
    """Everything that a demo's end is judged by.

    ``kinds`` are the source's and the target's ``x-data-source``. ``counters`` has phasegate's own ``source`` and
    ``target`` requests and ``fallbacks`` since its start; ``wire`` is what the client counted over the same time.
    """
    outcome = str(report.get("outcome"))
    return [
        Finding("the migration completed", outcome == "completed", outcome.replace("_", " ")),
        *(_share(phase) for phase in report.get("phases") or []),
        *_wire(kinds, counters, wire),
        Finding(
            "no client request failed",
            wire["failed"] == 0 and wire["sent"] == wire["answered"] > 0,
            ", ".join(f"{wire[key]} {words(key)}" for key in ("sent", "answered", "failed", "held_back"))
            + "".join(f"; {example}" for example in wire["examples"]),
        ),
        Finding("reads and writes were both sent", wire["reads"] > 0 and wire["writes"] > 0, _mix(wire)),
    ]


def _share(phase: Json) -> Finding:
    """A phase's share of target requests, against its weight: within three standard errors of a fair draw."""
    weight = phase["weight"] / 100
    requests = sum(arm["requests"] for arm in phase["arms"].values())
    share = phase["target_share"]
    if not requests or share is None:
        return Finding(f"{phase['name']}: {phase['weight']:g} % on the target", False, "no request in this phase")
    error = sqrt(weight * (1 - weight) / requests)
    held = abs(share - weight) <= STANDARD_ERRORS * error
    evidence = f"{100 * share:.2f} % of {requests} requests, ± {100 * STANDARD_ERRORS * error:.2f} allowed"
    return Finding(f"{phase['name']}: {phase['weight']:g} % on the target", held, evidence)


def _wire(kinds: tuple[str, str], counters: Json, wire: Json) -> list[Finding]:
    """A fallback counts as a request of the target's, and is answered by the source: it says so on the wire."""
    seen = wire["sources"]
    fallbacks = counters["fallbacks"]
    expected = (counters["source"] + fallbacks, counters["target"] - fallbacks)
    pairs = [(kind, seen.get(kind, 0), count) for kind, count in zip(kinds, expected, strict=True)]
    strangers = sorted(set(seen) - set(kinds))
    return [
        Finding(
            "answers by x-data-source agree with the counters",
            all(said == counted for _, said, counted in pairs) and not strangers,
            ", ".join(f"{kind}: {said} on the wire, {counted} counted" for kind, said, counted in pairs)
            + "".join(f", unknown: {name}" for name in strangers),
        ),
        Finding(
            "fallbacks on the wire agree with the counters",
            sum(wire["fallbacks"].values()) == fallbacks,
            f"{sum(wire['fallbacks'].values())} on the wire, {fallbacks} counted",
        ),
    ]


def _mix(wire: Json) -> str:
    return f"{wire['reads']} reads, {wire['writes']} writes, {wire['app']} of the app"
