"""Writes the parts of the documentation that are generated from the source, so that they cannot be out of date.

    docs/configuration.md   every key of the configuration: from the settings' types, defaults and comments
    docs/architecture.md    between its marks: the code map from the modules' docstrings, and the states of the
                            rollout and of a client's connection from their tables of transitions
    docs/judge.md           between its marks: the judge's rules, from their table
    docs/firestore.indexes.json  the indexes of Firestore, from the adapters' queries

``python -m control.reference`` writes them; ``documents`` returns them, for the test that they are current.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from io import StringIO
from itertools import chain, groupby
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from backends.adapters.registry import asks, unindexed
from backends.backend import Backend
from backends.durations import Duration
from backends.kinds.firestore.indexes import index_file
from backends.kinds.registry import KINDS
from control.judge.rules import RULES, Requests, percent
from control.plan import gates, phases, settings
from control.rollout.machine import TRANSITIONS
from proxy.http1 import states
from proxy.settings import AccessLog, App, Errors, Listener, Proxy, Tls

ROOT: Final = Path(__file__).parents[1]
# From the lowest to the highest: a package imports from itself and from lower ones. Those in one tuple stand side by
# side and import nothing of each other. A package's own files (``proxy/tls.py``) are written as files. The code map
# shows this order, and tests/core/test_layers.py holds every import to it.
LAYERS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "loadtest": (
        ("loadtest/stage",),
        ("loadtest/generator",),
        ("loadtest/phases", "loadtest/bench", "loadtest/rehearse"),
        tuple(f"loadtest/{phase}.py" for phase in ("initial", "early", "half", "majority", "complete")),
    ),
    "backends": (
        tuple(f"backends/{name}.py" for name in ("disk", "durations", "errors", "operations", "origin")),
        ("backends/arm.py", "backends/backend.py"),
        ("backends/documents",),
        ("backends/resilience",),
        ("backends/kinds",),
        ("backends/emulator",),
        ("backends/adapters",),
        ("backends/extensions.py",),
        ("backends/copy",),
        ("backends/pair",),
    ),
    "proxy": (
        ("proxy/settings.py",),
        ("proxy/tls.py",),
        ("proxy/board",),
        ("proxy/http1",),
        ("proxy/migration",),
        ("proxy/process",),
    ),
    "control": (
        ("control/plan",),
        ("control/judge",),
        ("control/rollout",),
        ("control/store",),
        ("control/figures",),
        ("control/checks",),
        ("control/data",),
        ("control/lead",),
        ("control/report",),
        ("control/api",),
        ("control/serve.py",),
        ("control/terminal",),
        ("control/demo",),
        ("control/cli",),
        ("control/reference.py",),
    ),
}

_INTRO: Final = """# Configuration

One TOML file, `phasegate.toml` unless `--config` or `PHASEGATE_CONFIG` names another. `phasegate init` writes a
commented one, and `phasegate check` checks it. All mistakes are reported at once, each with its path in the file and
what was expected; a key that is not listed here is a mistake. Paths are relative to the file's own folder. A
**duration** is written `"250ms"`, `"30s"`, `"5m"`, `"1h"`, or as a bare number of seconds; an **address** is
`"HOST:PORT"`.

On `SIGHUP`, `phasegate serve` reads the file again. If it is valid, workers are replaced one by one and no request is
lost. If it is not, everything goes on with the old configuration, and the log says why.

