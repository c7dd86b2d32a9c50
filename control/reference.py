"""Writes the parts of the documentation that are read from the source, so that they cannot be out of date.

    docs/configuration.md   every key of the configuration: from the settings' types, defaults and comments
    docs/architecture.md    between its marks: the code map from the modules' docstrings, and the states of the
                            rollout and of a client's connection from their tables of transitions
    docs/judge.md           between its marks: the judge's rules, from their table

``python -m control.reference`` writes them; ``documents`` gives them, for the test that they are current.
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
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from backends.backend import Backend
from backends.durations import Duration
from backends.kinds.registry import KINDS
from control.judge.rules import RULES, Requests, percent
from control.plan import gates, phases, settings
from control.rollout.machine import TRANSITIONS
from proxy.http1 import states
from proxy.settings import AccessLog, App, Errors, Listener, Proxy, Tls

ROOT: Final = Path(__file__).parents[1]
PACKAGES: Final = ("control", "proxy", "backends", "loadtest")

_INTRO: Final = """# Configuration

One TOML file, `phasegate.toml` unless `--config` or `PHASEGATE_CONFIG` names another. `phasegate init` writes a
commented one and `phasegate check` reads it. Every mistake is told at once, with its path in the file and what was
expected; a key that is not listed here is a mistake. Paths are relative to the file's own folder. A **duration** is
written `"250ms"`, `"30s"`, `"5m"`, `"1h"`, or as a bare number of seconds; an **address** is `"HOST:PORT"`.

`SIGHUP` to `phasegate serve` has the file read again: where it is good, workers are replaced one by one, and no
request is lost; where it is not, everything goes on as before and the log says why.

