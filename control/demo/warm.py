"""Warms the demo's Firestore emulator up: a fresh Java process is seconds slower than one that has run for a while.

``python -m control.demo.warm`` asks every operation of a project of its own, by its adapter's example, round by round
until rounds are quick or its time is over. Without it a demo's first phases measure Java's compiler: on two busy
cores p95 was 3 s, and a third of the runs rolled back; with it p95 is 30 to 300 ms.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from typing import Any, Final

from backends.adapters.adapter import Adapter, Spec, example_call
from backends.adapters.registry import adapters
from backends.arm import Arm
from backends.durations import Duration
from backends.errors import Fault
from backends.kinds.firestore.settings import Firestore
from backends.operations import Answer, Call
from backends.pair.manager import build_arm
from proxy.process.child import die_with_parent

PROJECT: Final = "demo-warm-up"
QUICK_S: Final = 0.25  # a round of every operation at once
QUICK_ROUNDS: Final = 5
WITHIN_S: Final = 20.0

Answered = dict[str, dict[str, Any]]


def examples() -> list[tuple[Adapter, Spec]]:
    """What is asked in a round: every operation but the streams, which would not end."""
    return [(adapter, spec) for adapter in adapters() for spec in adapter.serves if spec.kind != "stream"]


def call(adapter: Adapter, spec: Spec, k: int, answered: Answered) -> Call:
    """An operation's example, unlike that of another round, so that it is not answered from memory."""
    made = example_call(adapter, spec, answered, time.time(), secrets.token_hex(10))
    if "limit" in (parameter.name for parameter in spec.parameters):
        made.query["limit"] = str(1 + k % 50)
    made.target = f"{made.operation.name}?{k}".encode()
    return made


async def warm_up() -> int:
    """Ask until it is quick; how many rounds it took."""
    arm = build_arm(Firestore(PROJECT, deadline_s=Duration(WITHIN_S)))
    await arm.start()
    ends, quick, k = time.monotonic() + WITHIN_S, 0, 0
    answered: Answered = {}  # by operation, what made the documents that other examples are of
    try:
        for adapter, spec in examples():
            if any(other.example.of == spec.handler for other in adapter.serves):
                answer = await arm.answer(call(adapter, spec, 0, answered))
                answered[f"{adapter.name}.{spec.call}"] = json.loads(answer.body)
        while quick < QUICK_ROUNDS and time.monotonic() < ends:
            k += 1
            began = time.monotonic()
            calls = [call(adapter, spec, k, answered) for adapter, spec in examples()]
            answers = await asyncio.gather(*(_ask(arm, each) for each in calls))
            quick = quick + 1 if time.monotonic() - began < QUICK_S else 0
            # The next round is about the documents that this one made.
            for each, given in zip(calls, answers, strict=True):
                if each.operation.name in answered and given is not None:
                    answered[each.operation.name] = json.loads(given.body)
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
