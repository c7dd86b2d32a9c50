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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta, Struct, field

from backends.backend import Backend
from backends.durations import Duration, encode_hook
from backends.extensions import added
from backends.kinds.registry import KINDS, decode_hook
from control.plan.gates import Freeze, Window
from control.plan.mistakes import NOT_SHOWN, UNKNOWN, UnknownValueError, join, one_of, partly, problems, shown
from control.plan.phases import DEFAULT_PHASES, LEAST_PERCENT, RESERVED, Phase, Thresholds
from proxy.migration.routes import operations_of
from proxy.settings import OF_APP, OF_PROXY, App, Mode, Plan, Proxy, Route
from proxy.settings import located as place_app_and_proxy

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
T = TypeVar("T")
LEASE_MIN_S: Final = 0.3  # control renews it many times a second, but not on a machine that stalls for a moment
LEASE_MAX_S: Final = 38.0  # what a dead control plane may cost at most
COMPARE_EVERY_MIN_S: Final = 1.0  # a compare reads every document of both sides
ZONE_LIKENESS: Final = 0.5  # of difflib: "Paris" is meant for "Europe/Paris"


EnvironmentVariable = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description='the name of an environment variable, such as "WEBHOOK_KEY"',
        extra={NOT_SHOWN: True},  # the key itself is easily written in its place
    ),
]


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of what happens to a migration; signed with the key in the environment variable ``secret_env``."""

    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s/]+",
            description='an address such as "https://hooks.example.com/phasegate"',
            extra={NOT_SHOWN: True},
        ),
    ]
    secret_env: EnvironmentVariable | None = None


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
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^[0-9a-fA-F]{64}$",
            description="the SHA-256 of a token, 64 hexadecimal digits as `phasegate token` prints them",
            extra={NOT_SHOWN: True},  # the token itself is easily written in its place
        ),
    ]
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
    found = problems(Settings, document)
    found += _meanings(partly(Settings, document, _converted), is_sound=not found)
    if found:
        raise ConfigError(found)
    settings: Settings = _converted(document, Settings)
    return settings


def _converted(value: object, shape: Any) -> Any:
    return msgspec.convert(value, shape, dec_hook=decode_hook)


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


# What shapes cannot say. Each check is of one thing. It is given what could be read of the document, with ``UNKNOWN``
# in place of the rest, and says what it can until it meets one: so one mistake in the file does not hide another.


Facts = Iterator[str]


def _meanings(settings: Settings, *, is_sound: bool) -> list[str]:
    """Everything that shapes cannot say; ``is_sound``: whether nothing is ``UNKNOWN``."""
    checks: list[Callable[[], Facts]] = [partial(check, settings) for check in _CHECKS]
    checks += [partial(_placed, "app", check, settings.app) for check in OF_APP]
    checks += [partial(_placed, "proxy", check, settings.proxy) for check in OF_PROXY]
    checks += [partial(_backend, name, backend) for name, backend in _known_items(settings.backends)]
    for name, migration in _known_items(settings.migrations):
        path = join("migrations", name)
        checks += [partial(check, path, migration, settings) for check in _CHECKS_OF_A_MIGRATION]
        checks += [
            partial(check, f"{path}.phases[{i}]", phase)
            for i, phase in _known_list(migration.phases)
            for check in _CHECKS_OF_A_PHASE
        ]
    return [problem for check in checks for problem in _as_far_as_known(check, is_sound=is_sound)]


def _as_far_as_known(check: Callable[[], Facts], *, is_sound: bool) -> list[str]:
    """What a check says until it looks at an unknown value."""
    found = []
    try:
        for problem in check():
            found.append(problem)  # noqa: PERF402 - what was said before an exception counts
    except (UnknownValueError, TypeError):  # TypeError: the standard library was given such a value
        if is_sound:
            raise
    return found


def _known_items(table: Mapping[str, T]) -> list[tuple[str, T]]:
    return [] if table is UNKNOWN else [(name, value) for name, value in table.items() if value is not UNKNOWN]


def _known_list(values: Sequence[T]) -> list[tuple[int, T]]:
    """The items that are known, each with its place in the list."""
    return [] if values is UNKNOWN else [(i, value) for i, value in enumerate(values) if value is not UNKNOWN]


def _addresses(settings: Settings) -> Facts:
    listens: list[tuple[str, str]] = []
    if settings.proxy is not UNKNOWN:
        listens += [(f"proxy.listen[{i}]", text) for i, text in _known_list(settings.proxy.listen)]
        doors = _known_list(settings.proxy.listeners)
        listens += [(f"proxy.listeners[{i}].address", door.address) for i, door in doors]
    if settings.control is not UNKNOWN:
        listens.append(("control.listen", settings.control.listen))
    seen: dict[tuple[str, int], str] = {}
    for path, text in listens:
        if text is UNKNOWN:
            continue
        try:
            found = address(text)
        except ValueError as error:
            yield f"{path}: {error}"
            continue
        if found in seen and found[1]:
            yield f"{path}: {text} is taken by {seen[found]} already"
        seen[found] = path
    if not settings.proxy.all_listeners():
        yield "proxy.listen: expected at least one address, found none"


def _backend(name: str, backend: Backend) -> Facts:
    if (found := KINDS[backend.kind].mistakes) is not None:
        yield from (f"{join('backends', name)}.{key}: {what}" for key, what in found(backend))


def _placed(path: str, check: Callable[[Any], Iterator[tuple[str, str]]], section: Any) -> Facts:
    """What a check of the data plane's says of a section."""
    yield from (f"{path}.{key}: {what}" for key, what in check(section))


