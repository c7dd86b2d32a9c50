"""Compares what was seen in a rehearsal with what its row allows. Pure.

Every finding has its evidence. Every rehearsal must satisfy, whatever was broken: no failures beyond the allowed
ones, no confirmed write lost, every visitor on one side while the weight is constant, no request to the target after
a rollback, phasegate's counters equal to the client's, the audit trail's chain intact.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from loadtest.generator.visitors import WRITES
from loadtest.rehearse.faults import Allowed, RehearsalRow
from loadtest.rehearse.records import SOURCE, TARGET, RequestRecord, between, p99_ms

Json = dict[str, Any]

WITHIN_S: Final = 38.0  # from the fault to the end of the last rollback: the product's promise
SLACK_S: Final = 0.15  # tolerance between the audit trail's timestamps and the client's clock
EXAMPLES: Final = 3  # of failures, shown as text
SHARE: Final = (0.3, 0.7)  # of 80 visitors on the target at weight 50: the bounds are 3.6 standard deviations away


@dataclass(frozen=True, slots=True)
class RehearsalFinding:
    """One promise: whether it held, and the figures that show it."""

    name: str
    held: bool
    evidence: str


@dataclass(slots=True)
class Seen:
    """Everything recorded in a rehearsal. Times in CLOCK_MONOTONIC seconds."""

    records: list[RequestRecord] = field(default_factory=list)
    steady: float = 0.0  # from here on the weight was constant
    begun: float = 0.0
    ended: float = 0.0
    unix_to_mono: float = 0.0  # added to a time of the audit trail gives a time of this record
    facts: Json = field(default_factory=dict)
    status: Json = field(default_factory=dict)
    audit: list[Json] = field(default_factory=list)  # since the fault began, oldest first; ``unix`` is its time
    chain: list[str] = field(default_factory=list)  # what is wrong with the audit trail
    counters: dict[str, int] = field(default_factory=dict)  # source, target, fallbacks
    promises: int = 0
    lost: list[str] = field(default_factory=list)  # writes that a side lacks or has otherwise than confirmed
    uncopied: list[str] = field(default_factory=list)  # of those: the source has them, and the target does not
    mirror_lost: int = 0  # changes that phasegate itself counted as lost
    error: str = ""  # why it could not be completed


@dataclass(slots=True)
class RehearsalVerdict:
    """A rehearsal's outcome: its row of figures and its findings."""

    name: str
    title: str
    held: bool
    figures: Json
    findings: list[RehearsalFinding]
    facts: Json


def judge(rehearsal: RehearsalRow, seen: Seen) -> RehearsalVerdict:
    """Compare what was seen with the row."""
    findings = list(_findings(rehearsal, seen))
    held = all(finding.held for finding in findings)
    return RehearsalVerdict(rehearsal.name, rehearsal.title, held, figures(rehearsal, seen), findings, seen.facts)


def _findings(rehearsal: RehearsalRow, seen: Seen) -> Iterator[RehearsalFinding]:
    if seen.error:
        yield RehearsalFinding("it was carried out to its end", False, seen.error)
        return
    yield _happened(rehearsal, seen)
    yield _failures(rehearsal, seen)
    yield _nothing_lost(seen)
    yield from _ending(rehearsal, seen)
    yield _sticky(rehearsal, seen)
    yield from _left_alone(rehearsal, seen)
    if rehearsal.counters:
        yield _counters(seen)
    yield RehearsalFinding(
        "the audit trail is whole", not seen.chain, "; ".join(seen.chain) or "every entry follows the last"
    )


def _happened(rehearsal: RehearsalRow, seen: Seen) -> RehearsalFinding:
    missing = [name for name in rehearsal.proof if not seen.facts.get(name)]
    before = {record.asked for record in between(seen.records, seen.steady, max(seen.begun, seen.steady + 0.001))}
    if rehearsal.begin and not {SOURCE, TARGET} <= before:
        missing.append("answers from both sides before it")
    evidence = ", ".join(f"{name}: {seen.facts.get(name)}" for name in rehearsal.proof) or "nothing was to be broken"
    return RehearsalFinding(
        "what was to be broken was broken", not missing, f"missing: {missing}" if missing else evidence
    )


# Failures.


def _excused(allowed: Allowed, seen: Seen, record: RequestRecord) -> bool:
    of = {"any": True, "app": record.operation.startswith("app."), "writes": record.operation in WRITES}
    in_time = record.ended >= seen.begun and record.due <= seen.ended + allowed.grace_s
    return in_time and of[allowed.of] and record.failure in allowed.kinds


