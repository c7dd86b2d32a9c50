"""What Firestore's methods answer, over the emulator's databases. ``METHODS`` is the table of all that there are.

A call reads everything at once, at one moment, and suspends nowhere. Each raises ``RefusedCall`` and ``Rejected``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from google.rpc.status_pb2 import Status as PbStatus

from backends.documents.port import INT_MAX, INT_MIN, Document, FieldPath, Rejected
from backends.emulator.database import EmulatedDatabase
from backends.emulator.documents import encode_document
from backends.emulator.questions import Question, decode_question
from backends.emulator.refusal import document_not_found, invalid, not_offered, refused
from backends.emulator.resources import collection_name, database_of, document_path, parent_path
from backends.emulator.writes import DecodedWrite, decode_write, field_path, found
from backends.kinds.firestore.codec import PbDocument, fill_time, fill_value
from backends.kinds.firestore.messages import firestore

REQUEST_BYTES: Final = 10 * 2**20  # of one request, as Firestore has it
PAGE: Final = 300  # documents or ids of a listing, if the request does not say how many
LARGEST_PAGE: Final = 10_000


def _pb(name: str) -> Any:
    return getattr(firestore, name).pb()


_CommitResponse: Final = _pb("CommitResponse")
_BatchWriteResponse: Final = _pb("BatchWriteResponse")
_BatchGetResponse: Final = _pb("BatchGetDocumentsResponse")
_RunQueryResponse: Final = _pb("RunQueryResponse")
_AggregationResponse: Final = _pb("RunAggregationQueryResponse")
_ListDocumentsResponse: Final = _pb("ListDocumentsResponse")
_ListIdsResponse: Final = _pb("ListCollectionIdsResponse")


class Databases:
    """The databases by name, each made when it is first named."""

    def __init__(self) -> None:
        self._held: dict[str, EmulatedDatabase] = {}

    def of(self, name: str) -> EmulatedDatabase:
        """The database that a resource name begins with."""
        database = database_of(name)
        held = self._held.get(database)
        if held is None:
            held = self._held[database] = EmulatedDatabase(database)
        return held


def _at_present(request: Any) -> None:
    """Refuse a read in a transaction, or in the past."""
    selector = request.WhichOneof("consistency_selector")
    if selector is not None:
        raise not_offered("reads at an earlier time" if selector == "read_time" else "transactions")


def _mask(message: Any) -> tuple[FieldPath, ...] | None:
    return tuple(map(field_path, message.mask.field_paths)) if message.HasField("mask") else None


# ---------------------------------------------------------------------------------------------------------- reads


async def get_document(databases: Databases, request: Any) -> Any:
    """GetDocument."""
    _at_present(request)
    held = databases.of(request.name)
    document = held.get(document_path(request.name, held.name))
    if document is None:
        raise document_not_found(request.name)
    message = PbDocument()
    encode_document(message, document, held.root, _mask(request))
    return message


async def batch_get_documents(databases: Databases, request: Any) -> Iterator[Any]:
    """BatchGetDocuments: one answer for each document, whether there is one or not."""
    _at_present(request)
    held, mask = databases.of(request.database), _mask(request)
    names = dict.fromkeys(request.documents)
    documents = [held.get(document_path(name, held.name)) for name in names]
    read_at = held.store.read_time()

    def answers() -> Iterator[Any]:
        for name, document in zip(names, documents, strict=True):
            message = _BatchGetResponse()
            if document is None:
                message.missing = name
            else:
                encode_document(message.found, document, held.root, mask)
            fill_time(message.read_time, read_at)
            yield message

    return answers()


def _asked(databases: Databases, request: Any, query: Any) -> tuple[EmulatedDatabase, Question]:
    _at_present(request)
    if request.HasField("explain_options"):
        raise not_offered("explained queries")
    question = decode_question(request.parent, query)
    return databases.of(question.database), question


async def run_query(databases: Databases, request: Any) -> Iterator[Any]:
    """RunQuery: one answer for each document, and one more with the time where there is none."""
    held, question = _asked(databases, request, request.structured_query)
    documents = held.run(question)
    read_at = held.store.read_time()

    def answers() -> Iterator[Any]:
        for document in documents:
            message = _RunQueryResponse()
            encode_document(message.document, document, held.root, question.mask)
            fill_time(message.read_time, read_at)
            yield message
        if not documents:
            message = _RunQueryResponse()
            fill_time(message.read_time, read_at)
            yield message

    return answers()


async def run_aggregation_query(databases: Databases, request: Any) -> Iterator[Any]:
    """RunAggregationQuery: counts, sums and averages, in one answer."""
    query = request.structured_aggregation_query
    held, question = _asked(databases, request, query.structured_query)
    message = _AggregationResponse()
    for number, each in enumerate(query.aggregations, 1):
        fill_value(
            message.result.aggregate_fields[each.alias or f"field_{number}"], _aggregated(held, question, each)
        )
    fill_time(message.read_time, held.store.read_time())
    return iter((message,))


def _aggregated(held: EmulatedDatabase, question: Question, aggregation: Any) -> int | float | None:
    operator = aggregation.WhichOneof("operator")
    if operator == "count":
        most = aggregation.count.up_to.value if aggregation.count.HasField("up_to") else None
        count = held.count(question)
        return count if most is None else min(count, most)
    if operator not in ("sum", "avg"):
        raise invalid("an aggregation without an operator")
    path = field_path(getattr(aggregation, operator).field.field_path)
    values = [found(document.fields, path)[1] for document in held.run(question)]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if operator == "sum":
        total = sum(numbers)
        return total if INT_MIN <= total <= INT_MAX else float(total)
    return sum(numbers) / len(numbers) if numbers else None


async def list_documents(databases: Databases, request: Any) -> Any:
    """ListDocuments: a page of a collection by ids; ``show_missing``: with what only has documents below."""
    _at_present(request)
    if request.order_by not in ("", "__name__"):
        raise not_offered("listings in another order than of __name__")
    database, parent = parent_path(request.parent)
    held, mask = databases.of(database), _mask(request)
    collection = collection_name(parent, request.collection_id)
    size = _page_size(request)
    ids = held.document_ids(collection, request.page_token, size, missing=request.show_missing)
    answer = _ListDocumentsResponse(next_page_token=ids[-1] if len(ids) == size else "")
    for each in ids:
        document = held.get(f"{collection}/{each}")
        if document is None:
            answer.documents.add(name=f"{held.root}{collection}/{each}")
        else:
            encode_document(answer.documents.add(), document, held.root, mask)
    return answer


async def list_collection_ids(databases: Databases, request: Any) -> Any:
    """ListCollectionIds: the collections below a document, or the root."""
    _at_present(request)
    database, parent = parent_path(request.parent)
    size = _page_size(request)
    ids = databases.of(database).collection_ids(parent, request.page_token, size)
    return _ListIdsResponse(collection_ids=ids, next_page_token=ids[-1] if len(ids) == size else "")


def _page_size(request: Any) -> int:
    if request.page_size < 0:
        raise invalid(f"page_size: expected a number of documents, found {request.page_size}")
    return min(request.page_size or PAGE, LARGEST_PAGE)


# --------------------------------------------------------------------------------------------------------- writes


async def commit(databases: Databases, request: Any) -> Any:
    """Commit: all of the writes or none."""
    if request.transaction:
        raise not_offered("transactions")
    held, writes = _writes(databases, request)
    when = await held.commit(writes)
    answer = _CommitResponse()
    fill_time(answer.commit_time, when)
    for write in writes:
        _fill_result(answer.write_results.add(), write, held)
    return answer


async def batch_write(databases: Databases, request: Any) -> Any:
    """BatchWrite: each write by itself."""
    held, writes = _writes(databases, request)
    answer = _BatchWriteResponse()
    for write in writes:
        result, status = answer.write_results.add(), PbStatus()
        try:
            await held.commit([write])
            _fill_result(result, write, held)
        except Rejected as rejected:
            problem = refused(rejected)
            status = PbStatus(code=problem.code.value[0], message=str(problem))
        answer.status.append(status)
    return answer


def _writes(databases: Databases, request: Any) -> tuple[EmulatedDatabase, list[DecodedWrite]]:
    if (size := request.ByteSize()) > REQUEST_BYTES:
        raise invalid(f"the request is too large: {size} bytes, expected at most {REQUEST_BYTES}")
    held, now = databases.of(request.database), time.time_ns() // 1000
    return held, [decode_write(message, held.name, now) for message in request.writes]


def _fill_result(result: Any, write: DecodedWrite, held: EmulatedDatabase) -> None:
    """When the document was written last, and what became of the transformed fields; nothing of a deletion."""
    document: Document | None = held.get(write.mutation.path)
    if document is None:
        return
    fill_time(result.update_time, document.update_time)
    for field in write.transformed:
        fill_value(result.transform_results.add(), found(document.fields, field)[1])


# ---------------------------------------------------------------------------------------------------------- table


class Method(NamedTuple):
    """One method that is answered at once: by a message, or by several."""

    request: Any
    response: Any
    call: Callable[[Databases, Any], Awaitable[Any]]
    streams: bool = False


METHODS: Final = {
    "GetDocument": Method(_pb("GetDocumentRequest"), PbDocument, get_document),
    "BatchGetDocuments": Method(
        _pb("BatchGetDocumentsRequest"), _BatchGetResponse, batch_get_documents, streams=True
    ),
    "RunQuery": Method(_pb("RunQueryRequest"), _RunQueryResponse, run_query, streams=True),
    "RunAggregationQuery": Method(
        _pb("RunAggregationQueryRequest"), _AggregationResponse, run_aggregation_query, streams=True
    ),
    "Commit": Method(_pb("CommitRequest"), _CommitResponse, commit),
    "BatchWrite": Method(_pb("BatchWriteRequest"), _BatchWriteResponse, batch_write),
    "ListDocuments": Method(_pb("ListDocumentsRequest"), _ListDocumentsResponse, list_documents),
    "ListCollectionIds": Method(_pb("ListCollectionIdsRequest"), _ListIdsResponse, list_collection_ids),
}