def _sticky(settings: Settings) -> Facts:
    for i, rule in _known_list(settings.proxy.sticky):
        if rule not in ("cookie", "ip", "random") and not re.fullmatch(r"header:[!#$%&'*+.^_`|~0-9A-Za-z-]+", rule):
            expected = 'expected "header:NAME", "cookie", "ip" or "random"'
            yield f"proxy.sticky[{i}]: {expected}, found {shown(rule)}"


def _workers(settings: Settings) -> Facts:
    if not 0 <= settings.proxy.workers <= 256:
        yield f"proxy.workers: expected 1 to 256, or 0 for one a core, found {settings.proxy.workers}"


def _names(settings: Settings) -> Facts:
    for name in settings.migrations:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            yield f"{join('migrations', name)}: expected a name of letters, digits, - and _ (64 at most)"
    if not settings.migrations:
        yield "migrations: expected at least one [migrations.NAME]"


def _source(path: str, migration: Migration, settings: Settings) -> Facts:
    yield from _arm(f"{path}.source", migration.source, settings)


def _target(path: str, migration: Migration, settings: Settings) -> Facts:
    yield from _arm(f"{path}.target", migration.target, settings)


def _arm(path: str, backend: str, settings: Settings) -> Facts:
    names = list(settings.backends)
    if backend not in names:
        expected = f"expected one of: {', '.join(names)}" if names else "none is configured"
        yield f"{path}: no backend is called {shown(backend)}; {expected}"


def _two_arms(path: str, migration: Migration, settings: Settings) -> Facts:
    if migration.source == migration.target:
        yield f"{path}.target: expected another backend than the source, found {shown(migration.target)}"


def _routes(path: str, migration: Migration, settings: Settings) -> Facts:
    if not migration.routes:
        yield f"{path}.routes: expected at least one path, found none"
    for i, route in _known_list(migration.routes):
        if not re.fullmatch(r"/[^\s?#]*", route):
            yield f'{path}.routes[{i}]: expected a path such as "/api/scans/*", found {shown(route)}'


def _covering(path: str, migration: Migration, settings: Settings) -> Facts:
    for i, route in _known_list(migration.routes):
        if route.startswith("/") and _covered(route, migration, settings) == set():
            yield f"{path}.routes[{i}]: {shown(route)} covers no data operation"