def _failures(rehearsal: RehearsalRow, seen: Seen) -> RehearsalFinding:
    failed = [record for record in seen.records if record.failure]
    left = failed
    summary = []
    too_many = False
    for allowed in rehearsal.allowed:
        excused = [record for record in left if _excused(allowed, seen, record)]
        left = [record for record in left if not _excused(allowed, seen, record)]
        too_many |= len(excused) > allowed.most
        summary.append(f"{len(excused)} of at most {allowed.most}: {allowed.why}")
    kinds = Counter(f"{record.operation} {record.failure}" for record in left)
    examples = [
        f"{record.detail or record.failure} (at {record.due - seen.begun:+.2f} s)" for record in left[:EXAMPLES]
    ]
    summary += [f"{sum(kinds.values())} beyond what is allowed"] if left or not summary else []
    evidence = "; ".join(summary + ([str(dict(kinds))] if left else []) + examples)
    return RehearsalFinding(
        "no request failed but those allowed", not left and not too_many and bool(seen.records), evidence
    )


def _nothing_lost(seen: Seen) -> RehearsalFinding:
    """A killed worker may lose changes that were not mirrored to the target yet; then phasegate must count them."""
    parts = [f"{seen.promises} writes looked for on every side that is read, {len(seen.lost)} not found as confirmed"]
    excused = _copies(seen)
    if excused:
        parts.append(
            f"{len(excused)} are on the source alone, and phasegate says that it lost {seen.mirror_lost} copies"
        )
    held = len(seen.lost) == len(excused) and seen.promises > 0
    return RehearsalFinding("no confirmed write is lost", held, "; ".join([*parts, *seen.lost[:EXAMPLES]]))


def _copies(seen: Seen) -> list[str]:
    """Writes that only the target lacks, if phasegate counted lost changes."""
    return seen.uncopied if seen.mirror_lost else []


# The migration.


def _rollbacks(seen: Seen) -> list[Json]:
    return [line for line in seen.audit if line["kind"] == "rollback"]


def _completions(seen: Seen) -> list[Json]:
    return [line for line in seen.audit if line["kind"] == "rollback_complete"]


def _ending(rehearsal: RehearsalRow, seen: Seen) -> Iterator[RehearsalFinding]:
    ends = rehearsal.ends
    state, weight = seen.status.get("state"), seen.status.get("weight", -1)
    expected = f"{' or '.join(sorted(ends.states))} at {ends.least:g} to {ends.most:g} %"
    held = state in ends.states and ends.least <= weight <= ends.most
    yield RehearsalFinding("it ends where it should", held, f"{state} at {weight:g} %, expected {expected}")
    begun, done = _rollbacks(seen), _completions(seen)
    if ends.rollback == "never":
        why = "; ".join(f"{line['detail']['trigger']}: {line['detail']['reason']}" for line in begun)
        yield RehearsalFinding("no traffic was taken back", not begun, why or "no rollback")
        return
    if ends.rollback == "may" and not begun:
        return
    triggers = {line["detail"]["trigger"] for line in begun}
    reasons = "; ".join(line["detail"]["reason"] for line in begun)
    right = bool(begun) and triggers <= ends.triggers and ends.reason in reasons
    yield RehearsalFinding(
        "traffic was taken back, and for the right reason", right, f"{sorted(triggers)}: {reasons[:300]}"
    )
    in_time = bool(done) and all(line["detail"]["within_deadline"] for line in done)
    details = [line["detail"] for line in done]
    steps = "; ".join(f"{d['from_weight']:g} to {d['to_weight']:g} % in {d['total_ms']:.0f} ms" for d in details)
    yield RehearsalFinding("every rollback was complete within its deadline", in_time, steps or "none was completed")
    safe = safe_s(seen)
    held = safe is not None and safe <= WITHIN_S
    yield RehearsalFinding(f"from the fault to the last harm within {WITHIN_S:g} s", held, f"{safe} s")


def safe_s(seen: Seen) -> float | None:
    """From the fault's begin to the end of the last rollback; None if none was completed."""
    done = _completions(seen)
    return round(done[-1]["unix"] + seen.unix_to_mono - seen.begun, 2) if done else None


def _sticky(rehearsal: RehearsalRow, seen: Seen) -> RehearsalFinding:
    """Each visitor stays on one side while the weight is constant, and never goes back while it rises.

    The exception is read-your-writes: a visitor whose write fell back to the source is read from there for a while.
    """
    end = float("inf") if rehearsal.ends.rollback == "never" else seen.begun
    by_visitor: defaultdict[str, list[RequestRecord]] = defaultdict(list)
    for record in between(seen.records, 0.0, end):
        by_visitor[record.visitor].append(record)
    data_requests = [record for record in between(seen.records, seen.steady, end) if record.asked in (SOURCE, TARGET)]
    arrived: dict[str, float] = {}
    for record in data_requests:
        if record.asked == TARGET:
            arrived[record.visitor] = min(record.ended, arrived.get(record.visitor, float("inf")))
    on_source = [r for r in data_requests if r.asked == SOURCE and r.visitor in arrived]
    unexplained = [r for r in on_source if not _after_own_write(r, by_visitor[r.visitor])]
    back = {r.visitor for r in unexplained if r.due > arrived[r.visitor]}
    visitors = {record.visitor for record in data_requests}
    evidence = f"{len(visitors)} visitors, {len(arrived)} of them on the target, {len(back)} went back and forth"
    held = not back and bool(visitors)
    if rehearsal.setting.plan == "held":
        standing = between(data_requests, seen.steady, seen.begun)
        everybody = {record.visitor for record in standing}
        on_target = {record.visitor for record in standing if record.asked == TARGET}
        both = {record.visitor for record in between(unexplained, seen.steady, seen.begun)} & on_target
        share = len(on_target) / max(1, len(everybody))
        held = held and not both and SHARE[0] <= share <= SHARE[1]
        evidence += f"; at 50 % {share:.0%} of {len(everybody)}, {len(both)} on both sides"
    return RehearsalFinding("every visitor stays on one side", held, evidence)