*This page is written by `make docs` from the settings themselves.*
"""

# What the source's own comment does not say. A key with neither is an error.
_MEANINGS: Final[dict[tuple[type[Struct], str], str]] = {
    (App, "origin"): (
        "where the app listens: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/path/of/a/socket`; "
        "every request that is no data request goes there"
    ),
    (App, "connect_timeout"): "to connect to the app; beyond it 502",
    (Proxy, "listen"): "the addresses that clients come to",
    (Proxy, "sticky"): (
        "whose request it is, the first that the request has: `header:NAME`, `cookie` (set on the first data "
        "answer), `ip`, or `random`"
    ),
    (Proxy, "run_dir"): "the board, the checkpoints, the audit trail, the mock's journal; one phasegate at a time",
    (Proxy, "max_head"): "bytes of a request's head; beyond it 431",
    (Proxy, "head_timeout"): "for a request's head to arrive whole",
    (Proxy, "idle_timeout"): "how long a client's connection may stay without a request",
    (Proxy, "drain_timeout"): "how long a worker that ends waits for what it has in flight",
    (Listener, "address"): "where it listens",
    (Tls, "key"): "the private key, in a PEM file",
    (Tls, "minimum"): "the oldest version of TLS that is spoken",
    (Errors, "content_type"): "what the template is",
    (AccessLog, "path"): "the file; it is opened again when it was moved away",
    (AccessLog, "sample"): "the share of requests without an error that are written, 0 to 1",
    (settings.Migration, "source"): "the backend that answers today",
    (settings.Migration, "target"): "the backend that is to answer",
    (settings.Migration, "routes"): "the paths that are the migration's; `*` at the end stands for anything",
    (settings.Migration, "mode"): "`hybrid` follows the phases; the others answer everything from that arm alone",
    (
        settings.Migration,
        "validate_every",
    ): "how often the target is judged in full; beside it a detector looks four times a second",
    (settings.Migration, "lease"): "how long workers use the target when the control plane is silent; at most 38s",
    (settings.Migration, "on_breach"): "where a failing target is taken back to: one phase, or all the way",
    (settings.Migration, "judge"): "`sequential` weighs evidence; `threshold` compares a window with the limit",
    (settings.Migration, "phases"): "the steps, each of a greater weight than the one before",
    (settings.Migration, "thresholds"): "what a healthy target keeps to",
    (settings.Migration, "windows"): "hours in which a phase may begin; without any, always",
    (settings.Migration, "freezes"): "spans in which no phase begins",
    (
        settings.Migration,
        "webhooks",
    ): "who is told of phase changes, rollbacks, approvals that are waited for, holds and lost leases",
    (phases.Phase, "name"): "shown everywhere",
    (phases.Phase, "weight"): "the target's share of data requests, in percent, in steps of 0.01",
    (phases.Phase, "min_soak"): "the least time in this phase",
    (phases.Phase, "rollback_within"): "a rollback out of this phase is complete within it",
    (phases.Thresholds, "error_rate"): "failed requests, as a share of 1",
    (phases.Thresholds, "p95_ms"): "at most 5 % of requests are slower",
    (phases.Thresholds, "p99_ms"): "at most 1 % of requests are slower",
    (phases.Thresholds, "memory_mb"): "of the largest of phasegate's processes",
    (phases.Thresholds, "cpu"): "what phasegate's processes use of the machine, as a share of 1",
    (gates.Window, "from"): "`HH:MM`, as clocks in `tz` show it",
    (gates.Window, "to"): "likewise; at or before `from`: of the next day",
    (gates.Window, "days"): "the days on which it opens",
    (gates.Window, "tz"): "the time zone, such as `Europe/Paris`, with its summer time",
    (gates.Freeze, "from"): "a TOML date and time with an offset",
    (gates.Freeze, "to"): "likewise",
    (gates.Freeze, "reason"): "shown while it lasts",
    (settings.Webhook, "url"): "where a JSON document is posted to",
    (settings.Webhook, "secret_env"): "the environment variable that holds the key it is signed with",
    (settings.Control, "listen"): "the API and the dashboard; another host than loopback needs tokens or admins",
    (settings.Control, "tokens"): "static tokens; `phasegate token` makes one and prints its line",
    (settings.Migration, "max_soak"): "then `on_low_traffic` decides; none: twice the phase's `min_soak`",
    (settings.Migration, "on_low_traffic"): "where `max_soak` has passed without proof, and limits were kept so far",
    (phases.Phase, "max_soak"): "this phase's own; none: the migration's",
    (phases.Phase, "min_samples"): "this phase's own; none: the migration's",
    (phases.Thresholds, "success_rate"): "the same limit from the other side; the stricter of both holds",
    (Proxy, "workers"): "worker processes; 0: one a core",
    (Proxy, "max_body"): "bytes of a data request's body; beyond it 413",
    (Proxy, "body_timeout"): "for a data request's body to arrive whole",
    (settings.Control, "viewers"): "verified e-mail addresses that may look",
    (settings.Control, "firebase_project"): "whose ID tokens are believed; none: the only Firestore backend's",
    (settings.Control, "session"): "how long a sign-in to the dashboard lasts",
    (settings.Token, "name"): "shown in the audit trail",
    (settings.Token, "sha256"): "of the token, in hexadecimal",
    (settings.Token, "role"): "`viewer` may look, `operator` may act",
}


def is_pure(docstring: str | None) -> bool:
    """Whether a module's docstring says that it is pure."""
    return re.search(r"\bPure\b", docstring or "") is not None


def documents() -> dict[Path, str]:
    """Every page that is written from the source, whole, as it should be."""
    docs = ROOT / "docs"
    architecture = {"code map": _code_map(), "states": _states(), "connection": _connection()}
    return {
        docs / "configuration.md": "\n".join(configuration()),
        docs / "architecture.md": _written(docs / "architecture.md", architecture),
        docs / "judge.md": _written(docs / "judge.md", {"rules": _rules()}),
    }


def _written(page: Path, parts: dict[str, Iterator[str]]) -> str:
    """A page with each part between its marks written anew."""
    text = page.read_text("utf-8")
    for name, lines in parts.items():
        text = _between(page, text, name, "\n".join(lines))
    return text


def _between(page: Path, text: str, name: str, body: str) -> str:
    begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"expected {begin!r} and {end!r} in docs/{page.name}")
    return f"{before}{begin}\n\n{body}\n{end}{after}"


# The configuration.


def configuration() -> Iterator[str]:
    yield _INTRO
    for heading, shape in _tables("", settings.Settings):
        comments = _comments(shape)
        hints = get_type_hints(shape, include_extras=True)
        yield f"## `{heading}`\n"
        yield f"{_first_line(shape)}\n"
        yield "| key | is | default | meaning |"
        yield "|---|---|---|---|"
        for field in fields(shape):
            meaning = _MEANINGS.get((shape, field.encode_name)) or comments.get(field.name)
            if meaning is None and (inner := next(_shapes(hints[field.name]), None)):
                meaning = _first_line(inner)
            if meaning is None:
                where = "say it in a comment behind the field, or in control/reference.py"
                raise ValueError(f"{shape.__name__}.{field.encode_name}: what does it mean? {where}")
            yield f"| `{field.encode_name}` | {_words(hints[field.name])} | {_default(field)} | {meaning} |"
        yield ""


