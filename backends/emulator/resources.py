"""Resource names of databases, documents and collections, as requests have them. Pure."""

from __future__ import annotations

import re
from typing import Final

from backends.documents.port import Rejected
from backends.documents.semantics import check_path, valid_id
from backends.emulator.refusal import invalid, refused

_DATABASE: Final = re.compile(r"projects/[^/]+/databases/[^/]+")
_DOCUMENTS: Final = "/documents"


def database_of(name: str) -> str:
    """The database that a resource name begins with: ``projects/P/databases/D``. Raises ``RefusedCall``."""
    match = _DATABASE.match(name)
    if match is None or name[match.end() :].partition("/")[0]:
        raise invalid(f"expected a name that begins with projects/PROJECT/databases/DATABASE, found {name!r}")
    return match[0]


def document_path(name: str, database: str) -> str:
    """The path of the document with this resource name. Raises ``RefusedCall`` for one of another database."""
    root = f"{database}{_DOCUMENTS}/"
    if not name.startswith(root):
        raise invalid(f"expected the name of a document of {database}, found {name!r}")
    path = name[len(root) :]
    try:
        check_path(path)
    except Rejected as problem:
        raise refused(problem) from None
    return path


def parent_path(name: str) -> tuple[str, str]:
    """The database, and the path of the document under which a query runs, empty for the root."""
    database = database_of(name)
    if name in (database, f"{database}{_DOCUMENTS}"):
        return database, ""
    return database, document_path(name, database)


def collection_name(parent: str, collection_id: str) -> str:
    """The collection's path under a document's, or under the root where ``parent`` is empty."""
    if not valid_id(collection_id):
        raise invalid(f"{collection_id!r} is no collection's id")
    return f"{parent}/{collection_id}" if parent else collection_id
