"""What keeps a configuration from being served, beyond its own mistakes: ``serve`` refuses it, ``check`` tells it.

There is one function for each thing, and ``OBSTACLES`` is the list of them. What the run directory holds comes beside
it, as it takes the board: ``ConfiguredSuccession.refusal``, which the supervisor asks when no other process runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from backends.kinds.registry import KINDS
from control.checks.check import Check
from control.lead import splitkey
from control.lead.receiver import key_of
from control.lead.succession import STORE, ConfiguredSuccession
from control.plan.settings import Settings
from proxy.board.board import boot_id
from proxy.http1.logfile import unwritable
from proxy.process import rundir
from proxy.process.leftover import left_in
from proxy.settings import CannotStartError
from proxy.tls import file_problems


class Obstacle(NamedTuple):
    """One thing that may be in the way."""

    name: str
    problems: Callable[[Settings], Iterator[str]]  # each with its place, what was found and what was expected
    mend: str
    refused: bool  # whether `serve` refuses to start or to reload; else it serves and logs it
    in_environment: bool = False  # whether it depends on the environment variables of `serve`


def _fixtures(settings: Settings) -> Iterator[str]:
    """What workers would have to do without."""
    given = {
        name: backend
        for name, backend in settings.backends.items()
        if (begins_with := KINDS[backend.kind].begins_with) is not None and begins_with(backend)[0] is not None
    }
    if not given:
        return
    from backends.copy.fixtures import initial
    from backends.copy.folder import FixtureError

    for name, backend in given.items():
        try:
            initial(backend)
        except FixtureError as error:
            yield f"backends.{name}.fixtures: {error}"


def _tls_files(settings: Settings) -> Iterator[str]:
    """What a worker would die of."""
    yield from file_problems(settings.plan())


def _split_key(settings: Settings) -> Iterator[str]:
    """A file that the control process would not take its secret from."""
    try:
        splitkey.read(Path(settings.proxy.run_dir))
    except splitkey.SplitKeyError as error:
        yield str(error)


def _environment(settings: Settings) -> Iterator[str]:
    """Variables by which backends are found, of the kinds that are used."""
    for name in dict.fromkeys(backend.kind for backend in settings.backends.values()):
        if (environment := KINDS[name].environment) is not None:
            yield from environment()


def _webhook_keys(settings: Settings) -> Iterator[str]:
    for name, migration in settings.migrations.items():
        for i, hook in enumerate(migration.webhooks):
            if key_of(hook) is None:
                yield (
                    f"migrations.{name}.webhooks[{i}].secret_env: the environment variable {hook.secret_env} is not "
                    "set; expected the key that signs the messages, which wait until it is"
                )


def _access_log(settings: Settings) -> Iterator[str]:
    log = settings.proxy.access_log
    if log is not None and (problem := unwritable(log.path)) is not None:
        yield f"proxy.access_log.path: {problem}"


OBSTACLES: Final = (
    Obstacle("fixtures", _fixtures, "Correct the fixture, or leave out `fixtures` for made-up data.", True),
    Obstacle("TLS files", _tls_files, "Correct the file, or the key of the configuration that names it.", True),
    Obstacle("split key", _split_key, "Do with the file as said.", True),
    Obstacle("environment", _environment, "Correct it where phasegate is started.", True, in_environment=True),
    Obstacle("webhook key", _webhook_keys, "Set it where `phasegate serve` is started.", False, in_environment=True),
    Obstacle("access log", _access_log, "Without it, lines of the access log are lost.", False),
)


def refusals(settings: Settings) -> list[str]:
    """Why `serve` does not take the configuration; nothing where it does."""
    return [problem for one in OBSTACLES if one.refused for problem in one.problems(settings)]


def checks(settings: Settings, *, same_environment: bool) -> Iterator[Check]:
    """Everything that may be in the way, and what the configuration makes of the run directory. Changes nothing.

    ``same_environment``: whether `serve` has the environment variables of this process.
    """
    clear = []
    for one in OBSTACLES:
        problems = list(one.problems(settings))
        known = same_environment or not one.in_environment
        if problems:
            yield Check(one.name, False if known else None, "\n".join(problems), one.mend)
        else:
            clear.append(one.name)
    if clear:
        yield Check("files and keys", True, f"nothing is wrong with: {', '.join(clear)}")
    yield from _run_directory(settings)


def _run_directory(settings: Settings) -> Iterator[Check]:
    run_dir = Path(settings.proxy.run_dir)
    if not run_dir.exists():
        yield Check("migrations", True, f"{run_dir} is new: nothing is in flight")
        return
    if not os.access(run_dir, os.R_OK | os.X_OK):
        mend = "Run the check as the user of `phasegate serve`."
        yield Check("migrations", None, f"{run_dir} cannot be read, so what is in flight is not known", mend)
        return
    try:
        rundir.form(run_dir)
    except CannotStartError as error:
        yield Check("run directory", False, str(error), "Do with it as said, or choose another proxy.run_dir.")
        return
    succession = ConfiguredSuccession(settings, run_dir / STORE)
    left = left_in(run_dir, boot_id(), settings.plan(), succession, was_killed=True)
    words = {} if left is None else left.words()
    if refusal := succession.refusal(words):
        mend = "Correct `was` or `abandon`, or put the migration back into the configuration."
        yield Check("migrations", False, refusal, mend)
        return
    if strange := succession.strange():
        yield Check("migrations", False, "\n".join(strange), "Correct `was`, or take it out.")
        return
    in_flight = succession.in_flight(words)
    goes_on = {old: name for name, old in succession.was.items()}
    states = [
        f"{goes_on.get(name, name)}{f' (was {name})' if name in goes_on else ''} {state}"
        if name not in settings.abandon
        else f"{name} {state} and is abandoned"
        for name, state in in_flight.items()
    ]
    yield Check("migrations", True, "; ".join(states) or "nothing is in flight")
