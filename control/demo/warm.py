"""Warms the demo's Firestore emulator up: a fresh Java process is seconds slower than one that has run for a while.

``python -m control.demo.warm`` asks every operation of a project of its own, round by round, until rounds are quick
or its time is over. Without it a demo's first phases measure Java's compiler: on two busy cores p95 was 3 s, and a
third of the runs rolled back; with it p95 is 30 to 300 ms.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import Final

from backends.arm import Arm
from backends.errors import Fault
from backends.kinds.settings import Duration, Firestore
from backends.operations import OPERATIONS, Answer, Call
from backends.pair.manager import build_arm
from proxy.process.child import die_with_parent

PROJECT: Final = "demo-warm-up"
QUICK_S: Final = 0.25  # a round of every operation at once
QUICK_ROUNDS: Final = 5
WITHIN_S: Final = 20.0
_BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}


def calls(scan: str, k: int) -> list[Call]:
    """One call of each operation, writes first. No two rounds are alike, so that none is answered from a cache."""
    writes = {
        "dashboard.publish": {"metrics": {"round": k}},
        "scans.create": {"root": f"/{k}"},
        "analytics.ingest": [{"user": f"user-{k % 20}", "type": "view", "item": f"product-{k % 50}"}],
        "scans.add_results": {"files": [{"path": f"/{k}/a", "size": k, "hash": "same"}]},
    }
    reads = [name for name, operation in _BY_NAME.items() if operation.kind == "read"]
    return [_call(name, scan, k, json.dumps(body).encode()) for name, body in writes.items()] + [
        _call(name, scan, k) for name in reads
    ]


def _call(name: str, scan: str, k: int, body: bytes = b"") -> Call:
    params = {"id": scan, "uid": f"user-{k % 20}"}
    query = {"limit": str(1 + k % 50)}
    return Call(_BY_NAME[name], f"{name}?{k}".encode(), params, query, body, time.time(), secrets.token_hex(10))


async def warm_up() -> int:
    """Ask until it is quick; how many rounds it took."""
    arm = build_arm(Firestore(PROJECT, deadline_s=Duration(WITHIN_S)))
    await arm.start()
    ends, quick, k = time.monotonic() + WITHIN_S, 0, 0
    try:
        made = await arm.answer(_call("scans.create", "", 0, b"{}"))
        scan = json.loads(made.body)["id"]
        while quick < QUICK_ROUNDS and time.monotonic() < ends:
            k += 1
            began = time.monotonic()
            await asyncio.gather(*(_ask(arm, call) for call in calls(scan, k)))
            quick = quick + 1 if time.monotonic() - began < QUICK_S else 0
    finally:
        await arm.close()
    return k


async def _ask(arm: Arm, call: Call) -> Answer | None:
    try:
        return await arm.answer(call)
    except Fault:
        return None  # slow, as it is at first


if __name__ == "__main__":
    die_with_parent()
    began = time.monotonic()
    rounds = asyncio.run(warm_up())
    print(f"{rounds} rounds in {time.monotonic() - began:.1f} s")
