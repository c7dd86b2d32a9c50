"""``phasegate copy`` at size: killed again and again while writers write, it ends with both sides equal.

Real processes. phasegate serves, so the command asks its API, and the copy runs in a process of its own: that one is
killed (SIGKILL) at random places and the command called again. The suite does it with a few documents. By hand:

    PHASEGATE_COPY_DOCUMENTS=1000000 PHASEGATE_COPY_KILLS=20 \\
        python -m pytest tests/system/test_copy_at_size.py -s -k firestore

``-k mock`` has a mock as source, which every process of phasegate holds in memory as a whole. So whether memory grows
with the data can be seen with Firestore on both sides only. ``PHASEGATE_COPY_EMULATOR=google`` takes Google's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from backends.adapters import registry
from backends.copy.rules import rules
from backends.documents.port import DocumentStore
from backends.durations import Duration
from backends.kinds.firestore.emulator import Emulator
from backends.kinds.firestore.settings import EMULATOR, Firestore
from backends.kinds.firestore.store import FirestoreStore
from backends.kinds.mock.journal import Journal
from backends.kinds.mock.memory import MemoryStore
from tests.support import bulk, sides
from tests.support.copies import TaskCommand
from tests.support.datasite import PROJECT, DataSite
from tests.support.grpcwalk import stored
from tests.support.own_emulator import OwnEmulator
from tests.support.writers import Ledger, Writers

DOCUMENTS: Final = int(os.environ.get("PHASEGATE_COPY_DOCUMENTS", "20000"))
KILLS: Final = int(os.environ.get("PHASEGATE_COPY_KILLS", "3"))
WHOSE: Final = os.environ.get("PHASEGATE_COPY_EMULATOR", "phasegate")
SETS: Final = DOCUMENTS // bulk.IN_A_SET
RATE: Final = 10_000  # writes a second to begin with: the most that can be configured
KILLED_WITHIN: Final = 0.7  # of the documents: the last kill is before that, so that each one finds a copy to kill
WRITERS: Final = 3
PAUSE_S: Final = 0.1  # of a writer, between two writes: the copy has the lowest priority, and is to get a processor
DEADLINE_S: Final = 30.0  # of a call, while everything shares two processors
# Of a process that holds neither side in memory, however many documents they have: 90 MiB were measured.
MOST_MIB: Final = 200.0
SOURCES: Final = {"mock": 'kind = "mock"', "firestore": 'kind = "firestore"\nproject = "demo-source"'}


@pytest.fixture(params=sorted(SOURCES))
def site(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[DataSite]:
    """A phasegate whose source is of this kind and holds the documents, and whose target is empty; not served yet."""
    with OwnEmulator() if WHOSE == "phasegate" else Emulator(heap="3g") as running:
        monkeypatch.setenv(EMULATOR, running.address)
        made = DataSite(tmp_path, free_port(), running, SOURCES[request.param], RATE)
        store: DocumentStore
        if request.param == "mock":
            (tmp_path / "run").mkdir()
            store = MemoryStore(tuple, Journal(journal(made)))
        else:
            store = FirestoreStore(Firestore("demo-source", deadline_s=Duration(DEADLINE_S)))
        asyncio.run(bulk.fill(store, SETS))
        yield made
        if made.process is not None and made.process.poll() is None:
            made.kill_everything()


def journal(site: DataSite) -> Path:
    return site.folder / "run" / "shop.mock.journal"


def is_mock(site: DataSite) -> bool:
    return site.source == SOURCES["mock"]


def both_sides(site: DataSite, ledger: Ledger) -> tuple[Held, Held]:
    """What both sides hold, read without the product's walk."""
    address = site.emulator.address
    source = sides.mock(journal(site)).items() if is_mock(site) else stored(address, "demo-source")
    return Held(source, ledger), Held(stored(address, PROJECT), ledger)


def places(dice: random.Random) -> list[int]:
    """How many documents each copy goes through before it is killed: random, and together some share of all."""
    cuts = sorted(dice.uniform(0, KILLED_WITHIN * DOCUMENTS) for _ in range(KILLS))
    return [int(cut - before) for before, cut in zip([0.0, *cuts], cuts, strict=False)]


