"""Path → operation or app: the routing table of all migrations, compiled once, and the board's layout that
follows. Pure.

A path of a migration's ``routes`` that an operation's template fits is a data request; with another method it is 405.
Every other path is the app's, those of a migration's routes that no operation fits included.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

from backends.adapters.registry import operations as table
from backends.adapters.registry import specs
from backends.backend import Backend
from backends.kinds.registry import KINDS
from backends.operations import Kind, Operation
from proxy.board.layout import Layout
from proxy.http1.head import Line
from proxy.http1.refusal import Refused
from proxy.http1.service import Endpoint, NotAllowed, Options
from proxy.settings import Plan, Route

_TARGET_MAX: Final = 4096  # of a data request, whose path and query are decoded
_PARAMETERS_MAX: Final = 64
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


def is_http(route: Route, backends: dict[str, Backend]) -> bool:
    """Whether both arms are HTTP origins: then they alone know what a path means."""
    return all(KINDS[backends[name].kind].reach for name in (route.source, route.target))


def _matches(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).match


def operations_of(route: Route, backends: dict[str, Backend]) -> tuple[Operation, ...]:
    """The operations of a migration, in the order of the board's cells.

    Where an arm is a document store: those of the adapters that its routes reach. Between HTTP origins: one for each
    route and kind, since what a path means is known to the origins alone.
    """
    if is_http(route, backends):
        kinds: tuple[tuple[Kind, str], ...] = (("read", "GET"), ("write", "*"))
        return tuple(
            Operation(f"{kind} {pattern}", method, pattern, kind, "http", kind)
            for pattern in route.routes
            for kind, method in kinds
        )
    patterns = [_matches(pattern) for pattern in route.routes]
    # "/api/scans/*" means the collection itself too: /api/scans.
    return tuple(op for op in table() if any(match(op.path) or match(op.path + "/") for match in patterns))


def layout(plan: Plan, workers: int) -> Layout:
    """The board that a plan needs, for so many workers."""
    names = tuple(
        (route.name, tuple(op.name for op in operations_of(route, plan.backends))) for route in plan.migrations
    )
    return Layout(workers, names)


def _template(path: str) -> re.Pattern[str]:
    pieces = _PLACEHOLDER.split(path)
    return re.compile("".join(f"(?P<{p}>[^/]+)" if i % 2 else re.escape(p) for i, p in enumerate(pieces)))


class Router:
    """Resolves request lines. What a line leads to is remembered with it, so a path is matched once."""

    def __init__(self, plan: Plan) -> None:
        # The parameters of the query that each operation has, in one order.
        self._parameters = {
            name: sorted(parameter.name for parameter in spec.parameters) for name, spec in specs().items()
        }
        self._literal: dict[str, dict[str, tuple[int, int, Operation]]] = {}
        self._templates: list[tuple[re.Pattern[str], dict[str, tuple[int, int, Operation]]]] = []
        self._patterns: list[tuple[Callable[[str], object], int, tuple[int, Operation], tuple[int, Operation]]] = []
        for m, route in enumerate(plan.migrations):
            operations = operations_of(route, plan.backends)
            if is_http(route, plan.backends):
                for i, pattern in enumerate(route.routes):
                    read, write = 2 * i, 2 * i + 1
                    entry = (_matches(pattern), m, (read, operations[read]), (write, operations[write]))
                    self._patterns.append(entry)
                continue
            methods: dict[str, dict[str, tuple[int, int, Operation]]] = {}
            for number, operation in enumerate(operations):
                methods.setdefault(operation.path, {})[operation.method] = (m, number, operation)
            for path, by_method in methods.items():
                if "GET" in by_method:
                    by_method.setdefault("HEAD", by_method["GET"])
                if "{" in path:
                    self._templates.append((_template(path), by_method))
                else:
                    self._literal[path] = by_method

    def resolve(self, line: Line) -> Endpoint | NotAllowed | Options | None:
        """What a request line leads to; None is the app. Raises ``Refused`` for a data request that asks too much."""
        raw, _, query = line.target.partition(b"?")
        path = raw.decode("ascii")
        params: dict[str, str] = {}
        methods = self._literal.get(path)
        if methods is None:
            for template, candidates in self._templates:
                match = template.fullmatch(path)
                if match:
                    _check_size(line)
                    methods = candidates
                    params = {name: unquote(value) for name, value in match.groupdict().items()}
                    break
        if methods is None:
            origin = self._by_pattern(path, line.method)
            return Options(origin) if line.method == b"OPTIONS" else origin
        found = methods.get(line.method.decode("ascii"))
        if found is None:
            return NotAllowed(", ".join(sorted(methods)).encode())
        _check_size(line)
        migration, number, operation = found
        values = _first_values(query)
        # Others change nothing in the answer, so they must not cost a read of the backend or a place in memory.
        known = {name: values[name] for name in self._parameters[operation.name] if name in values}
        return Endpoint(migration, number, operation, params, known, _key(operation, params, known))

    def _by_pattern(self, path: str, method: bytes) -> Endpoint | None:
        for match, m, read, write in self._patterns:
            if match(path) or match(path + "/"):
                number, operation = read if method in (b"GET", b"HEAD") else write
                return Endpoint(m, number, operation, {}, {}, b"")
        return None


def _check_size(line: Line) -> None:
    if len(line.target) > _TARGET_MAX:
        raise Refused(414, "target_too_long", f"expected a data request's target of at most {_TARGET_MAX} bytes")


def _key(operation: Operation, params: dict[str, str], known: dict[str, str]) -> bytes:
    """What the request means, whatever its spelling: the operation, and its parameters in one order."""
    return f"{operation.name}?{urlencode([*sorted(params.items()), *known.items()])}".encode()


def _first_values(query: bytes) -> dict[str, str]:
    """The first value of each name. Raises ``Refused``."""
    if query.count(b"&") >= _PARAMETERS_MAX:
        raise Refused(400, "too_many_parameters", f"expected at most {_PARAMETERS_MAX} parameters")
    values: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("ascii"), keep_blank_values=True):
        values.setdefault(name, value)
    return values
