"""The configuration file: the documented one is read, and every mistake in a bad one is told at once."""

from __future__ import annotations

import contextlib
import copy
import tomllib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from backends.kinds.firestore.settings import Firestore
from backends.kinds.http.settings import Http
from backends.kinds.mock.settings import Mock
from backends.origin import OriginTls
from control.api.endpoints import ENDPOINTS
from control.lead.commands import ActionBody
from control.plan.phases import DEFAULT_PHASES
from control.plan.settings import ConfigError, Settings, decode, encode, load, parse

DOCUMENTED = """
[app]
origin = "http://127.0.0.1:3000"

[proxy]
listen = ["127.0.0.1:8080"]
workers = 2
sticky = ["header:x-user-id", "cookie", "ip"]
run_dir = ".phasegate"

[backends.mock]
kind = "mock"
fixtures = "fixtures/"

[backends.firestore]
kind = "firestore"
project = "demo-phasegate"
deadline = "1s"

[backends.legacy]
kind = "http"
origin = "http://127.0.0.1:4000"

[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
mode = "hybrid"
validate_every = "30s"
lease = "10s"
on_breach = "previous"
judge = "sequential"
phases = [
  { name = "initial", weight = 5, min_soak = "5m", rollback_within = "10s" },
]
[migrations.phase6.thresholds]
error_rate = 0.05
p95_ms = 1000
p99_ms = 2000
memory_mb = 512
cpu = 0.80

[control]
listen = "127.0.0.1:9090"
admins = ["admin@example.com"]
tokens = [{ name = "ci", sha256 = "HASH", role = "operator" }]
""".replace("HASH", "ab" * 32)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Settings]:
    def reader(text: str) -> Settings:
        path = tmp_path / "phasegate.toml"
        path.write_text(text)
        return load(path)

    return reader


def test_the_documented_file_is_read(read: Callable[[str], Settings], tmp_path: Path) -> None:
    settings = read(DOCUMENTED)
    migration = settings.migrations["phase6"]
    assert migration.phases[0].min_soak_s == 300
    assert settings.proxy.run_dir == str(tmp_path / ".phasegate")
    assert decode(encode(settings)) == settings
    plan = settings.plan()
    assert (plan.proxy.workers, plan.migrations[0].routes) == (2, migration.routes)
    assert settings.firebase_project() == "demo-phasegate"


def test_which_side_takes_the_writes_is_told_to_the_workers(read: Callable[[str], Settings]) -> None:
    assert [route.writes for route in read(DOCUMENTED).plan().migrations] == ["arm"]
    one = read(DOCUMENTED.replace('mode = "hybrid"', 'writes = "source"'))
    assert [route.writes for route in one.plan().migrations] == ["source"]


def test_files_are_in_the_configurations_own_folder(read: Callable[[str], Settings], tmp_path: Path) -> None:
    tls = 'tls = { ca = "ca.pem", certificate = "c.pem", key = "/elsewhere/c.key", server_name = "new.internal" }'
    settings = read(DOCUMENTED.replace(LEGACY, f"{SECURE}\n{tls}").replace(APP, f'origin = "https://a"\n{tls}'))
    wanted = OriginTls(str(tmp_path / "ca.pem"), "new.internal", str(tmp_path / "c.pem"), "/elsewhere/c.key")
    legacy, mock = settings.backends["legacy"], settings.backends["mock"]
    assert isinstance(legacy, Http)
    assert legacy.tls == settings.app.tls == wanted
    assert isinstance(mock, Mock)
    assert mock.fixtures == str(tmp_path / "fixtures")
    assert decode(encode(settings)) == settings


def test_phases_have_the_documented_defaults(settings_of: Callable[..., Settings]) -> None:
    assert [(p.weight_bp, p.min_soak_s, p.rollback_within_s) for p in DEFAULT_PHASES] == [
        (500, 300, 10),
        (2500, 600, 15),
        (5000, 900, 20),
        (7500, 600, 25),
        (10000, 300, 38),
    ]


