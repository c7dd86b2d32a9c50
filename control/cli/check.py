"""``phasegate check``: makes every pre-flight check, and asks a running control plane for its checks of a start."""

from __future__ import annotations

from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.checks.check import Check, failed
from control.checks.preflight import preflight
from control.plan.settings import Settings


def check(settings: Settings, *, url: str | None, token: str | None) -> list[Check]:
    """Make every check. A control plane that answers at ``url`` adds a dry run of each migration's start."""
    client = ControlClient(url or f"http://{settings.control.listen}", token)

    def dry_run(migration: str) -> list[Check]:
        return _dry_run(ControlClient(client.url, token, migration))

    return preflight(settings, token=token, dry_run=dry_run if client.ready() else None)


def _dry_run(client: ControlClient) -> list[Check]:
    title = f"dry run of {client.migration}"
    try:
        answer = client.act("start", dry_run=True)
    except ApiError as error:
        return [Check(title, False, error.message, error.hint)]
    checks = answer.checks or ()
    if answer.refused and answer.refused.code == "not_allowed":
        # It was started already, or ended: nothing is broken, and nothing more would be asked.
        return [Check(title, None, answer.refused.message, answer.refused.hint)]
    if bad := failed(checks):
        return [Check(f"{title}: {check.name}", False, check.found, check.mend) for check in bad]
    return [Check(title, True, f"the control plane at {client.url} made {len(checks)} checks, none failed")]