def _covered(route: str, migration: Migration, settings: Settings) -> set[str] | None:
    """The operations that a route covers; None where its backends are not known."""
    backends = dict(_known_items(settings.backends))
    if not {migration.source, migration.target} <= backends.keys():
        return None
    alone = Route("", (route,), migration.source, migration.target)
    return {operation.name for operation in operations_of(alone, backends)}


def _shared_routes(settings: Settings) -> Facts:
    taken: dict[str, set[str]] = {}
    for name, migration in _known_items(settings.migrations):
        if migration.source is UNKNOWN or migration.target is UNKNOWN:
            continue
        routes = [route for _, route in _known_list(migration.routes) if route.startswith("/")]
        taken[name] = set().union(*(_covered(route, migration, settings) or () for route in routes))
    for (one, first), (other, second) in combinations(taken.items(), 2):
        both = ", ".join(sorted(first & second))
        if both:
            yield f"{join('migrations', other)}.routes: {both} belongs to migration {shown(one)} already"


def _earlier_names(settings: Settings) -> Facts:
    """A name is continued by one migration at most, or given up, and is then no migration's own."""
    taken = {name: join("migrations", name) for name in settings.migrations}
    for name, migration in _known_items(settings.migrations):
        if migration.was is None or migration.was is UNKNOWN:
            continue
        path = f"{join('migrations', name)}.was"
        if migration.was in taken:
            yield f"{path}: {shown(migration.was)} is {taken[migration.was]} already; expected an earlier name"
        taken.setdefault(migration.was, path)
    for i, name in _known_list(settings.abandon):
        if name in taken:
            yield f"abandon[{i}]: {shown(name)} is {taken[name]} already; what is configured is not given up"


def _phase_names(path: str, migration: Migration, settings: Settings) -> Facts:
    if not migration.phases:
        yield f"{path}.phases: expected at least one phase, found none"
    names: set[str] = set()
    for i, phase in _known_list(migration.phases):
        if phase.name is UNKNOWN:
            continue
        if phase.name in names:
            yield f"{path}.phases[{i}].name: {shown(phase.name)} is the name of an earlier phase"
        names.add(phase.name)
        if phase.name in RESERVED:
            yield f"{path}.phases[{i}].name: {shown(phase.name)} says where a rollback goes; expected another name"


def _phase_weights(path: str, migration: Migration, settings: Settings) -> Facts:
    before: Phase | None = None  # the nearest before it with a weight that is known
    for i, phase in _known_list(migration.phases):
        if phase.weight is UNKNOWN:
            continue
        if phase.weight_bp == 0:
            yield f"{path}.phases[{i}].weight: expected at least {LEAST_PERCENT:g}, found {phase.weight:g}"
        elif before is not None and phase.weight_bp <= before.weight_bp:
            least = f"{LEAST_PERCENT:g} more than the phase before ({before.weight:g})"
            yield f"{path}.phases[{i}].weight: expected at least {least}, found {phase.weight:g}"
        before = phase


def _rollback_within(path: str, phase: Phase) -> Facts:
    yield from _above_0(f"{path}.rollback_within", phase.rollback_within_s)


def _soaks(path: str, phase: Phase) -> Facts:
    if phase.max_soak_s is not None and phase.max_soak_s < phase.min_soak_s:
        least = f"expected at least min_soak ({phase.min_soak_s.shown})"
        yield f"{path}.max_soak: {least}, found {phase.max_soak_s.shown}"


def _above_0(path: str, duration: Duration) -> Facts:
    if duration <= 0:
        yield f"{path}: expected more than 0, found {duration.shown}"


def _lease(path: str, migration: Migration, settings: Settings) -> Facts:
    if not LEASE_MIN_S <= migration.lease_s <= LEASE_MAX_S:
        expected = f"expected {LEASE_MIN_S * 1000:g}ms to {LEASE_MAX_S:g}s"
        yield f"{path}.lease: {expected}, found {migration.lease_s.shown}"