LEGACY = 'origin = "http://127.0.0.1:4000"'
SECURE = 'origin = "https://127.0.0.1:4000"'
APP = 'origin = "http://127.0.0.1:3000"'

# A change of the documented file, and what is said of it.
MISTAKES = [
    ('origin = "http://127.0.0.1:3000"', 'orign = "x"', "app.orign: unknown key; did you mean 'origin'?"),
    ('origin = "http://127.0.0.1:3000"', "", "app.origin: missing; expected a text"),
    ('origin = "http://127.0.0.1:3000"', 'origin = "ftp://x"', "app.origin: expected"),
    ('origin = "http://127.0.0.1:3000"', 'origin = "http://a..b:80"', "app.origin: expected a host name"),
    ('listen = ["127.0.0.1:8080"]', 'listen = ["127.0.0.1:9090"]', "control.listen: 127.0.0.1:9090 is taken by"),
    ('listen = ["127.0.0.1:8080"]', "listen = []", "proxy.listen: expected at least one"),
    ('listen = ["127.0.0.1:8080"]', 'listen = "127.0.0.1:8080"', "proxy.listen: expected a list"),
    ("workers = 2", "workers = 2.5", "proxy.workers: expected a whole number, found 2.5"),
    ("workers = 2", "workers = 9999", "proxy.workers: expected 1 to 256"),
    ('"cookie"', '"cooky"', 'proxy.sticky[1]: expected "header:NAME"'),
    ('deadline = "1s"', 'deadline = "1 fortnight"', "backends.firestore.deadline: expected a duration"),
    ('kind = "http"', 'kind = "htp"', "backends.legacy.kind: found"),
    ('kind = "http"', "", "backends.legacy.kind: missing"),
    ('target = "firestore"', 'target = "firestor"', "migrations.phase6.target: no backend is called"),
    ('target = "firestore"', 'target = "mock"', "migrations.phase6.target: expected another backend"),
    ('"/api/dashboard/*", ', '"/api/dashbord/*", ', "migrations.phase6.routes[0]"),
    (
        'mode = "hybrid"',
        'mode = "hybird"',
        'migrations.phase6.mode: expected "hybrid", "source" or "target", found "hybird"',
    ),
    (
        'target = "firestore"',
        'target = "legacy"\nwrites = "source"',
        'migrations.phase6.writes: only between document stores; "legacy" is an HTTP origin, expected "arm"',
    ),
    ('mode = "hybrid"', 'writes = "both"', 'migrations.phase6.writes: expected "arm" or "source", found "both"'),
    (
        'name = "initial"',
        'name = "start"',
        'migrations.phase6.phases[0].name: "start" says where a rollback goes',
    ),
    (
        'name = "initial"',
        'name = "previous"',
        'migrations.phase6.phases[0].name: "previous" says where a rollback goes',
    ),
    ("weight = 5", "weight = 500", "migrations.phase6.phases[0].weight: expected a number above 0 and at most 100"),
    ("weight = 5", 'weight = "5"', "migrations.phase6.phases[0].weight: expected a number"),
    ('min_soak = "5m"', "min_soak = -1", "migrations.phase6.phases[0].min_soak: expected a duration"),
    ('lease = "10s"', 'lease = "2m"', "migrations.phase6.lease: expected 300ms to 38s, found 2m"),
    (
        'lease = "10s"',
        'windows = [{ from = "09:00", to = "17:00" }, { from = "09:00", to = "17:00", tz = "Paris" }]',
        'migrations.phase6.windows[1].tz: expected a time zone such as "Europe/Paris" or "UTC", found "Paris"; '
        'did you mean "Europe/Paris"?',
    ),
    (
        'lease = "10s"',
        'windows = [{ from = "09:00", to = "17:00", tz = "../UTC" }]',
        "migrations.phase6.windows[0].tz: expected a time zone",
    ),
    ("error_rate = 0.05", "error_rate = 5", "migrations.phase6.thresholds.error_rate: expected a number above 0"),
    (
        "ab" * 32,
        "my-token",
        "control.tokens[0].sha256: expected the SHA-256 of a token, 64 hexadecimal digits as `phasegate token` "
        "prints them, found another text",
    ),
    (
        'lease = "10s"',
        'windows = [{ from = "9:00", to = "17:00" }]',
        'migrations.phase6.windows[0].from: expected a time of day from "00:00" to "23:59", such as "09:30", '
        'found "9:00"',
    ),
    (
        'lease = "10s"',
        'webhooks = [{ url = "hooks.example.com/key" }]',
        'migrations.phase6.webhooks[0].url: expected an address such as "https://hooks.example.com/phasegate", '
        "found another text",
    ),
    (
        'lease = "10s"',
        'webhooks = [{ url = "https://a/", secret_env = "the key" }]',
        "migrations.phase6.webhooks[0].secret_env: expected the name of an environment variable, "
        'such as "WEBHOOK_KEY", found another text',
    ),
    (
        'validate_every = "30s"',
        'validate_every = "0m"',
        "migrations.phase6.validate_every: expected more than 0, found 0",
    ),
    ('role = "operator"', 'role = "root"', 'control.tokens[0].role: expected "operator" or "viewer"'),
    ('"admin@example.com"', '"admin"', "control.admins[0]: expected an e-mail address"),
    ("weight = 5", "weight = 0.004", "migrations.phase6.phases[0].weight: expected at least 0.01, found 0.004"),
    (LEGACY, 'origin = "ftp://x"', "backends.legacy.origin: expected"),
    (LEGACY, f'{LEGACY}\ntls = {{ ca = "ca.pem" }}', "backends.legacy.tls: expected an https:// origin beside it"),
    (LEGACY, f'{SECURE}\ntls = {{ certificate = "c.pem" }}', "backends.legacy.tls.key: missing; expected the file"),
    (LEGACY, f'{SECURE}\ntls = {{ key = "c.key" }}', "backends.legacy.tls.certificate: missing; expected the file"),
    (
        LEGACY,
        f'{SECURE}\ntls = {{ cert = "c.pem" }}',
        "backends.legacy.tls.cert: unknown key; expected one of: ca,",
    ),
    (LEGACY, f'{LEGACY}\nhealth = "healthz"', 'backends.legacy.health: expected a path such as "/healthz"'),
    (LEGACY, f'{LEGACY}\nhealth = "/a b"', 'backends.legacy.health: expected a path such as "/healthz"'),
    ('lease = "10s"', "data = { gates = true }", "migrations.phase6.data.gates: unknown key; did you mean 'gate'?"),
    ('lease = "10s"', 'data = { gate = "yes" }', "migrations.phase6.data.gate: expected true or false"),
    (
        'lease = "10s"',
        'data = { compare_every = "never" }',
        "migrations.phase6.data.compare_every: expected a duration",
    ),
    (
        'lease = "10s"',
        'data = { compare_every = "10ms" }',
        'migrations.phase6.data.compare_every: expected "0" (never) or at least 1s, found 10ms',
    ),
    ('lease = "10s"', "data = { rate = 0 }", "migrations.phase6.data.rate: expected a whole number at least 1"),
    (APP, 'origin = "https://a"\ntls = { certificate = "c.pem" }', "app.tls.key: missing; expected the file"),
]


