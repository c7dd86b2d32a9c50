"""A process between phasegate and an emulator that refuses queries by status, as the service does without the index.

``python -m tests.support.without_an_index UPSTREAM`` prints its address, and runs until it is ended.
"""

from __future__ import annotations

import asyncio
import sys

import grpc

from tests.support.fault_proxy import FaultProxy
from tests.support.refusing_server import MISSING_INDEX


def refusal(method: str, request: bytes) -> tuple[grpc.StatusCode, str] | None:
    return MISSING_INDEX if method == "RunQuery" and b"status" in request else None


async def main(upstream: str) -> None:
    proxy = FaultProxy(upstream)
    proxy.refusal = refusal
    print(await proxy.start(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