def _validate_every(path: str, migration: Migration, settings: Settings) -> Facts:
    yield from _above_0(f"{path}.validate_every", migration.validate_every_s)


def _compare_every(path: str, migration: Migration, settings: Settings) -> Facts:
    every = migration.data.compare_every_s
    if 0 < every < COMPARE_EVERY_MIN_S:
        expected = f'expected "0" (never) or at least {COMPARE_EVERY_MIN_S:g}s'
        yield f"{path}.data.compare_every: {expected}, found {every.shown}"


def _windows(path: str, migration: Migration, settings: Settings) -> Facts:
    for i, window in _known_list(migration.windows):
        if window.tz is not UNKNOWN and window.tz not in available_timezones():
            near = difflib.get_close_matches(window.tz, sorted(available_timezones()), 1, ZONE_LIKENESS)
            meant = f"; did you mean {shown(near[0])}?" if near else ""
            expected = 'expected a time zone such as "Europe/Paris" or "UTC"'
            yield f"{path}.windows[{i}].tz: {expected}, found {shown(window.tz)}{meant}"


def _freezes(path: str, migration: Migration, settings: Settings) -> Facts:
    for i, freeze in _known_list(migration.freezes):
        if freeze.begins is UNKNOWN or freeze.ends is UNKNOWN:
            continue
        if freeze.ends <= freeze.begins:
            found = f"found {freeze.ends.isoformat()}"
            yield f"{path}.freezes[{i}].to: expected a time after {freeze.begins.isoformat()}, {found}"


def _tokens(settings: Settings) -> Facts:
    names: list[str] = []
    for i, token in _known_list(settings.control.tokens):
        if token.name is UNKNOWN:
            continue
        if token.name in names:
            yield f"control.tokens[{i}].name: {shown(token.name)} is the name of an earlier token"
        names.append(token.name)


def _people(settings: Settings) -> Facts:
    for key in ("admins", "viewers"):
        for i, email in _known_list(getattr(settings.control, key)):
            if not re.fullmatch(r"[^\s@]+@[^\s@]+", email):
                yield f"control.{key}[{i}]: expected an e-mail address, found {shown(email)}"


def _origins(settings: Settings) -> Facts:
    for i, origin in _known_list(settings.control.origins):
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            yield f'control.origins[{i}]: expected "https://HOST" or "https://HOST:PORT", found {shown(origin)}'


def _firebase(settings: Settings) -> Facts:
    control = settings.control
    if not (control.admins or control.viewers) or control.firebase_project:
        return
    if len(_projects(settings.backends.values())) != 1:
        yield "control.firebase_project: missing; e-mail addresses are believed from one Firebase project's ID tokens"


def _open_control(settings: Settings) -> Facts:
    control = settings.control
    try:
        host = address(control.listen)[0]
    except ValueError:
        return
    if host not in LOOPBACK and not (control.tokens or control.admins):
        yield (
            f"control.listen: {host} is not the loopback address, and nobody could be told apart there; "
            f"expected control.tokens or control.admins, or {one_of(list(LOOPBACK))}"
        )


_CHECKS: Final[tuple[Callable[[Settings], Facts], ...]] = (
    *(_addresses, _sticky, _workers),
    *(_names, _shared_routes, _earlier_names),
    *(_tokens, _people, _origins, _firebase, _open_control),
)
_CHECKS_OF_A_MIGRATION: Final[tuple[Callable[[str, Migration, Settings], Facts], ...]] = (
    *(_source, _target, _two_arms, _routes, _covering),
    *(_phase_names, _phase_weights, _lease, _validate_every, _compare_every, _windows, _freezes),
)
_CHECKS_OF_A_PHASE: Final[tuple[Callable[[str, Phase], Facts], ...]] = (_rollback_within, _soaks)