def _after_own_write(read: RequestRecord, of_visitor: Sequence[RequestRecord]) -> bool:
    """Whether the visitor wrote to the source and was not on the target since: the target may lack the write."""
    writes = [w for w in of_visitor if w.operation in WRITES and w.source == SOURCE and w.due < read.ended]
    target_reads = [t for t in of_visitor if t.source == TARGET and t.ended < read.due]
    return any(all(target.due <= write.ended for target in target_reads) for write in writes)


def _left_alone(rehearsal: RehearsalRow, seen: Seen) -> Iterator[RehearsalFinding]:
    """After a rollback no request goes to the target, not even one that falls back."""
    done = _completions(seen)
    left = done[-1]["unix"] + seen.unix_to_mono + SLACK_S if done else 0.0
    # A second rollback may come at the load's end: then no later request could have gone there.
    if done and seen.status.get("weight") == 0 and between(seen.records, left, float("inf")):
        yield _nobody_asked(
            "nobody is sent to the target once the rollback is complete", seen.records, left, float("inf")
        )
    if "left_at" in seen.facts:
        lapsed = seen.begun + rehearsal.setting.lease_s + SLACK_S
        yield _nobody_asked(
            "without control the workers leave the target when the lease ends",
            seen.records,
            lapsed,
            seen.facts["left_at"],
        )


def _nobody_asked(name: str, records: Sequence[RequestRecord], begin: float, end: float) -> RehearsalFinding:
    later = [record for record in between(records, begin, end) if record.source in (SOURCE, TARGET)]
    on_target = [record for record in later if record.asked == TARGET]
    late = f", the last {on_target[-1].due - begin:.2f} s after" if on_target else ""
    return RehearsalFinding(
        name, bool(later) and not on_target, f"{len(on_target)} of {len(later)} later requests{late}"
    )


def _counters(seen: Seen) -> RehearsalFinding:
    """Every answered request is counted; one whose connection broke may be counted or not."""
    data = [record for record in seen.records if not record.operation.startswith("app.")]
    broken = sum(1 for record in data if record.failure in ("broken", "timeout")) + sum(r.repeated for r in data)
    wire = {
        "source": sum(record.asked == SOURCE for record in data),
        "target": sum(record.asked == TARGET for record in data),
        "fallbacks": sum(bool(record.fallback) for record in data),
    }
    off = {name: seen.counters.get(name, -1) - count for name, count in wire.items()}
    held = all(0 <= difference <= broken for difference in off.values())
    counts = ", ".join(
        f"{name} {seen.counters.get(name)} counted, {count} on the wire" for name, count in wire.items()
    )
    return RehearsalFinding(
        "phasegate's counters agree with the client's", held, f"{counts}; {broken} broke on the way"
    )


# The row.


def figures(rehearsal: RehearsalRow, seen: Seen) -> Json:
    """The figures of the table."""
    rollbacks, done = _rollbacks(seen), _completions(seen)
    first = rollbacks[0]["unix"] + seen.unix_to_mono - seen.begun if rollbacks else None
    worst = max((line["detail"] for line in done), key=lambda detail: detail["total_ms"], default=None)
    during_end = max(seen.ended, seen.begun)
    return {
        "requests": len(seen.records),
        "failed": sum(bool(record.failure) for record in seen.records),
        "allowed": sum(allowed.most for allowed in rehearsal.allowed),
        "stale": sum(record.failure == "stale" for record in seen.records),
        "repeated": sum(record.repeated for record in seen.records),
        "fallbacks": dict(Counter(record.fallback for record in seen.records if record.fallback)),
        "fallbacks_before": sum(bool(record.fallback) for record in seen.records if record.ended < seen.begun),
        "p99_before_ms": p99_ms(between(seen.records, seen.steady, seen.begun)),
        "p99_during_ms": p99_ms(between(seen.records, seen.begun, during_end)),
        "p99_after_ms": p99_ms(between(seen.records, during_end, float("inf"))),
        "detected_s": None if first is None else round(first, 2),
        "decided_ms": worst["decided_ms"] if worst else None,
        "seen_ms": worst["seen_ms"] if worst else None,
        "drained_ms": worst["drained_ms"] if worst else None,
        "safe_s": safe_s(seen),
        "ends": f"{seen.status.get('state')} {seen.status.get('weight', 0):g} %",
        "writes": seen.promises,
        "lost": len(seen.lost) - len(_copies(seen)),
    }
