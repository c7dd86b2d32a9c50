"""Warms up the demo's Firestore emulator: a fresh Java process answers seconds slower than one that has run a while.

``python -m control.demo.warm`` sends the example of every operation to a project of its own, in rounds, until rounds
are quick or its time is over. Without it a demo's first phases measure Java's compiler: on two busy cores p95 was
3 s, and a third of the runs rolled back. With it p95 is 30 to 300 ms.
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
QUICK_S: Final = 0.25  # a round of all operations at once that takes less is quick
QUICK_ROUNDS: Final = 5  # in a row end the warm-up
WITHIN_S: Final = 20.0  # for the whole warm-up

Answered = dict[str, dict[str, Any]]


def examples() -> list[tuple[Adapter, Spec]]:
    """The operations of a round: all but the streams, whose answers do not end."""
    return [(adapter, spec) for adapter in adapters() for spec in adapter.serves if spec.kind != "stream"]


def call(adapter: Adapter, spec: Spec, k: int, answered: Answered) -> Call:
    """An operation's example, different in each round so that no cache answers it."""
    example = example_call(adapter, spec, answered, time.time(), secrets.token_hex(10))
    if "limit" in (parameter.name for parameter in spec.parameters):
        example.query["limit"] = str(1 + k % 50)
    example.key = f"{example.operation.name}?{k}".encode()
    return example


async def warm_up() -> int:
    """Send rounds until they are quick. Returns how many rounds it took."""
    arm = build_arm(Firestore(PROJECT, deadline_s=Duration(WITHIN_S)))
    await arm.start()
    ends, quick, k = time.monotonic() + WITHIN_S, 0, 0
    answered: Answered = {}  # by operation: the answer that names the document which other examples use
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
            # The next round uses the documents that this round created.
            for each, reply in zip(calls, answers, strict=True):
                if each.operation.name in answered and reply is not None:
                    answered[each.operation.name] = json.loads(reply.body)
    finally:
        await arm.close()
    return k


async def _ask(arm: Arm, call: Call) -> Answer | None:
    try:
        return await arm.answer(call)
    except Fault:
        return None  # a cold emulator misses deadlines


if __name__ == "__main__":
    die_with_parent()
    began = time.monotonic()
    rounds = asyncio.run(warm_up())
    print(f"{rounds} rounds in {time.monotonic() - began:.1f} s")
