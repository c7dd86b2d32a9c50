"""Writes the control API's documents and figures in words for a person. Pure: documents in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import floor
from typing import Final

from control.data.documents import DataDocument
from control.figures.documents import Summary
from control.judge.document import VerdictDocument
from control.judge.rules import BY_NAME, RuleResult
from control.lead.documents import ArmStatus, Status
from control.report.documents import Report, ReportedData
from control.rollout.model import Rollback, State
from control.store.entry import AuditEntry

NONE: Final = "-"  # written in place of a figure that does not exist
ROUND_MS: Final = 100  # from here on milliseconds are written without decimals


def words(name: object) -> str:
    """A name of the API in words: ``rolled_back`` → "rolled back"."""
    return str(name).replace("_", " ")


def percent(value: object) -> str:
    """A weight in percent, without trailing zeros."""
    return f"{float(value):g} %" if isinstance(value, int | float) else NONE


def span(seconds: object) -> str:
    """A length of time for a person: 4.2s, 1m05s, 2h03m."""
    if not isinstance(seconds, int | float):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def moment(text: object) -> str:
    """The date and time of day of an RFC 3339 time, to the second."""
    return str(text)[:19].replace("T", " ")


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def figure(value: object) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}" if isinstance(value, int | float) else NONE


def ms(value: object) -> str:
    """A latency in milliseconds."""
    return f"{value:.2f} ms" if isinstance(value, int | float) else NONE


def share(value: object) -> str:
    """A share of 1, in percent with three significant digits, without trailing zeros."""
    return f"{100 * value:.3g} %" if isinstance(value, int | float) else NONE


def measured(value: object) -> str:
    """A measured share of requests, in percent with two decimals."""
    return f"{100 * value:.2f} %" if isinstance(value, int | float) else NONE


def error_rate(arm: Summary | ArmStatus) -> str:
    """The share of an arm's requests that failed; ``NONE`` without requests."""
    return measured(arm.error_rate) if arm.requests else NONE


def proof(value: object) -> str:
    """How much of a rule's proof there is, rounded down to whole percent: 100 % only where the rule is proven."""
    return f"{floor(100 * value)} %" if isinstance(value, int | float) else NONE


def summary(verdict: VerdictDocument) -> tuple[str, ...]:
    """The verdict's summary; its reasons where an earlier version, which wrote no summary, made the verdict."""
    of_earlier_version = not verdict.summary and not any(rule.label for rule in verdict.rules)
    return verdict.reasons if of_earlier_version else verdict.summary


def _round_ms(value: object) -> str:
    if not isinstance(value, int | float):
        return NONE
    return f"{value:,.0f} ms" if value >= ROUND_MS else f"{value:.3g} ms"


def _megabytes(value: object) -> str:
    return f"{value:,.4g} MB" if isinstance(value, int | float) else NONE


# How a rule's value and limit are written, by the unit that its row names.
_WRITTEN: Final[Mapping[str, Callable[[object], str]]] = {"share": share, "ms": _round_ms, "MB": _megabytes}


def rule(row: RuleResult) -> tuple[str, Callable[[object], str]]:
    """A rule's name for a person, and the function that writes its value and limit.

    Rows that an earlier version wrote into the audit trail have neither label nor unit. For them, both come from the
    judge's table, looked up by the rule's name.
    """
    if row.label:
        return row.label, _WRITTEN[row.unit]
    known = BY_NAME.get(row.rule)
    return (known.label, _WRITTEN[known.unit.name]) if known else (words(row.rule), figure)


def headline(status: Status) -> str:
    """Where a migration stands, in one line."""
    phase = status.phase
    parts = [f"{status.migration}: {words(status.state)}"]
    if phase is not None:
        parts.append(f"phase {phase.index + 1} of {len(status.phases)}, {phase.name}")
    parts.append(f"{percent(status.weight)} on the target")
    return ", ".join(parts)


def rollback_line(last: Rollback) -> str:
    """A rollback and its clock, in one line."""
    steps = [
        f"{name} {took_ms:.0f} ms"
        for name, took_ms in (
            ("decided", last.decided_ms),
            ("seen by all", last.seen_ms),
            ("drained", last.drained_ms),
        )
    ]
    whole = _complete(last.total_ms, last.within_deadline, ", within its limit")
    return f"Rolled back {_route(last.from_weight, last.to_weight)} ({_cause(last)}); {', '.join([*steps, whole])}"


def _route(from_weight: object, to_weight: object) -> str:
    return f"{percent(from_weight)} → {percent(to_weight)}"


def _complete(total_ms: float, within_deadline: bool, in_time: str = "") -> str:
    """When a rollback was complete. ``in_time`` is added where the rollback kept its limit."""
    return f"complete after {total_ms:.0f} ms{in_time if within_deadline else ', LATER than its limit'}"


def _cause(rollback: Rollback) -> str:
    """Why a rollback happened: its trigger, and the first reason if there is one."""
    trigger = words(rollback.trigger)
    reason = rollback.reasons[0] if rollback.reasons else rollback.reason
    return f"{trigger}: {reason}" if reason else trigger


