"""Heads that were parsed lately, found again by their bytes. Pure.

A head is taken apart once: what a browser repeats to the byte on its next request (its whole block of fields) is
found here with one look-up, so the grammar is walked on the first request of a kind and not on every one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from proxy.http1.head import Fields, Line, Response, parse_fields, parse_request_line, parse_response

_REMEMBERED_MAX: Final = 4096
_ENTRY: Final = 256  # bytes that an entry takes beside its key, about
_PARAMETER: Final = 256  # bytes that each parameter of a query takes in the route that is kept with its line, about
T = TypeVar("T")


class HeadCache:
    """What has been parsed lately, by its bytes: request lines, blocks of fields, answers' heads.

    Each table has a young and an old half: when the young one holds its share of bytes it becomes the old one, and
    what is asked for again moves back. So a stream of ever-new heads does not displace those in use, and memory is
    bounded: no head above ``_REMEMBERED_MAX`` is kept at all.
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
        """The fields of an HTTP/1.0 request, which mean less. Raises ``Refused``."""
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
    """The old half of a table, and about how many bytes the young half takes by now."""

    __slots__ = ("_budget", "_held", "old")

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._held = 0
        self.old: dict[bytes, T] = {}

    def keep(self, young: dict[bytes, T], key: bytes, value: T, beside: int = 0) -> dict[bytes, T]:
        """Put a parsed head into the young half; return the half that is the young one from now on.

        ``beside``: the bytes that the value holds beyond what others of its length do.
        """
        if len(key) > _REMEMBERED_MAX:
            return young
        cost = len(key) + _ENTRY + beside
        self._held += cost
        if self._held > self._budget:
            self.old, young, self._held = young, {}, cost
        young[key] = value
        return young
