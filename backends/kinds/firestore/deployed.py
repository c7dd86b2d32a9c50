"""Asks the real service which fields it does not index, by its admin API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import grpc

from backends.errors import Fault, FaultKind
from backends.kinds.firestore.channel import Channel, open_channel
from backends.kinds.firestore.indexes import exempt
from backends.kinds.firestore.settings import Firestore
from backends.kinds.firestore.status import read_error

_ADMIN: Final = "google.firestore.admin.v1.FirestoreAdmin"
_LISTED_S: Final = 10.0  # timeout of one page
# Of the fields only those whose indexes differ from the database's defaults; `-` stands for every collection.
_EXPLICIT: Final = "indexConfig.usesAncestorConfig:false"


async def still_indexed(backend: Firestore, unindexed: Sequence[tuple[str, str]]) -> list[str] | None:
    """The fields of ``unindexed`` that the database does index, as ``collection.field``.

    None from the emulator, which has no indexes to ask for. Raises ``Fault``.
    """
    channel = await open_channel(backend.project, backend.database, backend.prefix)
    try:
        if channel.emulated:
            return None
        exempted = await exemptions(channel)
    finally:
        await channel.close()
    return [
        f"{group}.{field}" for group, field in exempt(unindexed, backend.prefix) if (group, field) not in exempted
    ]


async def exemptions(channel: Channel) -> frozenset[tuple[str, str]]:
    """The fields that the database does not index at all, as (collection's own name, field). Raises ``Fault``."""
    from google.cloud.firestore_admin_v1.types import firestore_admin  # slow to import, and only `check` needs it

    ask = channel.other(_ADMIN)(
        "ListFields", firestore_admin.ListFieldsRequest.pb(), firestore_admin.ListFieldsResponse.pb()
    )
    found: set[tuple[str, str]] = set()
    request: Any = firestore_admin.ListFieldsRequest.pb()(
        parent=f"{channel.database}/collectionGroups/-", filter=_EXPLICIT
    )
    metadata = (("x-goog-request-params", f"parent={request.parent}"),)
    while True:
        try:
            page = await ask(request, timeout=_LISTED_S, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            problem = read_error(error.code(), error.details(), channel.place)
            raise problem if isinstance(problem, Fault) else Fault(FaultKind.INTERNAL, str(problem)) from None
        for field in page.fields:
            if not field.index_config.indexes:
                # projects/P/databases/D/collectionGroups/GROUP/fields/PATH
                group, _, path = field.name.partition("/collectionGroups/")[2].partition("/fields/")
                found.add((group, path.strip("`")))
        request.page_token = page.next_page_token
        if not request.page_token:
            return frozenset(found)
