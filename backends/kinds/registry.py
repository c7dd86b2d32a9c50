"""The kinds of backend: one row per kind. No other code in phasegate distinguishes kinds.

Adding a kind to the product is its folder and its row in ``BUILT_IN``; ``backends.extensions`` adds one from outside.
The table is filled before a process reads a configuration or its plan: what is decoded then is of the kinds that are
known. Whoever asks for a kind's row does so with ``KINDS[backend.kind]``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from backends import durations
from backends.backend import Backend
from backends.documents.port import DocumentStore, Mutation, Query
from backends.documents.shape import Ask
from backends.kinds.firestore import kind as firestore
from backends.kinds.firestore.settings import Firestore
from backends.kinds.http import kind as http
from backends.kinds.http.settings import Http
from backends.kinds.mock import kind as mock
from backends.kinds.mock.settings import Mock
from backends.origin import Reach


class KindError(ValueError):
    """A kind of backend is not whole, or its name is another's; the message says where, and what was expected."""


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

    It has either ``open_store`` or ``reach``: a document store is asked through the adapters, an HTTP origin is
    forwarded to by the data plane. Raises ``KindError`` where it is not whole.
    """

    settings: type[Any]  # a ``Backend``; its docstring, and the comment behind each field, are its documentation
    mend: Callable[[Any], str]  # what to do when the health check fails
    open_store: OpenStore | None = None
    reach: Callable[[Any], Reach] | None = None

    # Whether its documents are in this machine's memory. The other side's changes are applied to such a store before
    # a write is answered, and the pre-flight does not check its write permission.
    local: bool = False
    # Whether each read and write of a document is billed, and writes must begin slowly: as Firestore's.
    metered: bool = False
    mend_writing: str = "Give phasegate the right to write there."  # what to do if only reading works

    # The folder of fixtures, or None, and the seed of made-up data, for its initial content. None: phasegate gives it
    # no initial content.
    begins_with: Callable[[Any], tuple[str | None, int]] | None = None
    # How the store that shares files under this prefix began, and whether it was written to since; it returns None
    # for one that has not begun, and may raise ``OSError``. None: it cannot be told.
    began: Callable[[Any, Path], mock.Beginning | None] | None = None
    # Where ``phasegate seed`` writes to, in words, and whether it asks before. None: it cannot be seeded.
    seeded: Callable[[Any], tuple[str, bool]] | None = None
    # Deliberate trouble in its answers.
    rehearsal: Callable[[Any], mock.Rehearsal | None] | None = None
    # Which documents it has, in words: another text means other documents. None: those in the run directory.
    place: Callable[[Any], str] | None = None
    # Its Google Cloud project: ID tokens of that project are accepted if the configuration names no other.
    project: Callable[[Any], str] | None = None
    # The text of a file from which its indexes are made, for these reads and without these fields, as (collection,
    # field). None: it needs none.
    index_file: Callable[[Any, Sequence[Ask], Sequence[tuple[str, str]]], str] | None = None
    # Which of these fields are indexed all the same; its result is None where that cannot be asked. Raises ``Fault``.
    still_indexed: Callable[[Any, Sequence[tuple[str, str]]], Awaitable[list[str] | None]] | None = None
    # Mistakes in its settings that their types do not catch, as (key, what was expected and found).
    mistakes: Callable[[Any], Iterator[tuple[str, str]]] | None = None
    # What is wrong with the environment variables that it reads: the variable, what was found and what was expected.
    environment: Callable[[], Iterator[str]] | None = None
    # The settings with a function applied to each file path in them.
    place_files: Callable[[Any, Callable[[str], str]], Any] | None = None

    def __post_init__(self) -> None:
        config = getattr(self.settings, "__struct_config__", None)
        tagged = config is not None and config.tag_field == "kind" and isinstance(config.tag, str)
        if not (tagged and issubclass(self.settings, Backend)):
            raise KindError(
                f"a kind's settings: {self.settings.__module__}.{self.settings.__qualname__} cannot be used; "
                'expected a Backend and msgspec.Struct with tag_field="kind" and the kind\'s name as tag'
            )
        if (self.open_store is None) == (self.reach is None):
            raise KindError(f"{self.settings.__module__}: kind {self.name!r}: expected either open_store or reach")

    @property
    def name(self) -> str:
        """As in ``kind = "…"``, and as sent to clients in ``x-data-source``."""
        return str(self.settings.__struct_config__.tag)


BUILT_IN: Final = (
    Kind(
        settings=Mock,
        open_store=mock.open_store,
        local=True,
        begins_with=mock.begins_with,
        began=mock.began,
        rehearsal=mock.rehearsal,
        place_files=mock.place_files,
        mend=mock.mend,
    ),
    Kind(
        settings=Firestore,
        open_store=firestore.open_store,
        metered=True,
        seeded=firestore.seeded,
        place=firestore.place,
        project=firestore.project,
        mistakes=firestore.mistakes,
        environment=firestore.environment,
        index_file=firestore.index_file,
        still_indexed=firestore.still_indexed,
        mend=firestore.mend,
        mend_writing=firestore.MEND_WRITING,
    ),
    Kind(
        settings=Http,
        reach=http.reach,
        mistakes=http.mistakes,
        place_files=http.place_files,
        mend=http.mend,
    ),
)

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in BUILT_IN}


def install(kinds: Sequence[Kind]) -> None:
    """Make these the table. Raises ``KindError``, and leaves the table as it is, where two have one name."""
    problems = list(conflicts(kinds))
    if problems:
        raise KindError("\n".join(problems))
    KINDS.clear()
    KINDS.update({kind.name: kind for kind in kinds})


def conflicts(kinds: Sequence[Kind]) -> Iterator[str]:
    """The names that more than one of these kinds has, in words."""
    for one, other in combinations(kinds, 2):
        if one.name == other.name:
            taken = f"a kind of backend is called {one.name!r} already ({one.settings.__module__})"
            yield f"{other.settings.__module__}: {taken}"


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
