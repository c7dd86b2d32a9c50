"""The configuration file: every table's shape and default, and one reader that tells all mistakes at once.

``load`` raises ``ConfigError`` whose ``problems`` each name the path in the file, what was found and what was
expected. Paths in the file are relative to the file's own folder. Secrets never stand in it: a token is given by its
SHA-256, a webhook's key by the name of an environment variable.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct, field

from backends.backend import Backend
from backends.durations import Duration, encode_hook
from backends.extensions import added
from backends.kinds.registry import KINDS, decode_hook
from control.plan.gates import Freeze, Window
from control.plan.mistakes import join, one_of, problems, shown, sound_keys
from control.plan.phases import DEFAULT_PHASES, LEAST_PERCENT, RESERVED, Phase, Thresholds
from proxy.migration.routes import operations_of
from proxy.settings import App, Mode, Plan, Proxy, Route, mistakes
from proxy.settings import located as place_app_and_proxy

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
LEASE_MAX_S: Final = 38.0  # what a dead control plane may cost at most
COMPARE_EVERY_MIN_S: Final = 1.0  # a compare reads every document of both sides
ZONE_LIKENESS: Final = 0.5  # of difflib: "Paris" is meant for "Europe/Paris"


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of what happens to a migration; signed with the key in the environment variable ``secret_env``."""

    url: Annotated[str, Meta(pattern=r"^https?://[^\s/]+")]
    secret_env: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None


class DataSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Between document stores: how the target comes to have the source's documents, and whether that is checked."""

    gate: bool = True  # whether no phase begins while the target is known to lack something of the source's
    compare_every_s: Duration = field(default=Duration(600.0), name="compare_every")
    rate: Annotated[int, Meta(ge=1, le=10_000)] = 500  # writes a second with which `copy` and `repair` begin


class Migration(Struct, frozen=True, forbid_unknown_fields=True):
    """``[migrations.<name>]``: two backends, the paths they share, and how to go from one to the other."""

    source: str
    target: str
    routes: tuple[str, ...]
    was: str | None = None  # the name that it had before: it goes on with all that is known under that name
    mode: Mode = Mode.HYBRID
    validate_every_s: Duration = field(default=Duration(30.0), name="validate_every")
    lease_s: Duration = field(default=Duration(10.0), name="lease")
    on_breach: Literal["previous", "start"] = "previous"
    judge: Literal["sequential", "threshold"] = "sequential"
    min_samples: Annotated[int, Meta(ge=1)] = 100  # target requests without which no phase is left
    max_soak_s: Duration | None = field(default=None, name="max_soak")  # none: twice the phase's min_soak
    on_low_traffic: Literal["hold", "promote"] = "promote"  # after max_soak without proof, limits kept so far
    phases: tuple[Phase, ...] = DEFAULT_PHASES
    thresholds: Thresholds = Thresholds()
    windows: tuple[Window, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    data: DataSettings = DataSettings()


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A static token, known by its SHA-256 alone."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$")]
    role: Literal["viewer", "operator"] = "viewer"


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    """``[control]``: where the control plane listens and whom it believes."""

    listen: str = "127.0.0.1:9090"
    admins: tuple[str, ...] = ()  # verified e-mail addresses that may operate
    viewers: tuple[str, ...] = ()  # and those that may look
    tokens: tuple[Token, ...] = ()
    firebase_project: str | None = None  # none: the only Firestore backend's project
    origins: tuple[str, ...] = ()  # further origins the dashboard is served under, behind a TLS proxy
    session_s: Duration = field(default=Duration(8 * 3600.0), name="session")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    app: App
    backends: dict[str, Backend]
    migrations: dict[str, Migration]
    proxy: Proxy = Proxy()
    control: Control = Control()
    abandon: tuple[str, ...] = ()  # migrations that are given up: nothing is left of them but their audit trail

    def plan(self) -> Plan:
        """What the data plane needs of it, with the number of workers decided."""
        workers = self.proxy.workers or len(os.sched_getaffinity(0))
        routes = tuple(
            Route(name, migration.routes, migration.source, migration.target, migration.mode, migration.was)
            for name, migration in self.migrations.items()
        )
        proxy = msgspec.structs.replace(self.proxy, workers=workers)
        return Plan(self.app, proxy, self.backends, routes, added())

    def firebase_project(self) -> str | None:
        """The audience that an ID token must be for."""
        projects = _projects(self.backends.values())
        return self.control.firebase_project or (projects.pop() if len(projects) == 1 else None)


