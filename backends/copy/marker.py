"""The marker ``phasegate/seeded``: which fixtures a side began with, or which ``phasegate seed`` wrote into it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from backends.documents.port import Context, DocumentStore, Fields, Mutation, put

MARKER: Final = "phasegate/seeded"
_CALL_S: Final = 30.0  # deadline of one call


@dataclass(frozen=True, slots=True)
class Marker:
    """What the marker says.

    ``whole``: the side was empty and got every document of the fixtures, so it holds all that they define.
    """

    documents: int  # of the fixtures
    digest: str | None  # of the fixtures, as ``fixtures_digest`` gives it; None: written by phasegate 0.2 or older
    finished: bool = True  # False: a seed was interrupted, or is at work
    left: int = 0  # documents that held something else and were left as they were
    forced: bool = False  # whether the side was not empty, or the migration or the source had gone on

    @property
    def whole(self) -> bool:
        """Whether the side holds what these fixtures define, as far as a seed knows."""
        return self.finished and not self.left and not self.forced

    def fields(self) -> Fields:
        """As it is stored."""
        return {
            "documents": self.documents,
            "digest": self.digest,
            "finished": self.finished,
            "left": self.left,
            "forced": self.forced,
        }


def beginning(marker: Marker) -> Mutation:
    """The write of the marker."""
    return put(MARKER, marker.fields())


def read(fields: Fields) -> Marker:
    """The marker that was stored; what an older version did not write has its default."""
    documents, digest, left = (fields.get(name) for name in ("documents", "digest", "left"))
    return Marker(
        documents if isinstance(documents, int) else 0,
        digest if isinstance(digest, str) else None,
        fields.get("finished") is not False,
        left if isinstance(left, int) else 0,
        fields.get("forced") is True,
    )


async def read_marker(store: DocumentStore, within_s: float = _CALL_S) -> Marker | None:
    """The marker of a side whose store is started; None where it has none. Raises ``Fault``."""
    document = await store.get(MARKER, Context(asyncio.get_running_loop().time() + within_s))
    return None if document is None else read(document.fields)
