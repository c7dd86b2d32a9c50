"""What the control API says, in words for a person. Pure: statuses in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import floor
from typing import Any, Final

from control.judge.rules import BY_NAME

Json = Mapping[str, Any]

NONE: Final = "-"


def words(name: object) -> str:
    """An API's name as a person would say it."""
    return str(name).replace("_", " ")


def percent(value: object) -> str:
    """A weight in percent, without decimals that say nothing."""
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
    """A whole number, thousands set apart."""
    return f"{value:,}"


def figure(value: object) -> str:
    """A number with no more digits than say something."""
    return f"{value:.4g}" if isinstance(value, int | float) else NONE


def ms(value: object) -> str:
    """A latency in milliseconds."""
    return f"{value:.2f} ms" if isinstance(value, int | float) else NONE


def share(value: object) -> str:
    """A share of 1, in percent: three digits, and no zeros behind them."""
    return f"{100 * value:.3g} %" if isinstance(value, int | float) else NONE


def measured(value: object) -> str:
    """A share of requests that was counted, in percent to two decimals."""
    return f"{100 * value:.2f} %" if isinstance(value, int | float) else NONE


def error_rate(arm: Json) -> str:
    """The share of an arm's requests that failed; of no requests there is none."""
    return measured(arm.get("error_rate") or 0.0) if arm.get("requests") else NONE


def proof(value: object) -> str:
    """How far a rule's proof has come, in whole percent: 100 % only where it is proven."""
    return f"{floor(100 * value)} %" if isinstance(value, int | float) else NONE


def summary(verdict: Json) -> list[str]:
    """What a verdict says of the whole; one of an earlier version has only its reasons."""
    return [str(reason) for reason in verdict.get("summary", verdict.get("reasons")) or []]


def _round_ms(value: object) -> str:
    if not isinstance(value, int | float):
        return NONE
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _megabytes(value: object) -> str:
    return f"{value:,.4g} MB" if isinstance(value, int | float) else NONE


# How a rule's value and limit are written, by the unit that its row names.
_WRITTEN: Final[Mapping[str, Callable[[object], str]]] = {"share": share, "ms": _round_ms, "MB": _megabytes}


def rule(row: Json) -> tuple[str, Callable[[object], str]]:
    """The name of a verdict's rule for a person, and how its value and limit are written.

    An audit trail may hold verdicts of an earlier version, whose rows have neither label nor unit: then the judge's
    table is asked by the rule's name.
    """
    known = BY_NAME.get(str(row["rule"]))
    label = row.get("label") or (known.label if known else words(row["rule"]))
    unit = row.get("unit") or (known.unit.name if known else "")
    return str(label), _WRITTEN.get(str(unit), figure)


def headline(status: Json) -> str:
    """Where a migration stands, in one line."""
    phase = status.get("phase")
    parts = [f"{status['migration']}: {words(status['state'])}"]
    if phase:
        parts.append(f"phase {phase['index'] + 1} of {len(status.get('phases') or [phase])}, {phase['name']}")
    parts.append(f"{percent(status['weight'])} on the target")
    return ", ".join(parts)


def rollback_line(last: Json) -> str:
    """A rollback and its clock, in one line."""
    steps = [
        f"{name} {last[key]:.0f} ms"
        for name, key in (("decided", "decided_ms"), ("seen by all", "seen_ms"), ("drained", "drained_ms"))
        if isinstance(last.get(key), int | float)
    ]
    whole = "under way" if last.get("total_ms") is None else _complete(last, ", within its limit")
    return f"Rolled back {_route(last)} ({_cause(last)}); {', '.join([*steps, whole])}"


def _route(change: Json) -> str:
    return f"{percent(change.get('from_weight'))} → {percent(change.get('to_weight'))}"


def _complete(rollback: Json, in_time: str = "") -> str:
    """When a rollback was complete; ``in_time`` is what is said where it kept its limit."""
    late = in_time if rollback.get("within_deadline") else ", LATER than its limit"
    return f"complete after {rollback['total_ms']:.0f} ms{late}"


def _cause(rollback: Json) -> str:
    """Why a rollback was: what set it off, and the first of the reasons if one was given."""
    trigger = words(rollback.get("trigger"))
    reason = str(rollback.get("reason") or "").split("; ")[0]
    return f"{trigger}: {reason}" if reason else trigger