@pytest.mark.parametrize(("part", "instead", "said"), MISTAKES)
def test_a_mistake_is_told_with_its_place(
    read: Callable[[str], Settings], part: str, instead: str, said: str
) -> None:
    assert part in DOCUMENTED
    with pytest.raises(ConfigError) as caught:
        read(DOCUMENTED.replace(part, instead, 1))
    assert any(problem.startswith(said) for problem in caught.value.problems), caught.value.problems


def test_a_window_keeps_its_zone_on_the_way_to_control(read: Callable[[str], Settings]) -> None:
    zone = 'windows = [{ from = "09:00", to = "17:00", tz = "Europe/Paris" }]'
    settings = read(DOCUMENTED.replace('lease = "10s"', zone, 1))
    (window,) = decode(encode(settings)).migrations["phase6"].windows
    assert window.tz == "Europe/Paris"


def test_the_data_has_a_gate_and_is_compared_unless_that_is_switched_off(read: Callable[[str], Settings]) -> None:
    data = read(DOCUMENTED).migrations["phase6"].data
    assert (data.gate, data.compare_every_s, data.rate) == (True, 600.0, 500)
    off = 'lease = "10s"\ndata = { gate = false, compare_every = "0", rate = 50 }'
    data = read(DOCUMENTED.replace('lease = "10s"', off)).migrations["phase6"].data
    assert (data.gate, data.compare_every_s, data.rate) == (False, 0.0, 50)


