"""``phasegate init``: asks a few questions and writes the first configuration."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from control.plan.settings import ConfigError, address, load
from control.terminal.exits import USAGE, Stop

_TEMPLATE: Final = """\
# phasegate: this app's data moves from a mock to Firestore, a phase at a time.
# `phasegate check` checks that everything is in place; docs/configuration.md explains every key.

[app]
origin = "{origin}"  # where the app itself listens

[proxy]
listen = ["{listen}"]  # where clients connect from now on
# workers = 2                       # default: one per core
sticky = ["header:x-user-id", "cookie", "ip"]  # what keeps a visitor on one side
run_dir = ".phasegate"  # the board, the checkpoints, the audit trail

# Where the data comes from today.
[backends.mock]
kind = "mock"
# fixtures = "fixtures/"            # JSON files or the app's requests; without it, generated sample data

# Where the data will come from. Credentials are Google's application default credentials. Where
# FIRESTORE_EMULATOR_HOST is set, the emulator at that address is used, without credentials.
[backends.firestore]
kind = "firestore"
project = "{project}"
deadline = "1s"  # a read that takes longer is answered by the source

[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]  # every other request goes to the app
validate_every = "30s"
on_breach = "previous"  # or "start": how far a failing target is taken back
phases = [
  {{ name = "initial", weight = 5, min_soak = "5m", rollback_within = "10s" }},
  {{ name = "early", weight = 25, min_soak = "10m", rollback_within = "15s" }},
  {{ name = "half", weight = 50, min_soak = "15m", rollback_within = "20s" }},
  {{ name = "majority", weight = 75, min_soak = "10m", rollback_within = "25s" }},
  {{ name = "complete", weight = 100, min_soak = "5m", rollback_within = "38s" }},
]

# Limits that a healthy target keeps.
[migrations.phase6.thresholds]
error_rate = 0.05
p95_ms = 1000
p99_ms = 2000
memory_mb = 512
cpu = 0.80

[control]
listen = "{control}"  # the API, and the dashboard at /admin/migration
admins = {admins}
tokens = [
  {{ name = "operator", sha256 = "{sha256}", role = "operator" }},
]
"""

_NEXT: Final = {
    "check": "checks that everything is in place",
    "serve": "takes the app's traffic",
    "copy": "in another terminal: writes what the mock holds into Firestore",
    "start": "begins the migration and shows it",
}


def init(path: Path, *, ask: bool, given: Mapping[str, str | None]) -> None:
    """Ask for the values that no option gave, write the configuration, and print the next steps."""
    if path.exists():
        raise Stop(USAGE, f"{path} exists already and is left unchanged; name another with --config, or remove it")
    origin = _answer("The app's address", given.get("origin"), "http://127.0.0.1:3000", ask, _origin)
    listen = _answer("Where phasegate takes its traffic", given.get("listen"), "127.0.0.1:8080", ask, _address)
    project = _answer("Google Cloud project of Firestore", given.get("project"), "demo-phasegate", ask, _word)
    control = _answer("Where its API and dashboard listen", given.get("control"), "127.0.0.1:9090", ask, _address)
    admin = _answer("E-mail of an admin (may be empty)", given.get("admin"), "", ask, _email)
    token = secrets.token_urlsafe(32)
    text = _TEMPLATE.format(
        origin=origin,
        listen=listen,
        control=control,
        project=project,
        admins=f'["{admin}"]' if admin else "[]  # e-mail addresses that may operate, by Firebase sign-in",
        sha256=hashlib.sha256(token.encode()).hexdigest(),
    )
    try:
        with open(path, "x", encoding="utf-8") as file:  # "x": never overwrites a file created in the meantime
            file.write(text)
    except OSError as error:
        raise Stop(USAGE, f"{path} cannot be written: {error.strerror}") from None
    try:
        load(path)
    except ConfigError as error:
        path.unlink()
        raise Stop(USAGE, "\n".join(["these answers give no valid configuration:", *error.problems])) from None
    option = "" if path.name == "phasegate.toml" else f" --config {path}"
    click.echo(f"Wrote {path}. Its operator token, shown once:\n\n  export PHASEGATE_TOKEN={token}\n\nNext:")
    for command, does in _NEXT.items():
        click.echo(f"  phasegate {command}{option:<{len(option) + 7 - len(command)}}{does}")


def _answer(question: str, given: str | None, default: str, ask: bool, check: Callable[[str], str | None]) -> str:
    if given is None and ask:
        while True:
            answer = str(click.prompt(question, default=default, show_default=bool(default)))
            problem = check(answer)
            if problem is None:
                return answer
            click.echo(f"  {problem}", err=True)
    answer = default if given is None else given
    problem = check(answer)
    if problem is not None:
        raise Stop(USAGE, f"{question}: {problem}")
    return answer


def _origin(text: str) -> str | None:
    parts = urlsplit(text)
    good = parts.scheme == "http" and parts.netloc and parts.path in ("", "/") and '"' not in text
    return None if good else f"expected http://HOST:PORT, found {text!r}"


def _address(text: str) -> str | None:
    try:
        address(text)
    except ValueError as error:
        return str(error)
    return None


def _word(text: str) -> str | None:
    good = text and all(letter.isalnum() or letter in "-:." for letter in text)
    return None if good else f"expected a project's id, such as my-project-123, found {text!r}"


def _email(text: str) -> str | None:
    good = not text or (text.count("@") == 1 and not set(text) & set(' "\\'))
    return None if good else f"expected an e-mail address, found {text!r}"
