"""The indexes that Firestore must have for the adapters' queries, and those that it must not have. Pure.

Firestore indexes every single field by itself, and makes of a map or an array an entry for each value in it. So a
large field that no query needs is exempted: it costs writes, and a document has at most 40,000 entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from backends.documents.shape import Ask, composite


def index_file(asks: Sequence[Ask], unindexed: Sequence[tuple[str, str]], prefix: str = "") -> str:
    """The text of ``firestore.indexes.json``, for ``firebase deploy --only firestore:indexes``."""
    indexes = []
    for ask in asks:
        fields = composite(ask.query)
        entry = {
            "collectionGroup": prefix + _group(ask.query.collection),
            "queryScope": "COLLECTION",
            "fields": [{"fieldPath": field, "order": order} for field, order in fields or ()],
        }
        if fields is not None and entry not in indexes:
            indexes.append(entry)
    exempted = [
        {"collectionGroup": group, "fieldPath": field, "indexes": []} for group, field in exempt(unindexed, prefix)
    ]
    return json.dumps({"indexes": indexes, "fieldOverrides": exempted}, indent=2) + "\n"


def exempt(unindexed: Sequence[tuple[str, str]], prefix: str) -> Iterator[tuple[str, str]]:
    """The exemptions as Firestore knows them: (the collection's own name, the field)."""
    return ((prefix + _group(collection), field) for collection, field in unindexed)


def _group(collection: str) -> str:
    return collection[collection.rfind("/") + 1 :]
