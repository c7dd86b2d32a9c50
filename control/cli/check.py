"""``phasegate check``: makes every pre-flight check, and asks a running control plane for its checks of a start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backends.copy.folder import FixtureError
from backends.errors import Fault
from control.api.client import ControlClient
from control.api.unanswered import ApiError
from control.checks.check import Check, failed
from control.checks.preflight import preflight
from control.cli.finding import control_url
from control.data.pair import pair_of
from control.lead import starting
from control.lead.documents import Status
from control.lead.offline import OfflineData
from control.plan.settings import Settings
from control.report.nextstep import next_line
from proxy.settings import CannotStartError


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
    if client is None or not is_served:
        unwell = {each.name for each in failed(checks)}
        data = [known for name in settings.migrations if (known := known_data(settings, name, unwell)) is not None]
        steps = ["`phasegate serve`", *(f"`{each.mend}`" for each in data if each.mend)]
        return Checked(checks + [each.check for each in data], f"{', '.join(steps)}, then `phasegate start`.")
    dry_runs = DryRuns(settings, client)
    checks += dry_runs.checks({each.name for each in failed(checks)})
    restart = any(each.name == "restart" for each in checks)
    return Checked(checks, dry_runs.next_step(restart=restart))


class KnownData(NamedTuple):
    """What is known of a migration's data while nobody serves."""

    check: Check
    mend: str  # the command without which no phase begins; "" where one may, or the gate is switched off


def known_data(settings: Settings, name: str, unwell: set[str]) -> KnownData | None:
    """What the run directory, and the target's marker, say of a migration's data; None where an arm is no store.

    None too where it cannot be told, for which a check has failed by now. Backends in ``unwell`` are not asked.
    """
    title, migration = f"data of {name}", settings.migrations[name]
    try:
        if pair_of(settings, name) is None:
            return None
        data = OfflineData(settings, name)
        if f"backend {migration.target}" not in unwell:
            asyncio.run(data.look_for_seed())
    except FixtureError:
        return None  # told among the obstacles
    except (CannotStartError, Fault, OSError) as error:
        return KnownData(Check(title, None, f"it cannot be told what was copied: {error}"), "")
    lack = data.lack()
    if lack is None:
        return KnownData(Check(title, True, "the target is not known to lack anything of the source's"), "")
    does = f"While phasegate serves, `{lack.mend}` {lack.does}"
    if not migration.data.gate:
        return KnownData(Check(title, None, lack.what, f"{does}; the gate is switched off."), "")
    return KnownData(Check(title, None, lack.what, f"{does}; without that no phase begins."), lack.mend)


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

    def next_step(self, *, restart: bool) -> str:
        """What to do now, by where each migration stands."""
        steps = []
        if restart:
            steps.append("restart phasegate, so that it takes this configuration")
        elif self._other_names:
            steps.append("send phasegate SIGHUP, so that it takes this configuration")
        several = len(self._migrations) > 1
        steps += [
            f"{name}: {next_line(each)}" if several else next_line(each) for name, each in self._statuses.items()
        ]
        return "; ".join(steps) + "."
