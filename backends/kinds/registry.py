"""The kinds of backend: one row per kind. No other code in phasegate distinguishes kinds.

To add a kind, define its settings and a ``Kind``, and call ``register`` before a configuration is read. The row of a
backend's kind is ``KINDS[backend.kind]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from backends import durations
from backends.backend import Backend
from backends.documents.port import DocumentStore, Mutation, Query
from backends.kinds.firestore import kind as firestore
from backends.kinds.firestore.settings import Firestore
from backends.kinds.http import kind as http
from backends.kinds.http.settings import Http
from backends.kinds.mock import kind as mock
from backends.kinds.mock.settings import Mock
from backends.origin import Reach


class OpenStore(Protocol):
    """Returns a backend's document store, not started: until ``start`` it uses no network and no file."""

    def __call__(
        self,
        backend: Any,
        shared: Path | None,
        *,
        views: Sequence[Query] = (),
        initial: Callable[[], Sequence[Mutation]] = tuple,
    ) -> DocumentStore:
        """``shared`` is the prefix of the files through which this machine's processes share the store; None keeps it
        private to this process. ``views`` are the queries to keep live, where the store does not hold everything in
        memory anyway. ``initial`` is the content of an empty store.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of backend. Its functions take a backend's settings, of the type ``settings``.

    It has either ``open_store`` or ``reach``: adapters read and write a document store; the data plane forwards
    requests to an HTTP origin.
    """

    settings: type[Any]  # a ``Backend``; its docstring, and the comment behind each field, are its documentation
    mend: Callable[[Any], str]  # what to do when the health check fails
    open_store: OpenStore | None = None
    reach: Callable[[Any], Reach] | None = None

    # Whether its documents are in this machine's memory. The other side's changes are applied to such a store before
    # a write is answered, and the pre-flight does not check its write permission.
    local: bool = False
    mend_writing: str = "Give phasegate the right to write there."  # what to do if only reading works

    # The folder of fixtures, or None, and the seed of made-up data, for its initial content. None: phasegate gives it
    # no initial content.
    begins_with: Callable[[Any], tuple[str | None, int]] | None = None
    # Where ``phasegate seed`` writes to, in words, and whether it asks before. None: it cannot be seeded.
    seeded: Callable[[Any], tuple[str, bool]] | None = None
    # Deliberate trouble in its answers.
    rehearsal: Callable[[Any], mock.Rehearsal | None] | None = None
    # Its Google Cloud project: ID tokens of that project are accepted if the configuration names no other.
    project: Callable[[Any], str] | None = None
    # Mistakes in its settings that their types do not catch, as (key, what was expected and found).
    mistakes: Callable[[Any], Iterator[tuple[str, str]]] | None = None
    # The settings with a function applied to each file path in them.
    place_files: Callable[[Any, Callable[[str], str]], Any] | None = None

    @property
    def name(self) -> str:
        """As in ``kind = "…"``, and as sent to clients in ``x-data-source``."""
        return str(self.settings.__struct_config__.tag)


KINDS: Final[dict[str, Kind]] = {}


def register(kind: Kind) -> None:
    """Add a kind. Raises ``ValueError`` if its name is taken or it has not one of ``open_store`` and ``reach``."""
    if kind.name in KINDS:
        raise ValueError(f"a kind of backend is called {kind.name!r} already")
    if (kind.open_store is None) == (kind.reach is None):
        raise ValueError(f"kind {kind.name!r}: expected either open_store or reach")
    KINDS[kind.name] = kind


register(
    Kind(
        settings=Mock,
        open_store=mock.open_store,
        local=True,
        begins_with=mock.begins_with,
        rehearsal=mock.rehearsal,
        place_files=mock.place_files,
        mend=mock.mend,
    )
)
register(
    Kind(
        settings=Firestore,
        open_store=firestore.open_store,
        seeded=firestore.seeded,
        project=firestore.project,
        mend=firestore.mend,
        mend_writing=firestore.MEND_WRITING,
    )
)
register(
    Kind(
        settings=Http,
        reach=http.reach,
        mistakes=http.mistakes,
        place_files=http.place_files,
        mend=http.mend,
    )
)


def opener(backend: Backend) -> OpenStore:
    """The function that opens the backend's store. Raises ``ValueError`` for one that keeps no documents."""
    open_store = KINDS[backend.kind].open_store
    if open_store is None:
        raise ValueError(f"a backend of kind {backend.kind}: it has no store, the data plane forwards requests to it")
    return open_store


def decode_hook(wanted: type, value: Any) -> object:
    """For msgspec: a backend by its kind, and durations. ``value`` must have been checked against the kind's type."""
    if wanted is Backend:
        return msgspec.convert(value, KINDS[value["kind"]].settings, dec_hook=durations.decode_hook)
    return durations.decode_hook(wanted, value)
