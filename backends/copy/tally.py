"""What was found in the documents of each pattern, in whole numbers, and the result that a task tells. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

_SHOWN: Final = ("source", "target", "equal", "missing_on_target", "missing_on_source", "different", "pending")


class Tally(msgspec.Struct):
    """Whole numbers of documents of one pattern."""

    name: str
    source: int = 0
    target: int = 0
    equal: int = 0
    missing_on_target: int = 0
    missing_on_source: int = 0
    different: int = 0
    pending: int = 0
    copied: int = 0
    left: int = 0  # as they are on the target, though they differ: the target's is newer, or no rule decides
    repaired: int = 0

    @property
    def differences(self) -> int:
        """What is wrong, and not only on its way."""
        return self.missing_on_target + self.missing_on_source + self.different


def result(tallies: Iterable[Tally], kind: str) -> dict[str, Any]:
    """The document of the interface. ``equal`` only if nothing differs and nothing was still on its way."""
    tallies = list(tallies)
    document: dict[str, Any] = {
        "equal": all(tally.differences == 0 and tally.pending == 0 for tally in tallies),
        "collections": [{"name": tally.name, **{name: getattr(tally, name) for name in _SHOWN}} for tally in tallies],
        "repaired": sum(tally.repaired for tally in tallies),
    }
    if kind == "copy":
        document["copied"] = sum(tally.copied for tally in tallies)
        document["skipped_newer"] = sum(tally.left for tally in tallies)
    return document
