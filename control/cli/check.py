"""``phasegate check``: makes every pre-flight check, and asks a running control plane for its checks of a start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.checks.check import Check, failed
from control.checks.preflight import preflight
from control.cli.finding import control_url
from control.lead import starting
from control.lead.documents import Status
from control.plan.settings import Settings
from control.report.nextstep import next_line


class Checked(NamedTuple):
    """What was checked, and what to do next where nothing failed."""

    checks: list[Check]
    next_step: str


def check(settings: Settings, *, url: str | None, token: str | None) -> Checked:
    """Make every check. A control plane that answers at ``url`` adds a dry run of each migration's start."""
    found = url or control_url(settings.control.listen, Path(settings.proxy.run_dir))
    client = None if found is None else ControlClient(found, token)
    is_served = client is not None and client.ready()
    checks = preflight(
        settings,
        lambda each: starting.checks(each, same_environment=not is_served),
        token=token,
        is_served=is_served,
    )
    to_seed = any(each.name.startswith("initial data") and each.ok is None and each.mend for each in checks)
    if client is None or not is_served:
        steps = ["`phasegate seed`"] if to_seed else []
        return Checked(checks, ", ".join([*steps, "`phasegate serve`"]) + ", then `phasegate start`.")
    dry_runs = DryRuns(settings, client)
    checks += dry_runs.checks({each.name for each in failed(checks)})
    restart = any(each.name == "restart" for each in checks)
    return Checked(checks, dry_runs.next_step(to_seed=to_seed, restart=restart))


class DryRuns:
    """What a running control plane says of the configuration's migrations."""

    def __init__(self, settings: Settings, client: ControlClient) -> None:
        self._migrations = settings.migrations
        self._client = client
        self._statuses: dict[str, Status] = {}
        self._other_names = False  # it serves another configuration than this one

    def checks(self, known: set[str]) -> Iterator[Check]:
        """Ask for a dry run of each start. ``known`` are checks that have failed already: they are not told again."""
        try:
            served = {each.name for each in self._client.migrations().migrations}
        except ApiError as error:
            yield Check("dry run", False, error.message, error.hint)
            return
        for name, migration in self._migrations.items():
            # Until it has taken this configuration, it serves a renamed migration under its earlier name.
            asked = name if name in served or migration.was is None else migration.was
            title = f"dry run of {name}" if asked == name else f"dry run of {name}, served as {asked}"
            self._other_names |= asked != name or name not in served
            if asked in served:
                yield from self._dry_run(title, name, asked, known)
            else:
                found = f"the phasegate at {self._client.url} does not serve it yet"
                yield Check(title, None, found, "Have it take this configuration: reload or restart it.")

    def _dry_run(self, title: str, name: str, asked: str, known: set[str]) -> Iterator[Check]:
        try:
            answer = self._client.named(asked).act("start", dry_run=True)
        except ApiError as error:
            yield Check(title, False, error.message, error.hint)
            return
        self._statuses[name] = answer
        if answer.refused and answer.refused.code == "not_allowed":
            # It was started already, or ended: nothing is broken, and nothing more would be asked.
            yield Check(title, None, answer.refused.message, answer.refused.hint)
            return
        checks = answer.checks or ()
        bad = failed(checks)
        new = [each for each in bad if each.name not in known]
        known |= {each.name for each in new}
        yield from (Check(f"{title}: {each.name}", False, each.found, each.mend) for each in new)
        if not new:
            again = f"failed as above: {', '.join(each.name for each in bad)}" if bad else "none failed"
            made = f"the control plane at {self._client.url} made {len(checks)} checks, {again}"
            yield Check(title, None if bad else True, made)

    def next_step(self, *, to_seed: bool, restart: bool) -> str:
        """What to do now, by where each migration stands."""
        steps = ["`phasegate seed`"] if to_seed else []
        if restart:
            steps.append("restart phasegate, so that it takes this configuration")
        elif self._other_names:
            steps.append("send phasegate SIGHUP, so that it takes this configuration")
        several = len(self._migrations) > 1
        steps += [
            f"{name}: {next_line(each)}" if several else next_line(each) for name, each in self._statuses.items()
        ]
        return "; ".join(steps) + "."
