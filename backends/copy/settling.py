"""Acts on documents beside traffic: only while no change of a document is on its way from one side to the other.

*What goes wrong without it.* Each side applies every write by itself: one side first, the other when the mirror gets
there. A job's counter is 105 on the source because of a hundred files of last week, which the target never got, and
five of just now. If a copy writes 105 to the target, and the mirror then adds the five, the target has 110. If the
mirror is first, it makes the target's document with 5, and a copy that leaves alone what exists loses the hundred.

*The rule.* A *change* is what one write means (``documents.changes``). It becomes visible on one side, and some time
later on the other: the mirror hands over each one, once in effect, in any order. In between it is *on its way*. What
a side has from before the mirror, or because the mirror lost something, is on its way nowhere: that is what a copy is
for. Of a document ``d`` these steps are taken, in this order:

1. Read ``d`` on both sides. Let ``t`` be the time after that.
2. Wait until every change that was on its way at ``t`` has arrived (``Calm.reached_both``).
3. Read ``d`` on both sides again. If either side has another version than in step 1, begin anew later.
4. Write ``d`` on one side, on the condition that this side still has the version of step 1. If not, begin anew later.
5. If that created ``d``, read it on the other side once more. If it is gone there, delete what was created, on the
   condition that nobody has written it since.

*Why it is right.* Suppose step 4 writes the target, and let ``v`` be what steps 1 and 3 read on the source. Is a
change of ``d`` on its way when step 4 writes, and in ``v``? Then it was visible on the source, but not on the target,
at step 1, for ``v`` is what the source held then. So it arrived on the target during step 2, which made a new version
of ``d`` there, and the condition of step 4 fails. Is one on its way that the target has, and ``v`` has not? The
target held it at step 1, since its version is still the same; so it arrived on the source during step 2, and step 3
saw a new version there. So ``v`` and what the target holds contain the same of the changes that the mirror brings.
Where they differ, the mirror will not mend it, and ``v`` does. A change that becomes visible on the source after step
3 is not in ``v``: if the mirror brings it before the write, the condition fails; if after, it is applied to ``v``, as
it was on the source. One change makes no new version where it arrives: a delete, where ``d`` is not there. If it
comes between steps 3 and 4, the document is created though the source has just deleted it: therefore step 5. Nothing
else here asks of what kind a change is: counters, states by the newer rule, documents that are put are all served.
Writing the source is the same with the sides swapped.

A batch that a client sends again is ignored where its marker is. So documents with counters come after all others: by
then the target has the markers of what their counters contain.

What is left alone between two steps is settled at once. What is written without a pause is looked at until it rests,
and is told as ``pending`` if it does not: it is never taken for a difference, and never for equal because of one
look. (With a counter that lacks 5, and a change of 5 on its way to the other side, one look would find both equal. So
documents with counters that were written lately are settled by these steps too where they look equal.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from time import time_ns
from typing import Final, NamedTuple, Protocol

import structlog

from backends.copy.calm import Calm
from backends.copy.equality import Pair
from backends.copy.pace import LOCAL_COMMIT, PAGE_BYTES, Pace, commits
from backends.copy.records import READ_AT_ONCE, Again, Differences, Unsettled
from backends.copy.rules import PatternRule
from backends.copy.tally import Tally
from backends.copy.walk import Sides, look, patiently, read, walk, weight
from backends.documents.patterns import pattern_of
from backends.documents.port import COMMIT_LIMIT, Context, Document, Mutation, Precondition, Reason, Rejected, delete
from backends.errors import Fault, FaultKind

BATCH: Final = 4000  # documents that wait for one step 2
BATCH_BYTES: Final = 8 * 2**20  # of these
BATCH_S: Final = 10.0  # how long they wait
ARRIVAL_S: Final = 60.0  # how long step 2 may take: a mirror that is further behind has trouble of its own
SKEW_US: Final = 60_000_000  # by how much a store's clock may differ from this machine's
# Where the mirror is stuck, documents that nobody has written for so long are taken as they look: to look at all that
# have counters again would tell nothing more, and would count them all as pending.
STUCK_US: Final = 3_600_000_000
STARVED_S: Final = 1.0  # and how long once that was too long, until it is fast again
PAUSE_S: Final = 0.1  # before documents that moved are looked at again
CONCURRENT: Final = 4  # commits on their way to a service, of which each takes a while
WRITES: Final = 3  # of one document, before it is told that it stays different
SEEN_EQUAL: Final = 3  # looks, each after step 2, by which a document that never rests counts as equal

_log = structlog.get_logger("phasegate.data")


class Write(NamedTuple):
    """What is to be done about a pair: a mutation on the side of that index."""

    side: int
    mutation: Mutation


class Handling(Protocol):
    """What is done about documents that differ while none of their changes is on its way."""

    patience_s: float  # how long what never rests is looked at, after the last that did
    looks_again: bool  # whether what was written is compared again; if not, only the target is written

    def write(self, pair: Pair, rule: PatternRule) -> Write | None:
        """The write that mends the difference, with a precondition; None where it stays."""

    def wrote(self, tally: Tally) -> None:
        """Count a document that was written."""

    def stays(self, tally: Tally, pair: Pair) -> None:
        """Count a document that stays different."""


class Settling:
    """One walk over both sides, with what is done about each difference."""

    def __init__(
        self,
        sides: Sides,
        rules: dict[str, PatternRule],
        calm: Calm,
        handling: Handling,
        again: Again,
        *,
        differences: Differences | None = None,
        paces: tuple[Pace | None, Pace | None] = (None, None),
        on_page: Callable[[str, int], None] = lambda pattern, documents: None,
    ) -> None:
        """``paces``: of writes by side, None for one in this machine's memory. ``on_page``: called for each page."""
        self.tallies = {pattern: Tally(pattern) for pattern in rules}
        self.again = again
        self._sides = sides
        self._rules = rules
        self._calm = calm
        self._handling = handling
        self._differences = differences
        self._paces = paces
        self._on_page = on_page
        self._batch: list[Pair] = []  # what is to be settled, and how many bytes it takes
        self._size = 0
        self._flushed_at = calm.now()
        self._starved = False  # whether step 2 took too long the last time
        self._lately_us = 0  # documents that neither side has written since had no change on its way

    async def start(self) -> None:
        """Before the first walk: wait until what is on its way has arrived, to know what was written lately."""
        if not self._calm.served:
            return
        began_us = time_ns() // 1000
        arrived = await self._calm.reached_both(self._calm.now(), ARRIVAL_S)
        self._lately_us = began_us - (SKEW_US if arrived else STUCK_US)

    async def go_through(
        self, pattern: str, after: str | None = None, on_settled: Callable[[str], None] = lambda path: None
    ) -> None:
        """Walk one pattern from ``after``. What must be settled is gathered, also over several patterns: ``flush``.

        ``on_settled`` is called with a path up to which nothing is left to do, of this pattern and those before it.
        Raises ``Fault``.
        """
        async for pairs in walk(self._sides, pattern, after):
            for pair in pairs:
                if self._note(pattern, pair):
                    self._batch.append(pair)
                    self._size += weight(pair.source) + weight(pair.target)
            self._on_page(pattern, len(pairs))
            waits_long = self._calm.now() - self._flushed_at > BATCH_S
            if len(self._batch) >= BATCH or self._size >= BATCH_BYTES or waits_long:
                await self.flush()
            if not self._batch:
                self.again.flush()
                on_settled(pairs[-1].path)

    async def flush(self) -> None:
        """Settle what was gathered. Raises ``Fault``."""
        await self.settle([(Unsettled(pair.path), pair) for pair in self._batch])
        self._batch, self._size, self._flushed_at = [], 0, self._calm.now()
        self.again.flush()

    async def settle_some(self, pattern: str, pairs: Sequence[Pair]) -> None:
        """Count these pairs, just read, and settle those that need it. Raises ``Fault``."""
        await self.settle([(Unsettled(pair.path), pair) for pair in pairs if self._note(pattern, pair)])
        self._on_page(pattern, len(pairs))

    def _note(self, pattern: str, pair: Pair) -> bool:
        """Count the pair; returns whether it must be settled."""
        tally = self.tallies[pattern]
        tally.source += pair.source is not None
        tally.target += pair.target is not None
        if not pair.equal:
            return True
        if self._calm.served and self._rules[pattern].counted and self._was_written_lately(pair):
            return True
        tally.equal += 1
        return False

    def _was_written_lately(self, pair: Pair) -> bool:
        return any(
            document is not None and document.update_time >= self._lately_us
            for document in (pair.source, pair.target)
        )

    async def finish(self) -> None:
        """Look again at what moved, until all has rested or does not for too long. Raises ``Fault``."""
        calm = self._calm
        end = calm.now() + self._handling.patience_s
        while self.again.count and calm.now() < end:
            for few in self.again.round():
                if calm.now() >= end:
                    for one in few:
                        self.again.put(one)
                    continue
                known = {one.path: one for one in few}
                pairs = await look(self._sides, list(known))
                if await self.settle([(known[pair.path], pair) for pair in pairs]):
                    end = calm.now() + self._handling.patience_s
                self._on_page(self.tally_of(few[0].path).name, 0)
            if self.again.count:
                await asyncio.sleep(PAUSE_S)
        for few in self.again.round():
            for one in few:
                tally = self.tally_of(one.path)
                if one.equal >= SEEN_EQUAL:
                    tally.equal += 1
                else:
                    tally.pending += 1

    def tally_of(self, path: str) -> Tally:
        """The tally of the pattern that the path is in."""
        pattern = pattern_of(path, self._rules)
        assert pattern is not None, path
        return self.tallies[pattern]

    async def settle(self, batch: Sequence[tuple[Unsettled, Pair]]) -> int:
        """Steps 2 to 4 for pairs just read; returns how many were settled. The others will be looked at again."""
        if not batch:
            return 0
        within = STARVED_S if self._starved else ARRIVAL_S
        self._starved = not await self._calm.reached_both(self._calm.now(), within)
        settled = 0
        todo: list[tuple[Unsettled, Pair, Write]] = []
        for one, pair in await self._rested(batch):
            tally = self.tally_of(pair.path)
            if pair.equal:
                tally.equal += 1
                settled += 1
                continue
            write = self._handling.write(pair, self._rules[tally.name]) if one.written < WRITES else None
            if write is not None:
                todo.append((one, pair, write))
            else:
                self._stays(tally, pair)
                settled += 1
        return settled + await self._write(todo)

    async def _rested(self, batch: Sequence[tuple[Unsettled, Pair]]) -> list[tuple[Unsettled, Pair]]:
        """Step 3: those that neither side has written since. The others are put by."""
        if not self._calm.served:
            return list(batch)
        rested = []
        for part in _portions(batch):
            now = await self._look([pair for _, pair in part])
            for one, earlier in part:
                pair = now.get(earlier.path)
                if pair is None:
                    continue  # it holds what cannot be read now
                if not self._starved and pair.unmoved_since(earlier):
                    rested.append((one, earlier))
                else:
                    equal = one.equal + (pair.equal and not self._starved)
                    self.again.put(Unsettled(one.path, equal, one.written))
        return rested

    async def _look(self, pairs: Sequence[Pair]) -> dict[str, Pair]:
        """What both sides hold now. A target that lacks the document is not asked again where only it is written:
        step 4 has a precondition, and each question is billed."""
        if self._handling.looks_again:
            return {pair.path: pair for pair in await look(self._sides, [pair.path for pair in pairs])}
        source = await read(self._sides.source, [pair.path for pair in pairs])
        there = [pair.path for pair in pairs if pair.target is not None or pair.source is None]
        target = await read(self._sides.target, there) if there else {}
        asked = {*there}
        return {
            pair.path: Pair(pair.path, source[pair.path], target.get(pair.path))
            for pair in pairs
            if pair.path in source and (pair.path in target or pair.path not in asked)
        }

    def _stays(self, tally: Tally, pair: Pair, reason: str | None = None) -> None:
        self._handling.stays(tally, pair)
        setattr(tally, pair.difference, getattr(tally, pair.difference) + 1)
        if self._differences is not None:
            self._differences.write(pair, reason)

    async def _write(self, todo: Sequence[tuple[Unsettled, Pair, Write]]) -> int:
        """Step 4. Returns how many documents were settled by it."""
        settled = 0
        for side, pace in enumerate(self._paces):
            of = {pair.path: (one, pair, write) for one, pair, write in todo if write.side == side}
            most = LOCAL_COMMIT if pace is None else COMMIT_LIMIT
            portions = list(commits([write.mutation for _, _, write in of.values()], most))
            at_once = 1 if pace is None else CONCURRENT
            for at in range(0, len(portions), at_once):
                for outcome in await asyncio.gather(
                    *(self._commit(side, commit) for commit in portions[at : at + at_once])
                ):
                    settled += await self._count(side, of, outcome)
        return settled

    async def _count(
        self, side: int, of: dict[str, tuple[Unsettled, Pair, Write]], outcome: Sequence[tuple[str, int | Rejected]]
    ) -> int:
        """Count what became of a commit; returns how many documents it settled."""
        settled = 0
        gone = await self._undo(side, [of[path][1] for path, told in outcome if isinstance(told, int)], outcome)
        for path, told in outcome:
            one, pair, write = of[path]
            if path not in gone:
                settled += self._written(one, pair, write, None if isinstance(told, int) else told)
        return settled

    async def _undo(
        self, side: int, written: Sequence[Pair], outcome: Sequence[tuple[str, int | Rejected]]
    ) -> set[str]:
        """Step 5. Returns what is gone on both sides now."""
        created = [pair for pair in written if (pair.source, pair.target)[side] is None]
        if not self._calm.served or not created:
            return set()
        now = await read(self._sides[1 - side], [pair.path for pair in created])
        times = dict(outcome)
        gone = {pair.path for pair in created if pair.path in now and now[pair.path] is None}
        for path in gone:
            when = times[path]
            assert isinstance(when, int)
            undo = delete(path, Precondition(update_time=when))
            with suppress(Rejected):  # somebody has written it since, or deleted it: then it is theirs
                await patiently(partial(self._sides[side].commit, (undo,)))
        return gone

    def _written(self, one: Unsettled, pair: Pair, write: Write, refusal: Rejected | None) -> bool:
        """Count what became of a write; returns whether that settles the document."""
        tally = self.tally_of(pair.path)
        if refusal is not None and refusal.reason is Reason.INVALID:
            self._stays(tally, pair, str(refusal))
            return True
        if refusal is not None:
            self.again.put(Unsettled(pair.path, one.equal, one.written))
            return False
        if not one.written:  # else it is the same document once more
            self._handling.wrote(tally)
        if self._handling.looks_again:
            self.again.put(Unsettled(pair.path, 0, one.written + 1))
            return True
        fields = write.mutation.fields
        after = pair._replace(target=None if fields is None else Document(pair.path, fields, 0, 0))
        if after.equal:
            tally.equal += 1
        else:
            self._stays(tally, after)
        return True

    async def _commit(self, side: int, commit: Sequence[Mutation]) -> list[tuple[str, int | Rejected]]:
        """Write all that can be written; by path, when it was written or what the store refused."""
        pace, loop = self._paces[side], asyncio.get_running_loop()
        store = self._sides[side]

        def on_fault(fault: Fault) -> None:
            if pace is not None and fault.kind is FaultKind.EXHAUSTED:
                pace.exhausted(loop.time())
                _log.warning("data_slowed", backend=store.kind, rate=round(pace.rate), reason=str(fault))

        async def send(ctx: Context) -> int:
            return await store.commit(commit, ctx)

        if pace is not None:
            await asyncio.sleep(pace.wait(len(commit), loop.time()))
        else:
            await asyncio.sleep(0)  # the lines of the parent are read in between
        try:
            when = await patiently(send, on_fault)
        except Rejected as refusal:
            if len(commit) == 1:
                return [(commit[0].path, refusal)]
            half = len(commit) // 2  # one of them has moved, or cannot be written: the others can
            return [*await self._commit(side, commit[:half]), *await self._commit(side, commit[half:])]
        return [(mutation.path, when) for mutation in commit]


def _portions(batch: Sequence[tuple[Unsettled, Pair]]) -> Iterator[list[tuple[Unsettled, Pair]]]:
    """The batch in parts that are read in one call each."""
    part: list[tuple[Unsettled, Pair]] = []
    size = 0
    for one, pair in batch:
        part.append((one, pair))
        size += weight(pair.source) + weight(pair.target)
        if len(part) == READ_AT_ONCE or size > PAGE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
