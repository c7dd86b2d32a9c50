"""The data a migration starts from: fixtures, or made-up data that is the same every time and on both sides.

Each adapter defines its own documents: it generates the made-up data, and says which of its fields are times.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backends.adapters import registry
from backends.adapters.adapter import Adapter, AdapterError
from backends.adapters.replies import OperationRefused
from backends.backend import Backend
from backends.copy import recorded
from backends.copy.folder import FixtureError, documents_of
from backends.copy.marker import Marker, beginning
from backends.copy.playing import Player, reason
from backends.documents.port import Mutation
from backends.kinds.registry import KINDS


def initial(backend: Backend) -> Callable[[], Sequence[Mutation]]:
    """The whole initial content of a mock: ``fixture_documents``, and the marker that says which these are.

    Empty for a kind whose content phasegate does not define. Raises ``FixtureError``.
    """
    if KINDS[backend.kind].begins_with is None:
        return tuple
    documents = fixture_documents(backend)

    def content() -> Sequence[Mutation]:
        given = documents()
        return (beginning(Marker(len(given), digest(given))), *given)

    return content


def fixture_documents(backend: Backend) -> Callable[[], Sequence[Mutation]]:
    """The documents that a mock begins with: its fixtures if it has any, read now, else made-up data, made on demand.

    Empty for a kind whose content phasegate does not define. Raises ``FixtureError``.
    """
    begins_with = KINDS[backend.kind].begins_with
    if begins_with is None:
        return tuple
    folder, seed = begins_with(backend)
    if folder is None:
        return functools.partial(made_up, seed)
    documents = fixtures(Path(folder))
    return lambda: documents


def fixtures_digest(backend: Backend) -> str | None:
    """The digest of the documents that a mock would begin with now; None for a kind that begins with nothing.

    Raises ``FixtureError``.
    """
    if KINDS[backend.kind].begins_with is None:
        return None
    return digest(fixture_documents(backend)())


def digest(documents: Sequence[Mutation]) -> str:
    """A SHA-256 of documents, whatever their order and that of their fields. 1, 1.0 and "1" differ."""
    total = hashlib.sha256()
    for mutation in sorted(documents, key=lambda each: each.path):
        total.update(msgspec.msgpack.encode((mutation.path, mutation.fields), order="deterministic"))
    return total.hexdigest()


def made_up(seed: int) -> tuple[Mutation, ...]:
    """Deterministic documents: equal seeds give equal documents, whatever the machine and the day.

    The adapters generate them by handling made-up requests over a memory store. Raises ``AdapterError`` for a request
    that its adapter refuses.
    """
    return documents(seed, registry.adapters())


@functools.lru_cache(maxsize=4)
def documents(seed: int, adapters: tuple[Adapter, ...]) -> tuple[Mutation, ...]:
    """The made-up documents of these adapters, in this order: an adapter added last does not change the others'."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    player = Player(adapters)
    for adapter in adapters:
        if adapter.made_up is None:
            continue
        by_handler = {operation.call: operation for operation in adapter.operations}
        for request in adapter.made_up(dice):
            name = request.handler.__name__
            body = msgspec.json.encode(request.body)
            try:
                player.play(by_handler[name], request.params, body, request.at, request.id)
            except OperationRefused as refusal:
                raise AdapterError(f"{adapter.file}: made-up data: {name} is refused: {reason(refusal)}") from None
    return player.documents()


def fixtures(folder: Path) -> tuple[Mutation, ...]:
    """The documents of a folder: those of its JSON files, and what its ``requests.jsonl`` makes of them.

    Raises ``FixtureError``.
    """
    expected = f"expected a folder of JSON files, one a collection, such as scans.json, or with a {recorded.FILE}"
    try:
        names = sorted(folder.iterdir())
    except FileNotFoundError:
        raise FixtureError(f"{folder} does not exist; {expected}") from None
    except OSError as problem:
        raise FixtureError(f"{folder} cannot be listed: {problem.strerror}; {expected}") from None
    files = [file for file in names if file.suffix == ".json"]
    requests = folder / recorded.FILE
    if not files and requests not in names:
        raise FixtureError(f"{folder}: found none; {expected}")
    stored = tuple(mutation for file in files for mutation in documents_of(file))
    return recorded.played(requests, stored) if requests in names else stored