*This page is written by `make docs` from the settings in the source.*
"""

# The meaning of keys whose field in the source has no comment. A key with neither is an error.
_MEANINGS: Final[dict[tuple[type[Struct], str], str]] = {
    (App, "origin"): (
        "where the app listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/path/of/a/socket`; "
        "every request that is not a data request goes there"
    ),
    (App, "connect_timeout"): "to connect to the app; after it 502",
    (Proxy, "listen"): "the addresses that clients connect to",
    (Proxy, "sticky"): (
        "how a visitor is recognised; the first of these that the request has: `header:NAME`, `cookie` (set on the "
        "first data answer), `ip`, or `random`"
    ),
    (Proxy, "run_dir"): "the board, the checkpoints, the audit trail, the mock's journal; one phasegate at a time",
    (Proxy, "max_head"): "bytes of a request's head; a larger one gets 431",
    (Proxy, "head_timeout"): "for a request's whole head to arrive",
    (Proxy, "idle_timeout"): "how long a client's connection may stay open without a request",
    (Proxy, "drain_timeout"): "how long a worker that ends waits for its requests in flight",
    (Listener, "address"): "where it listens",
    (Tls, "key"): "the private key, in a PEM file",
    (Tls, "minimum"): "the oldest version of TLS that is accepted",
    (Errors, "content_type"): "the template's media type",
    (AccessLog, "path"): "the file; after a log rotation moved it, a new one is opened",
    (AccessLog, "sample"): "the share of requests without an error that are written, 0 to 1",
    (settings.Migration, "source"): "the backend that answers today",
    (settings.Migration, "target"): "the backend that traffic moves to",
    (settings.Migration, "routes"): "the paths of the migration's data requests; `*` at the end stands for anything",
    (settings.Migration, "mode"): "`hybrid` follows the phases; the others answer everything from that arm alone",
    (
        settings.Migration,
        "writes",
    ): "who answers a write: its visitor's side, or the source until completion; only between document stores",
    (
        settings.Migration,
        "validate_every",
    ): "how often the target is judged in full; in between, a detector looks four times a second",
    (settings.Migration, "lease"): "how long workers use the target when the control plane is silent; at most 38s",
    (settings.Migration, "on_breach"): "how far a failing target is rolled back: one phase, or to 0 %",
    (settings.Migration, "judge"): "`sequential` weighs evidence; `threshold` compares a window with the limit",
    (settings.Migration, "phases"): "the steps, each with a greater weight than the one before",
    (settings.Migration, "thresholds"): "limits that a healthy target keeps",
    (settings.Migration, "windows"): "hours in which a phase may begin; without any, always",
    (settings.Migration, "freezes"): "spans in which no phase begins",
    (
        settings.Migration,
        "webhooks",
    ): "receivers of phase changes, rollbacks, approvals that are waited for, holds, lost leases and differing data",
    (
        settings.DataSettings,
        "compare_every",
    ): 'how long after a copy or a compare all documents of both sides are compared again; `"0"`: never',
    (phases.Phase, "name"): "the phase's name in status, report and logs; `previous` and `start` are reserved words",
    (phases.Phase, "weight"): "the target's share of data requests, in percent, in steps of 0.01",
    (phases.Phase, "min_soak"): "the least time in this phase",
    (phases.Phase, "rollback_within"): "limit for a rollback out of this phase to be complete",
    (phases.Thresholds, "error_rate"): "failed requests, as a share of 1",
    (phases.Thresholds, "p95_ms"): "at most 5 % of requests are slower",
    (phases.Thresholds, "p99_ms"): "at most 1 % of requests are slower",
    (phases.Thresholds, "memory_mb"): "resident memory of phasegate's largest process, in MB of 1,000,000 bytes",
    (
        phases.Thresholds,
        "cpu",
    ): "processor time of all phasegate's processes, as a share of the whole machine, 0 to 1",
    (gates.Window, "from"): "`HH:MM`, local time in `tz`",
    (gates.Window, "to"): "likewise; at or before `from`: of the next day",
    (gates.Window, "days"): "the days on which the window opens",
    (gates.Window, "tz"): "the time zone, such as `Europe/Paris`, with its daylight saving time",
    (gates.Freeze, "from"): "a TOML date and time with an offset",
    (gates.Freeze, "to"): "likewise",
    (gates.Freeze, "reason"): "shown while the freeze lasts",
    (settings.Webhook, "url"): "where JSON documents are posted to",
    (settings.Webhook, "secret_env"): "the environment variable with the key that signs the documents",
    (settings.Control, "listen"): "the API and the dashboard; another host than loopback needs tokens or admins; "
    "port 0: a free one, which [commands find](operations.md#how-a-command-finds-phasegate)",
    (settings.Control, "tokens"): "static tokens; `phasegate token` makes one and prints its line",
    (settings.Migration, "max_soak"): "after it `on_low_traffic` decides; none: twice the phase's `min_soak`",
    (
        settings.Migration,
        "on_low_traffic",
    ): "what happens after `max_soak` without proof, if all limits were kept so far",
    (phases.Phase, "max_soak"): "for this phase; none: the migration's",
    (phases.Phase, "min_samples"): "for this phase; none: the migration's",
    (phases.Thresholds, "success_rate"): "the same limit as a share of successes; the stricter of both applies",
    (Proxy, "workers"): "worker processes; 0: one per core",
    (Proxy, "max_body"): "bytes of a data request's body; a larger one gets 413",
    (Proxy, "body_timeout"): "for a data request's whole body to arrive",
    (settings.Control, "viewers"): "verified e-mail addresses that may look",
    (
        settings.Control,
        "firebase_project",
    ): "project whose ID tokens are accepted; none: the only Firestore backend's",
    (settings.Control, "session"): "how long a sign-in to the dashboard lasts",
    (settings.Token, "name"): "shown in the audit trail",
    (settings.Token, "sha256"): "of the token, in hexadecimal",
    (settings.Token, "role"): "`viewer` may look, `operator` may act",
}


def is_pure(docstring: str | None) -> bool:
    """Whether a module's docstring says that it is pure."""
    return re.search(r"\bPure\b", docstring or "") is not None