def _tables(path: str, shape: type[Struct]) -> Iterator[tuple[str, type[Struct]]]:
    """Every table of the file and the shape behind it, in the file's order: heading, shape."""
    hints = get_type_hints(shape, include_extras=True)
    for field in fields(shape):
        inner = f"{path}.{field.encode_name}" if path else field.encode_name
        hint = hints[field.name]
        many = get_origin(hint) is tuple
        if get_origin(hint) is dict:
            inner += ".NAME"
        shapes = list(_shapes(hint))
        for found in shapes:
            tag = found.__struct_config__.tag
            heading = f"[[{inner}]]" if many else f"[{inner}]"
            yield heading + (f', kind = "{tag}"' if tag else ""), found
            yield from _tables(inner, found)


def _shapes(hint: Any) -> Iterator[type[Struct]]:
    """The tables that a type holds: itself, its members, its items."""
    if hint is Backend:
        yield from (kind.settings for kind in KINDS.values())
    elif isinstance(hint, type) and issubclass(hint, Struct):
        yield hint
    for argument in get_args(hint):
        yield from _shapes(argument)


def _first_line(shape: type[Struct]) -> str:
    return re.sub(r"``", "`", (inspect.getdoc(shape) or "").splitlines()[0])


def _comments(shape: type[Struct]) -> dict[str, str]:
    """The comment behind each field in the source, or else the one above it."""
    found: dict[str, str] = {}
    above, name = "", ""
    for token in tokenize.generate_tokens(StringIO(inspect.getsource(shape)).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            if token.line.lstrip().startswith("#"):
                above = f"{above} {words}".strip()
            else:
                found[name] = words
        elif token.type == tokenize.NAME and token.start[1] == 4:
            name = token.string
            if above:
                found[name], above = above, ""
    return found


def _words(hint: Any) -> str:
    """A type as the reader of a configuration file knows it."""
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
    for package in PACKAGES:
        paths = sorted((ROOT / package).rglob("*.py"))
        for folder in sorted({path.parent for path in paths}):
            name = folder.relative_to(ROOT)
            yield f"**`{name}/`** {_docstring(folder / '__init__.py')}\n"
            for path in paths:
                if path.parent == folder and path.name != "__init__.py":
                    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
                    mark = " ◆" if is_pure(text) else ""
                    yield f"- `{path.relative_to(ROOT)}`{mark}: {_summary(text)}"
            yield ""


def _docstring(path: Path) -> str:
    return " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split()).replace("``", "`")


def _summary(docstring: str) -> str:
    """The first sentence or two: up to the first empty line, without the word that the mark stands for."""
    text = " ".join(docstring.split("\n\n")[0].split())
    return re.sub(r"\s*\bPure\.", "", text).replace("``", "`")


def _states() -> Iterator[str]:
    """The rollout's states and what leads from one to another, as Mermaid draws it."""
    return _diagram("idle", ((row.state.value, row.on.value, row.to.value) for row in TRANSITIONS))


def _connection() -> Iterator[str]:
    """Likewise for a client's connection."""
    rows = ((states.STATES[row.state], states.EVENTS[row.event], states.STATES[row.to]) for row in states.TRANSITIONS)
    return _diagram(states.STATES[states.HEAD], rows)


def _diagram(first: str, rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Rows of state, event and next state, as Mermaid draws them; what stays in its state is left out."""
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
    yield "| rule | what is counted or sampled | limit | p₀ | health checks count | held beside a bad source |"
    yield "|---|---|---|---|---|---|"
    keys = {field.encode_name for field in fields(phases.Thresholds)}
    for rule in RULES:
        limit = f"`{rule.limit}`" if rule.limit in keys else inspect.getdoc(getattr(phases.Thresholds, rule.limit))
        cells = [f"`{rule.name}`", rule.meaning, str(limit).rstrip(".").replace("``", "`")]
        if isinstance(rule.signal, Requests):
            allowed = "the limit" if rule.signal.allowed is None else percent(rule.signal.allowed)
            cells += [allowed, _yes(rule.signal.probed), _yes(rule.signal.beside_source)]
        else:
            cells += ["", "", ""]
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