def test_many_mistakes_are_told_at_once(read: Callable[[str], Settings]) -> None:
    text = DOCUMENTED
    for part, instead, _ in (MISTAKES[7], MISTAKES[9], MISTAKES[12], MISTAKES[16], MISTAKES[21]):
        text = text.replace(part, instead, 1)
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert len(caught.value.problems) >= 5


# A mistake of a type, a mistake of another kind in the same section, and what is said of that one all the same.
HIDDEN_BEHIND = [
    (
        'name = "initial"',
        "name = 3",
        'rollback_within = "10s"',
        'rollback_within = "0s"',
        "phases[0].rollback_within",
    ),
    ('source = "mock"', "source = 3", 'lease = "10s"', 'lease = "2m"', "migrations.phase6.lease: expected 300ms"),
    ('source = "mock"', "", 'target = "firestore"', 'target = "fire"', "migrations.phase6.target: no backend"),
    ("routes = [", "routes = [3, ", '"/api/dashboard/*", ', '"/api/dashbord/*", ', "migrations.phase6.routes[1]"),
    (APP, "origin = 3", "[app]", '[app]\nhost = "a b"', "app.host: expected a host"),
    ("workers = 2", 'workers = "2"', '"cookie"', '"cooky"', "proxy.sticky[1]"),
    ('"cookie"', "3", 'listen = ["127.0.0.1:8080"]', 'listen = ["here"]', "proxy.listen[0]"),
    ('role = "operator"', "role = 3", '"admin@example.com"', '"admin"', "control.admins[0]"),
    ('kind = "http"', 'kind = "http"\ndeadline = "x"', LEGACY, 'origin = "ftp://x"', "backends.legacy.origin"),
    (APP, "orign = 3", 'lease = "10s"', 'lease = "2m"', "migrations.phase6.lease: expected 300ms"),
]


@pytest.mark.parametrize(("part", "wrong_type", "other", "wrong_meaning", "said"), HIDDEN_BEHIND)
def test_a_mistaken_type_hides_no_mistake_that_does_not_depend_on_it(
    read: Callable[[str], Settings], part: str, wrong_type: str, other: str, wrong_meaning: str, said: str
) -> None:
    assert part in DOCUMENTED
    assert other in DOCUMENTED
    with pytest.raises(ConfigError) as caught:
        read(DOCUMENTED.replace(part, wrong_type, 1).replace(other, wrong_meaning, 1))
    assert len(caught.value.problems) >= 2
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


def test_a_phase_with_a_mistake_leaves_the_order_of_the_others_to_be_checked(
    settings_of: Callable[..., Settings],
) -> None:
    phases = [{"name": "a", "weight": 50}, {"name": "b", "weight": "x"}, {"name": "a", "weight": 20}, 7]
    with pytest.raises(ConfigError) as caught:
        settings_of({"migrations": {"phase6": {"phases": phases}}})
    told = "\n".join(caught.value.problems)
    for said in (
        'phases[1].weight: expected a number above 0 and at most 100, found "x"',
        "phases[3]: expected a table, found 7",
        'phases[2].name: "a" is the name of an earlier phase',
        "phases[2].weight: expected at least 0.01 more than the phase before (50), found 20",
    ):
        assert said in told


