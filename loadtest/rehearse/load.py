"""The load: requests at a constant rate whatever becomes of those before, every answer checked and written down.

An open loop: request k is due at k/rate, and its time counts from then, so a stall is seen by everyone it keeps
waiting. It never gives up on a request for another: beyond ``INFLIGHT_MAX`` a due one is written down as not sent.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from typing import Final

from loadtest.generator.ledger import Json, Ledger, Outcome
from loadtest.rehearse.records import Record
from loadtest.rehearse.visitors import Ask, Visitors
from loadtest.rehearse.wire import Answer, Client, Failed

CONNECTIONS: Final = 32
TIMEOUT_S: Final = 15.0
INFLIGHT_MAX: Final = 2000
STICKY: Final = "x-user-id"
# Says that nothing was written; any other answer of 5xx leaves it open.
_NOT_WRITTEN: Final = "backend_unavailable"


class Load:
    """Load on one address, from ``start`` to ``stop``."""

    def __init__(
        self, address: str, rate: float, only: frozenset[str], told: Callable[[Record], None], seed: int = 2026
    ) -> None:
        """``told`` is given every record."""
        self.ledger = Ledger()
        self.sent = 0
        self.rate = rate
        self._client = Client(address, CONNECTIONS, TIMEOUT_S)
        self._visitors = Visitors(self.ledger, random.Random(seed), only)  # noqa: S311 - the same load every time
        self._told = told
        self._open: set[asyncio.Task[None]] = set()
        self._sender: asyncio.Task[None] | None = None

    @property
    def inflight(self) -> int:
        """Requests that are due and not answered yet."""
        return len(self._open)

    def start(self) -> None:
        """Begin to send."""
        self._sender = asyncio.get_running_loop().create_task(self._send())

    async def stop(self) -> None:
        """Send no more, and wait for what is in flight."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        if self._open:
            await asyncio.wait(self._open, timeout=TIMEOUT_S + 5)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _send(self) -> None:
        due = time.monotonic()
        while True:
            due += 1 / self.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            ask = self._visitors.next()
            self.sent += 1
            if len(self._open) >= INFLIGHT_MAX:
                self._settle(ask, "refused", None)
                self._told(Record(due, 0.0, ask.operation, ask.visitor, failure="unsent"))
                continue
            task = asyncio.get_running_loop().create_task(self._one(ask, due))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _one(self, ask: Ask, due: float) -> None:
        try:
            answer = await self._client.ask(ask.method, ask.path, {STICKY: ask.visitor}, ask.body)
        except Failed as failed:
            self._settle(ask, "refused" if failed.kind == "refused" else "uncertain", None)
            took = time.monotonic() - due
            self._told(Record(due, took, ask.operation, ask.visitor, failure=failed.kind, detail=str(failed)))
            return
        took = time.monotonic() - due
        failure, detail = self._judged(ask, answer)
        source = "app" if ask.app else answer.fields.get("x-data-source", "")
        fallback = answer.fields.get("x-data-fallback", "")
        self._told(
            Record(
                due,
                took,
                ask.operation,
                ask.visitor,
                source,
                fallback,
                answer.status,
                failure,
                detail,
                answer.repeated,
            )
        )

    def _judged(self, ask: Ask, answer: Answer) -> tuple[str, str]:
        """What is wrong with an answer: its kind and the detail. Settles the write behind it."""
        found = _document(answer)
        if answer.status != ask.status or found is None:
            code = found.get("error", {}).get("code") if found is not None else None
            not_written = answer.status < 500 or code == _NOT_WRITTEN
            self._settle(ask, "refused" if not_written else "uncertain", None)
            missing = ask.own is not None and answer.status == 404
            whose = answer.fields.get("x-data-source", "the app")
            told = f"{ask.method} {ask.path} from {whose}: {answer.status} {answer.body[:200]!r}"
            return "stale" if missing else "status", told
        try:
            problem = ask.check(found)
        except (LookupError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__} {error}: {str(found)[:160]}"
        if not problem and not ask.app and "x-data-source" not in answer.fields:
            problem = "an answer without x-data-source"
        self._settle(ask, "uncertain" if problem else "done", found)
        kind = "wrong"
        if not problem and ask.own is not None:
            kind, problem = "stale", ask.own(found)
        whose = answer.fields.get("x-data-source", "the app")
        return (kind, f"{ask.method} {ask.path} as {ask.visitor} from {whose}: {problem}") if problem else ("", "")

    def _settle(self, ask: Ask, outcome: Outcome, document: Json | None) -> None:
        ask.settle(outcome, document)

    async def read(self, visitor: str, path: str) -> tuple[int, Json | None, str]:
        """Read something beside the load, without a record: status, document and ``x-data-source``."""
        answer = await self._client.ask("GET", path, {STICKY: visitor})
        return answer.status, _document(answer), answer.fields.get("x-data-source", "")


def _document(answer: Answer) -> Json | None:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
