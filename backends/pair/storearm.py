"""An arm that answers from a document store: the adapters over it, and memoised answers.

An answer to a read is memoised with the versions of everything it was read from. The same object is returned again
while these versions are unchanged; that check is all that a repeated read costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from backends.adapters import registry
from backends.adapters.replies import OperationRefused
from backends.arm import Health
from backends.documents.port import Cell, Context, DocumentStore, Reason, Rejected
from backends.errors import Fault, FaultKind
from backends.kinds.mock.kind import Rehearsal
from backends.operations import Answer, Call, Operation, error_answer
from backends.pair.mirror import Mirror, WriteAhead

MEMO_LIMIT: Final = 4096  # memoised answers per arm
MEMO_BYTES: Final = 16 * 1024 * 1024  # of them together: at 1 to 4 KiB an answer, the number is reached first
MEMO_ANSWER_BYTES: Final = MEMO_BYTES // 4  # a larger answer is not memoised: a few would push out all others
MEMO_OVERHEAD: Final = 1024  # bytes that a memo takes beside its key and body: objects, and the head as it is sent
KEY_LIMIT: Final = 512  # bytes; answers to reads with a longer key are not memoised
_FOREVER: Final = float("inf")

_log = structlog.get_logger("phasegate.arm")


class _Memo(NamedTuple):
    operation: Operation
    basis: tuple[tuple[Cell, int], ...]
    until: float
    answer: Answer
    size: int


class StoreArm:
    """An ``Arm`` over a ``DocumentStore``."""

    def __init__(self, store: DocumentStore, deadline_s: float, rehearsal: Rehearsal | None = None) -> None:
        self.kind = store.kind
        self.store = store
        self.deadline_s = deadline_s
        self.mirror: Mirror | None = None  # hands its changes to the other side
        self._rehearsal = rehearsal
        self._memos: dict[bytes, _Memo] = {}
        self._memo_bytes = 0
        self._memo_hits = 0
        self._gaps: set[str] = set()  # operations whose read the store refused
        self._handlers: dict[str, Callable[[Call, Context], Any]] = registry.handlers(store)

    def peek(self, operation: Operation, key: bytes) -> Answer | None:
        """As ``Arm.peek``."""
        memo = self._memos.get(key)
        if memo is None or memo.operation is not operation:
            return None
        self.store.poll()
        for cell, version in memo.basis:
            if cell.version != version:
                return None
        if memo.until != _FOREVER and memo.until < time.monotonic():
            return None
        self._memo_hits += 1
        return memo.answer

    async def answer(self, call: Call) -> Answer:
        """As ``Arm.answer``."""
        if self._rehearsal is not None:
            await self._rehearse(self._rehearsal)
        operation = call.operation
        deadline = asyncio.get_running_loop().time() + self.deadline_s
        try:
            if operation.kind == "write":
                return await self._write(call, deadline)
            ctx = Context(deadline)
            answer = await self._handlers[operation.name](call, ctx)
        except OperationRefused as refusal:
            answer = refusal.answer
        except Rejected as rejection:
            if rejection.reason is not Reason.INVALID:  # there is no precondition: the database itself is missing
                raise Fault(FaultKind.INTERNAL, f"{self.kind}: {rejection}") from None
            if operation.kind != "write":
                return self._gap(operation, rejection)
            answer = error_answer(400, "invalid_document", str(rejection))
        except Fault:
            raise
        except Exception as error:
            _log.exception("handler_failed", operation=operation.name, backend=self.kind)
            message = f"{operation.name}: {type(error).__name__}"
            raise Fault(FaultKind.INTERNAL, message, may_have_applied=True) from error
        if operation.kind == "read" and ctx.memorable and self._rehearsal is None:
            self._remember(call, ctx, answer)
        return answer  # type: ignore[no-any-return]  # the table of handlers is untyped

    async def _write(self, call: Call, deadline: float) -> Answer:
        handler = self._handlers[call.operation.name]
        mirror = self.mirror
        if mirror is None:
            answer, _ = await handler(call, Context(deadline))
            return answer  # type: ignore[no-any-return]  # the table of handlers is untyped
        ahead = WriteAhead(mirror, call.operation.name)
        try:
            answer, change = await handler(call, Context(deadline, ahead.intend))
        except BaseException:
            ahead.leave()
            raise
        await ahead.finish(change)
        return answer  # type: ignore[no-any-return]  # as above

    def _gap(self, operation: Operation, rejection: Rejected) -> Answer:
        """The answer when the store refuses a read as invalid.

        That does not count as a failure of the store, or any client could make it look unhealthy with invalid
        requests. But the handler should have refused the request, with the same answer on both sides, so it is
        logged. The store's message goes to the log only, because it names the database.
        """
        if operation.name not in self._gaps:
            self._gaps.add(operation.name)
            reason = str(rejection)
            _log.error("read_refused_by_store", operation=operation.name, backend=self.kind, reason=reason)
        return error_answer(400, "invalid_query", "the backend does not accept this query")

    def _remember(self, call: Call, ctx: Context, answer: Answer) -> None:
        key, memos = call.key, self._memos
        size = len(key) + len(answer.body) + MEMO_OVERHEAD
        if len(key) > KEY_LIMIT or size > MEMO_ANSWER_BYTES:
            return
        old = memos.pop(key, None)
        if old is not None:
            self._memo_bytes -= old.size
        memos[key] = _Memo(call.operation, tuple(ctx.basis), ctx.until, answer, size)
        self._memo_bytes += size
        while len(memos) > MEMO_LIMIT or self._memo_bytes > MEMO_BYTES:
            self._memo_bytes -= memos.pop(next(iter(memos))).size  # the oldest

    async def _rehearse(self, rehearsal: Rehearsal) -> None:
        if rehearsal.latency_s:
            await asyncio.sleep(rehearsal.latency_s)
        if rehearsal.dice.random() < rehearsal.fault_rate:
            raise Fault(FaultKind.UNAVAILABLE, f"{self.kind}: a deliberate fault (fault_rate)")

    def gauges(self) -> dict[str, int]:
        """The store's counts, by names of ``GAUGES``; memoised answers count as cache hits."""
        counts = self.store.gauges()
        return {**counts, "cache_hits": counts.get("cache_hits", 0) + self._memo_hits}

    async def start(self) -> None:
        """As ``Arm.start``."""
        await self.store.start()

    async def close(self) -> None:
        """As ``Arm.close``."""
        await self.store.close()

    async def health(self) -> Health:
        """As ``Arm.health``."""
        began = time.perf_counter()
        try:
            detail, ok = await self.store.health(self.deadline_s), True
        except Fault as fault:
            detail, ok = str(fault), False
        return Health(ok, (time.perf_counter() - began) * 1000, detail)
