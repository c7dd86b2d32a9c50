"""A rehearsal's load: the open loop with visitors who write much, every answer judged and written down.

A stall is seen by every request that it keeps waiting, for a request's time counts from when it was due. The load
never gives up on a request for another: beyond ``WAITING_MOST`` a due one is written down as not sent.
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

CONNECTIONS: Final = 32  # few enough that a worker which is out of descriptors has some for most of them
TIMEOUT_S: Final = 15.0  # longer than any stall that a rehearsal allows
WAITING_MOST: Final = 2000  # requests: ten seconds' of the fastest rehearsal
VISITORS: Final = 80  # enough that half the weight is between 30 and 70 % of them
SEED: Final = 2026  # the same load every time
STICKY: Final = "x-user-id"


class RehearsalLoad:
    """Load on one address, from ``start`` to ``stop``. ``told`` is given the record of every request."""

    def __init__(
        self, address: str, rate: float, mixture: Mapping[str, int], told: Callable[[RequestRecord], None]
    ) -> None:
        self.ledger = Ledger()
        self._client = LoadClient(
            f"http://{address}", most=CONNECTIONS, timeout_s=TIMEOUT_S, waiting_most=WAITING_MOST
        )
        self._visitors = Regulars(VISITORS, mixture, self.ledger, SEED)
        self._told = told
        self._loop = OpenLoop([Lane(Schedule(rate, math.inf), self._send)])
        self._sending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._sending = asyncio.get_running_loop().create_task(self._loop.run())

    async def stop(self) -> None:
        """Send no more, and wait for what is under way."""
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
            self._told(_record(visitor, ask, job, reply, visitor.judge(ask, reply)))

        self._client.send(
            Job(self._wire(ask.method, ask.path, visitor.identity, ask.body), ask.operation, answered, due_ns)
        )

    def _wire(self, method: str, path: str, identity: str, body: bytes | None = None) -> bytes:
        return encode(method, path, self._client.netloc, {STICKY: identity}, body)

    async def read(self, identity: str, path: str) -> Reply:
        """Read something beside the load, without a record."""
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
    """The JSON object in a reply; None where it has none."""
    try:
        found = json.loads(reply.body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