def after_rollback(status: Status) -> str:
    """Where a rollback has led, and how to go all the way."""
    if not status.weight:
        return "0 % is on the target: all is on the source"
    weight = percent(status.weight)
    return f"{weight} is on the target still; `phasegate rollback --to start` takes it all the way to 0 %"


# In these states a run is not over: a criterion that is not met yet may still be met.
_OPEN: Final = frozenset({State.IDLE, State.RUNNING, State.PAUSED, State.ROLLING_BACK})


def criteria(report: Report) -> list[tuple[str, bool | None, str]]:
    """A report's criteria: name, whether it passed (None: the run is not over), evidence."""
    going_on = report.outcome in _OPEN and report.ended_at is None
    return [(words(c.name), c.passed or (None if going_on else False), c.evidence) for c in report.criteria]


def data_known(data: DataDocument | ReportedData) -> str:
    """Whether the target has the source's data, and the command that brings what it lacks."""
    if data.complete:
        return "the target is not known to lack anything"
    held = "; no phase begins before" if data.gated else ""
    return "INCOMPLETE" if data.mend is None else f"INCOMPLETE, `{data.mend}` mends it{held}"


def data_lines(data: DataDocument | ReportedData) -> list[str]:
    """What is known of the target's data, in lines for a person."""
    copied = "never" if data.copied_at is None else f"{moment(data.copied_at)} UTC"
    lines = [f"copied: {copied}"]
    if data.compare is None:
        lines.append("compared: never")
    else:
        last = data.compare
        found = "equal" if last.equal else f"{count(last.differences)} differences"
        if not last.equal and not last.differences:
            found = "no difference, but not equal either: documents were on their way"
        lines.append(f"compared: {moment(last.at)} UTC, {count(last.documents)} documents, {found}")
    if data.lost:
        lines.append(f"lost: {count(data.lost)} changes reached one side alone since the last copy or equal compare")
    return lines


def data_line(data: DataDocument) -> str:
    """What is known of the target's data, in one line: whether it is complete, and the task under way."""
    parts = [data_known(data), *data_lines(data)]
    if data.behind.changes:
        parts.append(f"{count(data.behind.changes)} changes on their way")
    if data.task is not None:
        of = "" if data.task.of is None else f" of {count(data.task.of)}"
        left = "" if data.task.left_s is None else f", {span(data.task.left_s)} left"
        parts.append(f"{data.task.kind.value}: {count(data.task.done)}{of} documents{left}")
    return "; ".join(parts)


def verdict_line(verdict: VerdictDocument) -> str:
    """A verdict's outcome and its first reason."""
    return ": ".join([words(verdict.outcome), *verdict.reasons[:1]])


def audit_line(entry: AuditEntry) -> str:
    """An audit entry in one line: time of day (UTC), actor, kind and detail."""
    line = f"{entry.at[11:19]} {entry.actor} {words(entry.kind)}"
    detail = audit_detail(entry)
    return f"{line}  {detail}" if detail else line


# Fields of an audit entry's detail that the line shows elsewhere, or that are for programs only.
_LEFT_OUT: Final = frozenset(
    {
        *("revision", "from_weight", "to_weight", "weight", "phase", "trigger", "reason", "reasons"),
        *("name", "entered_at", "left_at", "soaked_s", "target_share", "arms", "adapters", "verdict"),
        *("unsplit", "copies", "copy_faults"),
        *("validations", "validations_failed"),
        *("decided_ms", "seen_ms", "drained_ms", "total_ms", "within_deadline"),
    }
)


def audit_detail(entry: AuditEntry) -> str:
    """An audit entry's detail in words. Each kind of entry has its own fields."""
    detail = entry.detail
    parts = []
    if entry.kind == "phase_left":
        target = (detail.get("arms") or {}).get("target") or {}
        parts = [str(detail.get("name")), f"after {span(detail.get('soaked_s'))} of soak"]
        parts += [f"{count(target.get('requests', 0))} target requests", f"{count(target.get('errors', 0))} errors"]
        parts += [f"p95 {_round_ms(target['p95_ms'])}"] if target.get("p95_ms") is not None else []
    elif detail.get("to_weight") is not None:
        route = _route(detail.get("from_weight"), detail["to_weight"])
        parts.append(f"{route}, {detail['phase']}" if detail.get("phase") else route)
    elif detail.get("weight") is not None:
        parts.append(f"at {percent(detail['weight'])}")
    if detail.get("total_ms") is not None:
        parts.append(_complete(detail["total_ms"], bool(detail.get("within_deadline"))))
    elif detail.get("trigger") not in (None, "command"):
        parts.append(words(detail["trigger"]))
    if reason := str(detail.get("reason") or ""):
        several: Sequence[str] = detail.get("reasons") or ()
        parts.append(f"“{several[0]} …”" if len(several) > 1 else f"“{reason}”")
    for name, value in detail.items():
        if name not in _LEFT_OUT and value not in (None, "", [], {}):
            parts.append(f"{words(name)}: {value}")
    return ", ".join(parts)