def documents() -> dict[Path, str]:
    """The whole text of every generated page, as the source requires it now."""
    docs = ROOT / "docs"
    architecture = {"code map": _code_map(), "states": _states(), "connection": _connection()}
    return {
        docs / "configuration.md": "\n".join(configuration()),
        docs / "architecture.md": _written(docs / "architecture.md", architecture),
        docs / "judge.md": _written(docs / "judge.md", {"rules": _rules()}),
        docs / "firestore.indexes.json": index_file(asks(), unindexed()),
    }


def _written(page: Path, parts: dict[str, Iterator[str]]) -> str:
    """A page's text with each generated part replaced."""
    text = page.read_text("utf-8")
    for name, lines in parts.items():
        text = _between(page, text, name, "\n".join(lines))
    return text


def _between(page: Path, text: str, name: str, body: str) -> str:
    begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
    before, opened, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"expected {begin!r} and {end!r} in docs/{page.name}")
    return f"{before}{begin}\n\n{body}\n{end}{after}"


# The configuration.


def configuration() -> Iterator[str]:
    yield _INTRO
    yield "## At the top of the file\n"
    yield "Before any table.\n"
    hints = get_type_hints(settings.Settings, include_extras=True)
    yield from _keys(
        settings.Settings, [key for key in fields(settings.Settings) if not list(_shapes(hints[key.name]))]
    )
    for heading, shape in _tables("", settings.Settings):
        yield f"## `{heading}`\n"
        yield f"{_first_line(shape)}\n"
        yield from _keys(shape, fields(shape))


def _keys(shape: type[Struct], keys: Iterable[FieldInfo]) -> Iterator[str]:
    """The keys of a table, a row each."""
    comments = _comments(shape)
    hints = get_type_hints(shape, include_extras=True)
    yield "| key | is | default | meaning |"
    yield "|---|---|---|---|"
    for field in keys:
        meaning = _MEANINGS.get((shape, field.encode_name)) or comments.get(field.name)
        if meaning is None and (inner := next(_shapes(hints[field.name]), None)):
            meaning = _first_line(inner)
        if meaning is None:
            where = "write it in a comment behind the field, or in control/reference.py"
            raise ValueError(f"{shape.__name__}.{field.encode_name} has no meaning: {where}")
        yield f"| `{field.encode_name}` | {_words(hints[field.name])} | {_default(field)} | {meaning} |"
    yield ""


def _tables(path: str, shape: type[Struct]) -> Iterator[tuple[str, type[Struct]]]:
    """Every table of the file, in the file's order: its heading, and the struct behind it."""
    hints = get_type_hints(shape, include_extras=True)
    for field in fields(shape):
        inner = f"{path}.{field.encode_name}" if path else field.encode_name
        hint = hints[field.name]
        many = get_origin(hint) is tuple
        if get_origin(hint) is dict:
            inner += ".NAME"
        shapes = list(_shapes(hint))
        for table in shapes:
            tag = table.__struct_config__.tag
            heading = f"[[{inner}]]" if many else f"[{inner}]"
            yield heading + (f', kind = "{tag}"' if tag else ""), table
            yield from _tables(inner, table)


def _shapes(hint: Any) -> Iterator[type[Struct]]:
    """The structs within a type: the type itself, a union's members, a container's items."""
    if hint is Backend:
        yield from (kind.settings for kind in KINDS.values())
    elif isinstance(hint, type) and issubclass(hint, Struct):
        yield hint
    for argument in get_args(hint):
        yield from _shapes(argument)


def _first_line(shape: type[Struct]) -> str:
    return re.sub(r"``", "`", (inspect.getdoc(shape) or "").splitlines()[0])