def walked(site: DataSite) -> bool:
    """Whether the copy has gone through every collection, so that only what never rests is left."""
    place = site.folder / "run" / "shop.copy.json"
    try:
        return len(json.loads(place.read_text())["done"]) == len(rules(registry.adapters()))
    except (FileNotFoundError, ValueError):
        return False


class KilledCopy:
    """A copy that is killed on its way and begun again, and its figures so far."""

    def __init__(self, site: DataSite) -> None:
        self._site = site
        self.peak_mib = 0.0
        self.working_s = 0.0
        self.kills = 0

    def killed_after(self, documents: int, pause_s: float) -> None:
        """Call the command, and kill its process ``pause_s`` after it says that it went through so many documents."""
        command = TaskCommand(self._site, "copy")
        while command.look() < documents:
            assert not command.ended, f"it ended before it was killed: {command.process.communicate()}"
        time.sleep(pause_s)
        assert command.kill(), "it was done before it was killed"
        self._count(command)
        self.kills += 1

    def to_the_end(self, on_walked: Callable[[], None]) -> dict[str, Any]:
        """Call the command and let it end; what it printed. ``on_walked``: every collection was gone through."""
        command = TaskCommand(self._site, "copy")
        while not command.ended and not walked(self._site):
            command.look()
        on_walked()
        result = command.result()
        self._count(command)
        return result

    def _count(self, command: TaskCommand) -> None:
        self.peak_mib = max(self.peak_mib, command.peak_mib)
        self.working_s += time.monotonic() - command.began


class Held:
    """What one side holds: each document's digest by path, and what it lacks of what was acknowledged."""

    def __init__(self, documents: Iterable[tuple[str, dict[str, Any]]], ledger: Ledger) -> None:
        side = dict(documents)
        self.missing = ledger.missing(side)
        self.digests = {path: _digest(fields) for path, fields in side.items()}


def _digest(fields: dict[str, Any]) -> bytes:
    plain = json.dumps(fields, sort_keys=True, default=repr)
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


def differing(one: Held, other: Held) -> list[str]:
    """The paths that are not on both sides alike."""
    paths = one.digests.keys() | other.digests.keys()
    return sorted(path for path in paths if one.digests.get(path) != other.digests.get(path))


def test_a_copy_that_is_killed_again_and_again_beside_writers_ends_with_both_sides_equal(site: DataSite) -> None:
    site.serve()
    dice = random.Random(DOCUMENTS)
    ledger = Ledger()
    cost = TaskCommand(site, "copy", "--dry-run").result()
    copy = KilledCopy(site)
    with ExitStack() as writing:
        writing.enter_context(Writers(site.port, ledger, WRITERS, pause_s=PAUSE_S))
        for documents in places(dice):
            # Its progress is told twice a second, and it is to die in between too.
            copy.killed_after(documents, dice.uniform(0.0, 0.5))
        # What is written without a pause never rests, and a copy waits five minutes for it.
        copied = copy.to_the_end(on_walked=writing.close)
    site.settle()
    compare = TaskCommand(site, "compare")
    compared = compare.result()
    whole = sum(each["equal"] for each in compared["collections"])
    rate = bulk.size(SETS) / copy.working_s
    print(
        f"\n{bulk.size(SETS)} documents, {WHOSE}'s emulator: "
        f"{copy.kills} kills, {ledger.acknowledged} acknowledged writes meanwhile\n"
        f"copy: {copy.working_s:.0f} s, {rate:.0f} documents/s, {copy.peak_mib:.0f} MiB at most, "
        f"told beforehand {cost['reads']} reads and {cost['writes']} writes, ${cost['usd']}\n"
        f"compare: {whole} equal in {compare.took_s:.0f} s, {compare.peak_mib:.0f} MiB at most",
        flush=True,
    )
    assert compared["equal"] is True, compared
    assert sum(each["pending"] for each in copied["collections"]) == 0, copied
    assert ledger.acknowledged > 20, dict(ledger.answers)
    assert copy.kills == KILLS
    one, other = both_sides(site, ledger)
    assert len(one.digests) == whole >= bulk.size(SETS)
    assert [*one.missing, *other.missing, *differing(one, other)] == []
    if not is_mock(site):
        assert max(copy.peak_mib, compare.peak_mib) < MOST_MIB
