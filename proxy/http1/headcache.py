"""A cache of recently parsed heads, by their bytes. Pure.

A browser's next request often repeats the whole block of fields byte for byte. Then one look-up here replaces
parsing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.http1.head import Fields, Line, Response, parse_fields, parse_request_line, parse_response

_REMEMBERED_MAX: Final = 4096  # bytes; longer heads are not cached
_ENTRY: Final = 256  # estimate of an entry's bytes beside its key
_PARAMETER: Final = 256  # estimate of the bytes of each query parameter in the route that is cached with its line
T = TypeVar("T")


class HeadCache:
    """Recently parsed request lines, blocks of fields and answers' heads, by their bytes.

    Each table has a young and an old half. When the young half reaches its budget of bytes it becomes the old one;
    entries that are used again move back. So a stream of new heads does not displace those in use, and memory is
    bounded.
    """

    __slots__ = ("_blocks", "_budget", "_lines", "_resolve", "_responses", "_wanted", "blocks", "lines", "responses")

    def __init__(self, wanted: frozenset[bytes], resolve: Callable[[Line], object], budget: int = 1 << 20) -> None:
        self._wanted = wanted
        self._resolve = resolve
        self._budget = budget
        self.lines: dict[bytes, Line] = {}
        self.blocks: dict[bytes, Fields] = {}
        self.responses: dict[bytes, Response] = {}
        self._lines = _Generations[Line](budget)
        self._blocks = _Generations[Fields](budget)
        self._responses = _Generations[Response](budget)

    def line(self, raw: bytes) -> Line:
        """The request line, parsed and routed. Raises ``Refused``."""
        line = self.lines.get(raw)
        if line is None:
            line = self._lines.old.get(raw)
            if line is None:
                line = parse_request_line(raw)
                line.route = self._resolve(line)
            self.lines = self._lines.keep(self.lines, raw, line, _PARAMETER * raw.count(b"&"))
        return line

    def fields(self, block: bytes) -> Fields:
        """The request's fields. Raises ``Refused``."""
        fields = self.blocks.get(block)
        if fields is None:
            fields = self._blocks.old.get(block)
            if fields is None:
                fields = parse_fields(block, self._wanted)
            self.blocks = self._blocks.keep(self.blocks, block, fields)
        return fields

    def fields_http10(self, block: bytes) -> Fields:
        """The fields of an HTTP/1.0 request, without upgrades and expectations. Raises ``Refused``."""
        return parse_fields(block, self._wanted, http10=True)

    def response(self, head: bytes) -> Response:
        """The answer's head. Raises ``Refused`` (502)."""
        response = self.responses.get(head)
        if response is None:
            response = self._responses.old.get(head)
            if response is None:
                response = parse_response(head)
            self.responses = self._responses.keep(self.responses, head, response)
        return response


class _Generations(Generic[T]):
    """The old half of a table, and the estimated bytes of the young half."""

    __slots__ = ("_budget", "_held", "old")

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self.old: dict[bytes, T] = {}

    def keep(self, young: dict[bytes, T], key: bytes, value: T, beside: int = 0) -> dict[bytes, T]:
        """Add a parsed head to the young half; return the half that is young from now on.

        ``beside``: bytes of the value beyond the estimate for its key's length.
        """
        if len(key) > _REMEMBERED_MAX:
            return young
        cost = len(key) + _ENTRY + beside
        self._held += cost
        if self._held > self._budget:
            self.old, young, self._held = young, {}, cost
        young[key] = value
        return young