def next_line(status: Json) -> str:
    """What happens from here, and by whose doing: by itself, or by which command."""
    state, phase, phases = status["state"], status.get("phase"), status.get("phases") or []
    if state == "idle":
        return f"`phasegate start` puts {percent(phases[0]['weight'])} on the target" if phases else NONE
    if state == "running" and phase:
        later = phases[phase["index"] + 1 :]
        to = f"{later[0]['name']}, {percent(later[0]['weight'])}" if later else "completion"
        if later and later[0].get("approval"):
            return f"{to}, when an operator approves it with `phasegate advance`"
        left = float(phase.get("min_soak_s") or 0) - float(phase.get("soaked_s") or 0)
        if left > 0:
            return f"{to}, in {span(max(1.0, left // 1))} at the earliest, when every rule is proven"
        promoted = (status.get("verdict") or {}).get("outcome") == "promote"
        return f"{to}, now" if promoted else f"{to}, as soon as every rule is proven"
    weight = percent(status["weight"])
    return {
        "paused": f"held at {weight} until `phasegate resume`; a breach is still rolled back",
        "rolling_back": "requests that the target has still open are waited for",
        "rolled_back": (
            f"held at {weight} until `phasegate resume`; a breach is rolled back further"
            if status["weight"]
            else "all is on the source; `phasegate start --resume` goes on where it was, `start` begins anew"
        ),
        "completed": "nothing: the target has it for good; `phasegate report` tells how it went",
        "aborted": "all is on the source; `phasegate start` begins anew",
    }.get(state, NONE)


# Of a run in these states it cannot be said that it failed: what is not there yet may come.
_OPEN: Final = frozenset({"idle", "running", "paused", "rolling_back"})


def criteria(report: Json) -> list[tuple[str, bool | None, str]]:
    """A report's criteria: name, whether it passed (None: the run is not over), evidence."""
    going = report.get("outcome") in _OPEN and not report.get("ended_at")
    rows = report.get("criteria") or []
    return [(words(c["name"]), bool(c["passed"]) or (None if going else False), str(c["evidence"])) for c in rows]


def verdict_line(status: Json) -> str:
    """The newest verdict and the first of its reasons, which says it in short."""
    verdict = status.get("verdict")
    if not verdict:
        return "no verdict yet"
    reasons = verdict.get("reasons")
    return f"{words(verdict['outcome'])}: {reasons[0]}" if reasons else words(verdict["outcome"])


def changes(before: Json | None, now: Json) -> list[str]:
    """What is new in a status, in plain lines, for a person who was told of the one before."""
    if before is None:
        return [headline(now)]
    news = []
    if now["state"] != before["state"] or now["weight"] != before["weight"] or _phase(now) != _phase(before):
        news.append(headline(now))
    last = now.get("last_rollback")
    if last and last != before.get("last_rollback") and last.get("total_ms") is not None:
        news.append(rollback_line(last))
    outcome = (now.get("verdict") or {}).get("outcome")
    if outcome not in (None, "no_data", (before.get("verdict") or {}).get("outcome")):
        news.append(f"Verdict: {verdict_line(now)}")
    return news


def _phase(status: Json) -> object:
    return (status.get("phase") or {}).get("index")


def audit_line(entry: Json) -> str:
    """An audit entry in one line: time of day (UTC), who, what, and why."""
    line = f"{str(entry['at'])[11:19]} {entry['actor']} {words(entry['kind'])}"
    detail = audit_detail(entry)
    return f"{line}  {detail}" if detail else line


# Of an audit entry's detail: what stands elsewhere on the line, or is for programs.
_LEFT_OUT: Final = frozenset(
    {
        *("revision", "from_weight", "to_weight", "weight", "phase", "trigger", "reason"),
        *("name", "entered_at", "left_at", "soaked_s", "target_share", "arms", "adapters", "verdict"),
        *("validations", "validations_failed"),
        *("decided_ms", "seen_ms", "drained_ms", "total_ms", "within_deadline"),
    }
)


def audit_detail(entry: Json) -> str:
    """What an audit entry says beside its kind, in words."""
    detail: Json = entry.get("detail") or {}
    parts = []
    if entry["kind"] == "phase_left":
        target = (detail.get("arms") or {}).get("target") or {}
        parts = [str(detail.get("name")), f"after {span(detail.get('soaked_s'))} of soak"]
        parts += [f"{count(target.get('requests', 0))} target requests", f"{count(target.get('errors', 0))} errors"]
        parts += [f"p95 {_round_ms(target['p95_ms'])}"] if target.get("p95_ms") is not None else []
    elif detail.get("to_weight") is not None:
        parts.append(f"{_route(detail)}, {detail['phase']}" if detail.get("phase") else _route(detail))
    elif detail.get("weight") is not None:
        parts.append(f"at {percent(detail['weight'])}")
    if detail.get("total_ms") is not None:
        parts.append(_complete(detail))
    elif detail.get("trigger") not in (None, "command"):
        parts.append(words(detail["trigger"]))
    if reason := str(detail.get("reason") or ""):
        first, more, _ = reason.partition("; ")  # a verdict gives one a rule
        parts.append(f"“{first} …”" if more and entry["actor"] == "phasegate" else f"“{reason}”")
    for name, value in detail.items():
        if name not in _LEFT_OUT and value not in (None, "", [], {}):
            parts.append(f"{words(name)}: {value}")
    return ", ".join(parts)