def test_whatever_is_mistaken_only_mistakes_are_told(read: Callable[[str], Settings]) -> None:
    """No value of a wrong type, anywhere in the file, makes the reading fail in another way."""
    document = tomllib.loads(DOCUMENTED)
    spoiled = 0
    for path in paths_in(document):
        for value in (7, "x", [], {}, [7], True, [{}], "12:00", 0.5, {"kind": "http"}):
            other = copy.deepcopy(document)
            inner = other
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            with contextlib.suppress(ConfigError):
                parse(other)
            spoiled += 1
    assert spoiled > 500


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def test_no_pattern_is_shown_to_anybody() -> None:
    """Every text of a form has words for it: a regular expression helps nobody at night."""
    shapes = [Settings, ActionBody, *(parameter.type for call in ENDPOINTS for parameter in call.parameters)]
    patterns = list(chain.from_iterable(patterns_in(inspect.type_info(shape)) for shape in shapes))
    assert len(patterns) > 4, "they are found"
    assert [pattern for pattern, words in patterns if not words] == []


def patterns_in(info: inspect.Type, words: str = "") -> Iterator[tuple[str, str]]:
    match info:
        case inspect.Metadata():
            yield from patterns_in(info.type, (info.extra_json_schema or {}).get("description", ""))
        case inspect.StrType(pattern=str() as pattern):
            yield pattern, words
        case inspect.StructType():
            yield from chain.from_iterable(patterns_in(field.type) for field in info.fields)
        case inspect.UnionType():
            yield from chain.from_iterable(map(patterns_in, info.types))
        case inspect.DictType():
            yield from patterns_in(info.value_type)
        case inspect.VarTupleType():
            yield from patterns_in(info.item_type)


@pytest.mark.parametrize(("text", "said"), [("[app", "no valid TOML"), ("", "app: missing")])
def test_a_file_that_is_none(read: Callable[[str], Settings], text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert said in str(caught.value)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phasegate init"):
        load(tmp_path / "nowhere.toml")


def test_no_bind_beyond_loopback_without_credentials(settings_of: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError, match="not the loopback address"):
        settings_of({"control": {"listen": "0.0.0.0:9090"}})
    token = {"name": "ci", "sha256": "ab" * 32}
    settings_of({"control": {"listen": "0.0.0.0:9090", "tokens": [token]}})


def test_phases_must_rise_and_have_names_of_their_own(settings_of: Callable[..., Settings]) -> None:
    def phases(*found: tuple[str, float]) -> dict[str, Any]:
        return {"migrations": {"phase6": {"phases": [{"name": n, "weight": w} for n, w in found]}}}

    with pytest.raises(ConfigError) as caught:
        settings_of(phases(("a", 50), ("b", 50), ("a", 20)))
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match=r"at least 0\.01 more than the phase before \(5\), found 5\.001"):
        settings_of(phases(("a", 5), ("b", 5.001)))
    settings_of(phases(("a", 0.01), ("b", 0.02), ("c", 100)))


def test_two_migrations_may_not_share_an_operation(settings_of: Callable[..., Settings]) -> None:
    other = {"source": "mock", "target": "firestore", "routes": ["/api/scans/*"]}
    with pytest.raises(ConfigError, match="belongs to migration"):
        settings_of({"migrations": {"other": other}})


@pytest.mark.parametrize("prefix", ["", "pg_", "P", "a-b_9", "x" * 64])
def test_a_prefix_of_letters_digits_and_dashes_is_taken(read: Callable[[str], Settings], prefix: str) -> None:
    written = DOCUMENTED.replace('project = "demo', f'prefix = "{prefix}"\nproject = "demo')
    backend = read(written).backends["firestore"]
    assert isinstance(backend, Firestore)
    assert backend.prefix == prefix


@pytest.mark.parametrize("prefix", ["a/", "__pg", "9a", "ä", ".", "a b", "a`", "x" * 65, "-a"])
def test_another_prefix_is_refused_with_its_place(read: Callable[[str], Settings], prefix: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(DOCUMENTED.replace('project = "demo', f'prefix = "{prefix}"\nproject = "demo'))
    (problem,) = error.value.problems
    assert problem.startswith("backends.firestore.prefix: expected up to 64 letters")
