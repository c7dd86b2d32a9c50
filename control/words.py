"""What the control API says, in words for a person. Pure: statuses in, lines out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
    within = "within its limit" if last.get("within_deadline") else "LATER than its limit"
    steps = [
        f"{name} {last[key]:.0f} ms"
        for name, key in (("decided", "decided_ms"), ("seen by all", "seen_ms"), ("drained", "drained_ms"))
        if isinstance(last.get(key), int | float)
    ]
    total = last.get("total_ms")
    whole = f"complete after {total:.0f} ms, {within}" if isinstance(total, int | float) else "under way"
    route = f"{percent(last.get('from_weight'))} → {percent(last.get('to_weight'))}"
    return f"Rolled back {route} ({words(last.get('trigger'))}: {last.get('reason')}); {', '.join([*steps, whole])}"


def verdict_line(status: Json) -> str:
    """The newest verdict and the first of its reasons, which says it in short."""
    verdict = status.get("verdict")
    if not verdict:
        return "no verdict yet"
    reasons = verdict.get("reasons")
    return f"{words(verdict['outcome'])}: {reasons[0]}" if reasons else words(verdict["outcome"])


def changes(before: Json | None, now: Json) -> list[str]:
    """What a person reading plain lines should hear, given the last status they heard of."""
    if before is None:
        return [headline(now)]
    told = []
    if now["state"] != before["state"] or now["weight"] != before["weight"] or _phase(now) != _phase(before):
        told.append(headline(now))
    last = now.get("last_rollback")
    if last and last != before.get("last_rollback") and last.get("total_ms") is not None:
        told.append(rollback_line(last))
    outcome = (now.get("verdict") or {}).get("outcome")
    if outcome not in (None, "no_data", (before.get("verdict") or {}).get("outcome")):
        told.append(f"Verdict: {verdict_line(now)}")
    return told


def _phase(status: Json) -> object:
    return (status.get("phase") or {}).get("index")


def audit_line(entry: Json) -> str:
    """An audit entry in one line, with the first of its reasons."""
    why = str((entry.get("detail") or {}).get("reason") or "").split("; ")[0]
    line = f"{str(entry['at'])[11:19]} {entry['actor']} {words(entry['kind'])}"
    return f"{line} ({why})" if why else line


def ms(value: object) -> str:
    """A latency in milliseconds."""
    return f"{value:.2f} ms" if isinstance(value, int | float) else NONE


def figure(value: object) -> str:
    """A rule's value or limit."""
    return f"{value:.4g}" if isinstance(value, int | float) else NONE