def _projects(backends: Iterable[Backend]) -> set[str]:
    """The Google Cloud projects that the backends are in."""
    kinds = ((KINDS[backend.kind].project, backend) for backend in backends)
    return {project(backend) for project, backend in kinds if project is not None}


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` says everything that is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: str | Path) -> Settings:
    """Read and check a configuration file. Raises ``ConfigError``."""
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; `phasegate init` writes one, `--config` names another"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: no valid TOML: {error}"]) from None
    return located(parse(document), path.resolve().parent)


def parse(document: dict[str, Any]) -> Settings:
    """Check a parsed document, whole, and make the settings of it. Raises ``ConfigError``."""
    found = problems(Settings, document) + list(_meanings(document))
    if found:
        raise ConfigError(found)
    return msgspec.convert(document, Settings, dec_hook=decode_hook)


def located(settings: Settings, folder: Path) -> Settings:
    """The settings with the paths in them made absolute, seen from ``folder``."""

    def within(path: str) -> str:
        return str(folder / path)

    backends = {
        name: backend if (place := KINDS[backend.kind].place_files) is None else place(backend, within)
        for name, backend in settings.backends.items()
    }
    app, proxy = place_app_and_proxy(settings.app, settings.proxy, within)
    return msgspec.structs.replace(settings, app=app, backends=backends, proxy=proxy)


def encode(settings: Settings) -> bytes:
    """The settings as JSON, for a child's standard input; ``decode`` takes it back."""
    return msgspec.json.encode(settings, enc_hook=encode_hook)


def decode(data: bytes) -> Settings:
    """What ``encode`` wrote."""
    return msgspec.json.decode(data, type=Settings, dec_hook=decode_hook)


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[V6]:PORT`` taken apart. Raises ``ValueError`` in words."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:\[\]/]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f'expected HOST:PORT such as "127.0.0.1:8080", found {shown(text)}')
    return match[1] or match[2], int(match[3])


# What shapes cannot say. Each check takes the sections that have a valid shape of their own, so one mistake in the
# file does not hide another.


@dataclass(frozen=True, slots=True)
class _Parts:
    """The sections of a document that could be read; None where a section's own shape is wrong."""

    app: App | None
    proxy: Proxy | None
    control: Control | None
    backends: dict[str, Backend | None]
    migrations: dict[str, Migration | None]
    abandon: tuple[str, ...]


def _meanings(document: Mapping[str, Any]) -> Iterator[str]:
    parts = _Parts(
        _section(App, document.get("app")),
        _section(Proxy, document.get("proxy", {})),
        _section(Control, document.get("control", {})),
        _sections(Backend, document.get("backends")),
        _sections(Migration, document.get("migrations")),
        _section(_Abandoned, {"abandon": document.get("abandon", [])}).abandon,
    )
    for check in _CHECKS:
        yield from check(parts)


def _section(shape: Any, value: object) -> Any:
    """What can be read of a section: its sound keys, with the defaults of the rest; None where one is required."""
    sound = sound_keys(shape, value)
    return None if problems(shape, sound) else msgspec.convert(sound, shape, dec_hook=decode_hook)


def _sections(shape: Any, value: object) -> dict[str, Any]:
    return {name: _section(shape, inner) for name, inner in value.items()} if isinstance(value, dict) else {}


class _Abandoned(Struct, frozen=True):
    abandon: tuple[str, ...] = ()


def _addresses(parts: _Parts) -> Iterator[str]:
    seen: dict[tuple[str, int], str] = {}
    listens: list[tuple[str, str]] = []
    if parts.proxy:
        listens += [(f"proxy.listen[{i}]", text) for i, text in enumerate(parts.proxy.listen)]
        listens += [(f"proxy.listeners[{i}].address", door.address) for i, door in enumerate(parts.proxy.listeners)]
    listens += [("control.listen", parts.control.listen)] if parts.control else []
    for path, text in listens:
        try:
            found = address(text)
        except ValueError as error:
            yield f"{path}: {error}"
            continue
        if found in seen and found[1]:
            yield f"{path}: {text} is taken by {seen[found]} already"
        seen[found] = path
    if parts.proxy and not parts.proxy.all_listeners():
        yield "proxy.listen: expected at least one address, found none"


def _backends(parts: _Parts) -> Iterator[str]:
    for name, backend in parts.backends.items():
        found = None if backend is None else KINDS[backend.kind].mistakes
        if found is not None:
            yield from (f"{join('backends', name)}.{key}: {what}" for key, what in found(backend))


def _proxy(parts: _Parts) -> Iterator[str]:
    yield from (f"{path}: {what}" for path, what in mistakes(parts.app, parts.proxy))
    if parts.proxy is None:
        return
    for i, rule in enumerate(parts.proxy.sticky):
        if rule not in ("cookie", "ip", "random") and not re.fullmatch(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+", rule):
            expected = 'expected "header:NAME", "cookie", "ip" or "random"'
            yield f"proxy.sticky[{i}]: {expected}, found {shown(rule)}"
    if not 0 <= parts.proxy.workers <= 256:
        yield f"proxy.workers: expected 1 to 256, or 0 for one a core, found {parts.proxy.workers}"


def _arms(parts: _Parts) -> Iterator[str]:
    names = list(parts.backends)
    for name, migration in parts.migrations.items():
        path = join("migrations", name)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            yield f"{path}: expected a name of letters, digits, - and _ (64 at most)"
        if migration is None:
            continue
        for arm in ("source", "target"):
            backend = getattr(migration, arm)
            if backend not in names:
                known = f"expected one of: {', '.join(names)}" if names else "none is configured"
                yield f"{path}.{arm}: no backend is called {shown(backend)}; {known}"
        if migration.source == migration.target:
            yield f"{path}.target: expected another backend than the source, found {shown(migration.target)}"
    if not parts.migrations:
        yield "migrations: expected at least one [migrations.NAME]"


def _routes(parts: _Parts) -> Iterator[str]:
    taken: dict[str, set[str]] = {}
    backends = {name: backend for name, backend in parts.backends.items() if backend is not None}
    for name, migration in parts.migrations.items():
        if migration is None:
            continue
        path = join("migrations", name)
        if not migration.routes:
            yield f"{path}.routes: expected at least one path, found none"
        taken[name] = set()
        for i, route in enumerate(migration.routes):
            if not re.fullmatch(r"/[^\s?#]*", route):
                yield f'{path}.routes[{i}]: expected a path such as "/api/scans/*", found {shown(route)}'
            elif {migration.source, migration.target} <= backends.keys():
                alone = Route(name, (route,), migration.source, migration.target)
                covered = {operation.name for operation in operations_of(alone, backends)}
                taken[name] |= covered
                if not covered:
                    yield f"{path}.routes[{i}]: {shown(route)} covers no data operation"
    for (one, first), (other, second) in combinations(taken.items(), 2):
        both = ", ".join(sorted(first & second))
        if both:
            yield f"{join('migrations', other)}.routes: {both} belongs to migration {shown(one)} already"


def _earlier_names(parts: _Parts) -> Iterator[str]:
    """A name is continued by one migration at most, or given up, and is then no migration's own."""
    taken = {name: join("migrations", name) for name in parts.migrations}
    for name, migration in parts.migrations.items():
        if migration is None or migration.was is None:
            continue
        path = f"{join('migrations', name)}.was"
        if migration.was in taken:
            yield f"{path}: {shown(migration.was)} is {taken[migration.was]} already; expected an earlier name"
        taken.setdefault(migration.was, path)
    for i, name in enumerate(parts.abandon):
        if name in taken:
            yield f"abandon[{i}]: {shown(name)} is {taken[name]} already; what is configured is not given up"


def _phases(parts: _Parts) -> Iterator[str]:
    for name, migration in parts.migrations.items():
        if migration is None:
            continue
        path = f"{join('migrations', name)}.phases"
        if not migration.phases:
            yield f"{path}: expected at least one phase, found none"
        names: set[str] = set()
        before: Phase | None = None
        for i, phase in enumerate(migration.phases):
            if phase.name in names:
                yield f"{path}[{i}].name: {shown(phase.name)} is the name of an earlier phase"
            names.add(phase.name)
            if phase.name in RESERVED:
                yield f"{path}[{i}].name: {shown(phase.name)} says where a rollback goes; expected another name"
            if phase.weight_bp == 0:
                yield f"{path}[{i}].weight: expected at least {LEAST_PERCENT:g}, found {phase.weight:g}"
            elif before is not None and phase.weight_bp <= before.weight_bp:
                least = f"{LEAST_PERCENT:g} more than the phase before ({before.weight:g})"
                yield f"{path}[{i}].weight: expected at least {least}, found {phase.weight:g}"
            before = phase
            if phase.rollback_within_s <= 0:
                yield f"{path}[{i}].rollback_within: expected more than 0"
            if phase.max_soak_s is not None and phase.max_soak_s < phase.min_soak_s:
                yield f"{path}[{i}].max_soak: expected at least min_soak ({phase.min_soak_s:g}s)"


def _times(parts: _Parts) -> Iterator[str]:
    for name, migration in parts.migrations.items():
        if migration is None:
            continue
        path = join("migrations", name)
        if not 0.3 <= migration.lease_s <= LEASE_MAX_S:
            yield f"{path}.lease: expected 300ms to {LEASE_MAX_S:g}s, found {migration.lease_s:g}s"
        if migration.validate_every_s <= 0:
            yield f"{path}.validate_every: expected more than 0"
        if 0 < migration.data.compare_every_s < COMPARE_EVERY_MIN_S:
            expected = f'expected "0" (never) or at least {COMPARE_EVERY_MIN_S:g}s'
            yield f"{path}.data.compare_every: {expected}, found {migration.data.compare_every_s:g}s"
        for i, window in enumerate(migration.windows):
            if window.tz not in available_timezones():
                near = difflib.get_close_matches(window.tz, sorted(available_timezones()), 1, ZONE_LIKENESS)
                meant = f"; did you mean {shown(near[0])}?" if near else ""
                expected = 'expected a time zone such as "Europe/Paris" or "UTC"'
                yield f"{path}.windows[{i}].tz: {expected}, found {shown(window.tz)}{meant}"
        for i, freeze in enumerate(migration.freezes):
            if freeze.ends <= freeze.begins:
                yield f"{path}.freezes[{i}].to: expected a time after {freeze.begins.isoformat()}"


def _access(parts: _Parts) -> Iterator[str]:
    control = parts.control
    if control is None:
        return
    names = [token.name for token in control.tokens]
    for i, token in enumerate(control.tokens):
        if token.name in names[:i]:
            yield f"control.tokens[{i}].name: {shown(token.name)} is the name of an earlier token"
    for key in ("admins", "viewers"):
        for i, email in enumerate(getattr(control, key)):
            if not re.fullmatch(r"[^\s@]+@[^\s@]+", email):
                yield f"control.{key}[{i}]: expected an e-mail address, found {shown(email)}"
    for i, origin in enumerate(control.origins):
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            yield f'control.origins[{i}]: expected "https://HOST" or "https://HOST:PORT", found {shown(origin)}'
    projects = _projects(backend for backend in parts.backends.values() if backend is not None)
    if (control.admins or control.viewers) and not control.firebase_project and len(projects) != 1:
        yield "control.firebase_project: missing; e-mail addresses are believed from one Firebase project's ID tokens"
    try:
        host = address(control.listen)[0]
    except ValueError:
        return
    if host not in LOOPBACK and not (control.tokens or control.admins):
        yield (
            f"control.listen: {host} is not the loopback address, and nobody could be told apart there; "
            f"expected control.tokens or control.admins, or {one_of(list(LOOPBACK))}"
        )


_CHECKS: Final[tuple[Callable[[_Parts], Iterator[str]], ...]] = (
    _addresses,
    _backends,
    _proxy,
    _arms,
    _routes,
    _earlier_names,
    _phases,
    _times,
    _access,
)
