"""A rehearsal's load: the open loop with visitors who write much; every answer is judged and recorded.

A request's time counts from when it was due, so a stall shows in every request that it delays. No request replaces
another: beyond ``WAITING_MOST`` a due request is recorded as not sent.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Any, Final

from loadtest.generator.arrivals import Lane, OpenLoop
from loadtest.generator.client import Job, LoadClient, Reply, encode
from loadtest.generator.ledger import Ledger
from loadtest.generator.pacing import Schedule
from loadtest.generator.visitors import AnswerProblem, Ask, Regulars, Visitor
from loadtest.rehearse.records import APP, RequestRecord

CONNECTIONS: Final = 32  # few, so that a worker short of descriptors still has some for most of them
TIMEOUT_S: Final = 15.0  # longer than any stall that a rehearsal allows
WAITING_MOST: Final = 2000  # requests; ten seconds of the fastest rehearsal
VISITORS: Final = 80  # enough that weight 50 puts between 30 and 70 % of them on the target
SEED: Final = 2026  # the same load every time
STICKY: Final = "x-user-id"


class RehearsalLoad:
    """Load on one address, from ``start`` to ``stop``. Calls ``note`` with the record of every request."""

    def __init__(
        self, address: str, rate: float, mixture: Mapping[str, int], note: Callable[[RequestRecord], None]
    ) -> None:
        self.ledger = Ledger()
        self._client = LoadClient(
            f"http://{address}", most=CONNECTIONS, timeout_s=TIMEOUT_S, waiting_most=WAITING_MOST
        )
        self._visitors = Regulars(VISITORS, mixture, self.ledger, SEED)
        self._note = note
        self._loop = OpenLoop([Lane(Schedule(rate, math.inf), self._send)])
        self._sending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sending."""
        self._sending = asyncio.get_running_loop().create_task(self._loop.run())

    async def stop(self) -> None:
        """Stop sending, and wait for pending answers."""
        self._loop.stop()
        if self._sending is not None:
            await self._sending
        await self._client.drain()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _send(self, k: int, due_ns: int) -> None:
        visitor, ask = self._visitors.next()

        def answered(job: Job, reply: Reply) -> None:
            self._note(_record(visitor, ask, job, reply, visitor.judge(ask, reply)))

        self._client.send(
            Job(self._wire(ask.method, ask.path, visitor.identity, ask.body), ask.operation, answered, due_ns)
        )

    def _wire(self, method: str, path: str, identity: str, body: bytes | None = None) -> bytes:
        return encode(method, path, self._client.netloc, {STICKY: identity}, body)

    async def read(self, identity: str, path: str) -> Reply:
        """Send a GET outside the load, without recording it."""
        return await self._client.ask(self._wire("GET", path, identity))


def _record(visitor: Visitor, ask: Ask, job: Job, reply: Reply, problem: AnswerProblem | None) -> RequestRecord:
    due, took = job.due_ns / 1e9, (monotonic_ns() - job.due_ns) / 1e9
    source = reply.fields.get("x-data-source", "") if ask.data else APP
    failure = detail = ""
    if problem is not None:
        failure = problem.kind
        detail = f"{ask.method} {ask.path} as {visitor.identity} from {source or 'nobody'}: {problem.words}"
    fallback = reply.fields.get("x-data-fallback", "")
    return RequestRecord(
        due,
        took,
        ask.operation,
        visitor.identity,
        source,
        fallback,
        reply.status,
        failure,
        detail,
        reply.repeated,
    )


def document(reply: Reply) -> dict[str, Any] | None:
    """The JSON object in a reply; None if it has none."""
    try:
        value = json.loads(reply.body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