def _comments(shape: type[Struct]) -> dict[str, str]:
    """Each field's comment in the source: the one behind it, or else the one above it."""
    comments: dict[str, str] = {}
    above, name = "", ""
    for token in tokenize.generate_tokens(StringIO(inspect.getsource(shape)).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                above = f"{above} {words}".strip()
            else:
                comments[name] = words
        elif token.type == tokenize.NAME and token.start[1] == 4:
            name = token.string
            if above:
                comments[name], above = above, ""
    return comments


def _words(hint: Any) -> str:
    """A type in the words of a configuration file's reader."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        bounds = "".join(filter(None, (_bounds(meta) for meta in hint.__metadata__)))
        return _words(hint.__origin__) + bounds
    if origin in (Union, UnionType):
        return " or ".join(_words(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, Struct):
        return "table"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f'`"{member.value}"`' for member in hint)
    return _NAMES[hint]


_NAMES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Duration: "duration",
    datetime: "date and time",
}


def _bounds(meta: object) -> str:
    if not isinstance(meta, Meta):
        return ""
    signs = (("gt", " above {}"), ("ge", " from {}"), ("lt", " below {}"), ("le", " up to {}"))
    return "".join(words.format(getattr(meta, key)) for key, words in signs if getattr(meta, key) is not None)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is NODEFAULT and field.default_factory is not NODEFAULT:
        value = field.default_factory()
    if value is NODEFAULT:
        return "**required**"
    if value is None:
        return "none"
    if isinstance(value, Duration):
        return f'`"{_duration(value)}"`'
    if isinstance(value, Struct):
        return "the table's own defaults"
    if isinstance(value, tuple) and value and isinstance(value[0], phases.Phase):
        return ", ".join(f"{phase.name} {phase.weight:g} %" for phase in value)
    return f"`{msgspec.json.encode(value).decode()}`"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


# The architecture.


def _code_map() -> Iterator[str]:
    """Every file, from the highest package to the lowest: a reader meets each before what it stands on."""
    for top, rows in reversed(LAYERS.items()):
        yield f"### `{top}/`\n"
        yield f"{_docstring(ROOT / top / '__init__.py')}\n"
        for own, places in groupby(chain.from_iterable(reversed(rows)), lambda place: place.endswith(".py")):
            if own:
                yield f"**`{top}/`**, its own files:\n"
                yield from _files(ROOT / place for place in places)
            else:
                yield from chain.from_iterable(map(_package, places))


def _package(place: str) -> Iterator[str]:
    """A package, and the packages in it."""
    paths = sorted((ROOT / place).rglob("*.py"))
    for folder in sorted({path.parent for path in paths}):
        yield f"**`{folder.relative_to(ROOT)}/`** {_docstring(folder / '__init__.py')}\n"
        yield from _files(path for path in paths if path.parent == folder)


def _files(paths: Iterable[Path]) -> Iterator[str]:
    """A line a file, but for the one that holds the package's own purpose."""
    for path in paths:
        if path.name != "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            mark = " ◆" if is_pure(text) else ""
            yield f"- `{path.relative_to(ROOT)}`{mark}: {_summary(text)}"
    yield ""


def _docstring(path: Path) -> str:
    return " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split()).replace("``", "`")


def _summary(docstring: str) -> str:
    """A docstring's text up to the first empty line, without the word "Pure.", which the mark ◆ replaces."""
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r"\s*\bPure\.", "", text).replace("``", "`")


def _states() -> Iterator[str]:
    """The rollout's states and transitions, as a Mermaid diagram."""
    return _diagram("idle", ((row.state.value, row.on.value, row.to.value) for row in TRANSITIONS))


def _connection() -> Iterator[str]:
    """The states and transitions of a client's connection, likewise."""
    rows = ((states.STATES[row.state], states.EVENTS[row.event], states.STATES[row.to]) for row in states.TRANSITIONS)
    return _diagram(states.STATES[states.HEAD], rows)


def _diagram(first: str, rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Rows of state, event and next state as a Mermaid diagram. Events that do not change the state are left out."""
    edges: dict[tuple[str, str], list[str]] = {}
    for before, event, after in rows:
        if before != after:
            events = edges.setdefault((before, after), [])
            if event not in events:
                events.append(event)
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {first}"
    for (before, after), events in edges.items():
        yield f"    {before} --> {after}: {', '.join(event.replace('_', ' ') for event in events)}"
    yield "```\n"


# The judge.


def _rules() -> Iterator[str]:
    """The judge's rules as a table."""
    titles = ("rule", "what is counted or sampled", "limit", "p₀")
    yield f"| {' | '.join((*titles, 'health checks count', 'copies count', 'held beside a bad source'))} |"
    yield "|---|---|---|---|---|---|---|"
    keys = {field.encode_name for field in fields(phases.Thresholds)}
    for rule in RULES:
        limit = f"`{rule.limit}`" if rule.limit in keys else inspect.getdoc(getattr(phases.Thresholds, rule.limit))
        cells = [f"`{rule.name}`", rule.meaning, str(limit).rstrip(".").replace("``", "`")]
        if isinstance(rule.signal, Requests):
            allowed = "the limit" if rule.signal.allowed is None else percent(rule.signal.allowed)
            signal = rule.signal
            cells += [allowed, *map(_yes, (signal.probed, signal.copied, signal.beside_source))]
        else:
            cells += [""] * 4
        yield f"| {' | '.join(cells)} |"
    yield ""


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def main() -> None:
    """Write the pages."""
    for path, text in documents().items():
        path.write_text(text, "utf-8")
        sys.stdout.write(f"Wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
