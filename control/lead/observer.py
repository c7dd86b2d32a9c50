"""What is known of the weight that is published: the counts since it was, the fast detector, gauges, validations.

Reads the board and judges; changes nothing. Each published weight gets a new baseline: ``begin`` takes it, and what
was counted before it says nothing of the new weight.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final, NamedTuple

from msgspec import Struct

from control.figures.counts import (
    Machine,
    Reading,
    by_adapter,
    copies,
    dense,
    read_counts,
    sparse,
    summary,
    unsplit_operations,
)
from control.figures.documents import BothArms
from control.judge import rules
from control.judge.document import verdict_document
from control.judge.evidence import TargetWatch
from control.judge.rules import VerdictOutcome
from control.judge.verdict import PhaseVerdict, Terms, judge, judge_by_threshold
from control.judge.whole import FailingRun, fails_whole
from control.lead.documents import PhaseFacts
from control.plan.phases import Phase
from control.plan.settings import Migration
from control.plan.times import Now
from control.rollout.model import Rollout, State
from proxy.board.board import Board

DETECT_EVERY_S: Final = 0.25  # the fast detector

MAX_SOAK_RATIO: Final = 2  # of min_soak, where no max_soak is configured

# In these states the soak clock is stopped and no evidence leads on: an operator decides.
_HELD: Final = {
    State.PAUSED: "paused: held until an operator resumes; a breach is still rolled back",
    State.COMPLETED: "completed: still measured; taking it back is an operator's decision",
    State.ROLLED_BACK: "rolled back: held until an operator resumes; a breach is rolled back further",
}

Json = dict[str, Any]


class KeptBaseline(Struct, frozen=True):
    """What a checkpoint keeps of a weight's baseline."""

    source: Json
    target: Json
    validations: tuple[int, int]
    unsplit: int = 0
    copies: dict[str, tuple[int, int]] = {}


class WeightRecord(NamedTuple):
    """A weight's baseline, and what came of it."""

    base: Reading
    adapters: dict[str, int]
    validations: tuple[int, int]  # made, and those that asked for a rollback
    verdict: PhaseVerdict | None


class Observer:
    """One migration's counts, held against its thresholds."""

    def __init__(self, board: Board, index: int, migration: Migration, now: Now) -> None:
        self._board = board
        self._index = index
        self._settings = migration
        self._machine = Machine(board)
        self._unsplit = unsplit_operations(board, index, migration.writes)
        self.watch = self._fresh_watch()
        self._samples: dict[str, tuple[float, ...]] = {}  # of the judge's gauges, oldest first
        self.begin(now)

    def begin(self, now: Now, *, lowered: bool = False) -> None:
        """From here on the counts are of what was just published; a failing goes on over a lower weight."""
        self._last = self._base = self._window = self._read(now)
        self._adapters = by_adapter(self._board, self._index)
        self._copies = copies(self._board, self._index)
        self._validations = (0, 0)
        self._validated_at = self._detected_at = now.mono
        self._breach_told = False  # a validation has said what the fast detector found
        self.watch = self._fresh_watch(*((self.watch.failing, self.watch.failing_copies) if lowered else ()))
        self.verdict: PhaseVerdict | None = None

    def _read(self, now: Now) -> Reading:
        return read_counts(self._board, self._index, now.mono, self._unsplit)

    def _fresh_watch(self, *failing: FailingRun) -> TargetWatch:
        one_writer = self._settings.writes == "source"
        return TargetWatch.fresh(rules.bounds(self._settings.thresholds, copies=one_writer), *failing)

    def kept(self) -> KeptBaseline:
        """For the checkpoint."""
        base = self._base
        source, target = sparse(base.source), sparse(base.target)
        return KeptBaseline(source, target, self._validations, base.unsplit, self._copies)

    def restore(self, kept: KeptBaseline) -> None:
        """Go on from a checkpoint's baseline, unless the board's counts have begun anew since."""
        with suppress(LookupError, ValueError, TypeError):
            base = Reading(self._base.mono, dense(kept.source), dense(kept.target), kept.unsplit)
            here = self._last
            grown = here.source.requests >= base.source.requests and here.target.requests >= base.target.requests
            # Where the other requests are split now than were, the difference of the counts says nothing.
            if grown and here.unsplit >= base.unsplit:
                self._base, self._validations, self._copies = base, kept.validations, kept.copies

    # Looking.

    @property
    def newest(self) -> Reading:
        """The counts when they were last read."""
        return self._last

    def detect_due(self, now: Now) -> bool:
        """Whether it is time for another pass of the fast detector."""
        return now.mono - self._detected_at >= DETECT_EVERY_S

    def detect(self, now: Now, *, weighing: bool) -> None:
        """Take a reading; ``weighing``: what came since the last one is the published weight's."""
        seen, thresholds = self._read(now), self._settings.thresholds
        if weighing:
            new = seen.since(self._last)
            target, source = rules.trials(new.target, thresholds), rules.trials(new.source, thresholds)
            self.watch = self.watch.after(target, source, now.mono - self._last.mono)
            self._breach_told = self._breach_told and self.watch.breached
        self._last, self._detected_at = seen, now.mono

    def validation_due(self, now: Now) -> bool:
        """Whether it is time for another validation, or the fast detector has just found a breach."""
        found = self._settings.judge == "sequential" and self.watch.breached and not self._breach_told
        return found or now.mono - self._validated_at >= self._settings.validate_every_s

    def validate(self, s: Rollout, phase: Phase | None, now: Now) -> PhaseVerdict:
        """Judge for the record: with a new sample of the gauges, and a new window for the literal rule."""
        self._sample_gauges(now)
        verdict = self.weigh(s, phase, now)
        made, bad = self._validations
        self._validations = made + 1, bad + (verdict.outcome is VerdictOutcome.ROLL_BACK)
        self._validated_at, self._window, self._breach_told = now.mono, self._last, self.watch.breached
        return verdict

    def weigh(self, s: Rollout, phase: Phase | None, now: Now) -> PhaseVerdict:
        """The verdict on what was read so far."""
        settings, thresholds = self._settings, self._settings.thresholds
        if any(rule.name not in self._samples for rule in rules.GAUGES):
            self._sample_gauges(now)
        terms, soaked, samples = self._terms(s, phase), s.soaked(now.mono), self._samples
        target = rules.measured(self._last.since(self._base).target, thresholds)
        if settings.judge == "threshold":
            window = rules.measured(self._last.since(self._window).target, thresholds)
            self.verdict = judge_by_threshold(thresholds, terms, target, window, samples, soaked, now.unix)
        else:
            self.verdict = judge(thresholds, terms, target, self.watch, samples, soaked, now.unix)
        return self.verdict

    def _terms(self, s: Rollout, phase: Phase | None) -> Terms:
        settings = self._settings
        if phase is None:
            return Terms(0.0, 0.0, settings.min_samples, "hold", _HELD.get(s.state, ""))
        max_soak = phase.max_soak_s if phase.max_soak_s is not None else settings.max_soak_s
        return Terms(
            phase.min_soak_s,
            max(phase.min_soak_s, MAX_SOAK_RATIO * phase.min_soak_s if max_soak is None else max_soak),
            phase.min_samples or settings.min_samples,
            settings.on_low_traffic,
            _HELD.get(s.state, ""),
        )

    def _sample_gauges(self, now: Now) -> None:
        for name, value in self._machine.sample(now.mono).items():
            self._samples[name] = (*self._samples.get(name, ()), value)[-rules.GAUGE_SAMPLES :]

    def fails_whole(self, verdict: PhaseVerdict) -> str:
        """Why a target whose verdict is a rollback surely fails whole, in words; nothing where it may not."""
        by_errors = any(
            rule.rule in rules.BY_PROBES and rule.outcome is VerdictOutcome.ROLL_BACK for rule in verdict.rules
        )
        watch = self.watch
        return fails_whole(watch.failing, watch.unanswered, watch.failing_copies) if by_errors else ""

    # Telling.

    def record(self) -> WeightRecord:
        """What is known now, to be written down when the next weight has been published."""
        return WeightRecord(self._base, self._adapters, self._validations, self.verdict)

    def facts(self, ended: WeightRecord, now: Now) -> PhaseFacts:
        """What the arms did under a weight that ends now."""
        done = self._read(now).since(ended.base)
        requests = done.source.requests + done.target.requests
        made, bad = ended.validations
        return PhaseFacts(
            arms=BothArms(summary(done.source), summary(done.target)),
            target_share=round(done.target.requests / requests, 6) if requests else None,
            verdict=verdict_document(ended.verdict),
            adapters=self._by_adapter_since(ended.adapters),
            validations=made,
            validations_failed=bad,
            unsplit=done.unsplit,
            copies=done.target.copies,
            copy_faults=done.target.copy_faults,
        )

    def so_far(self, now: Now) -> Reading:
        """The counts since the baseline."""
        return self._read(now).since(self._base)

    def unsplit(self, now: Now) -> int:
        """The requests since boot that were not split."""
        return self._read(now).unsplit

    def adapters(self) -> dict[str, int]:
        """The target's requests since the baseline, by adapter."""
        return self._by_adapter_since(self._adapters)

    def copies(self) -> dict[str, tuple[int, int]]:
        """By operation: the copies of its writes since the baseline, and those of them that failed."""
        now, before = copies(self._board, self._index), self._copies
        since = {
            name: (made - before.get(name, (0, 0))[0], bad - before.get(name, (0, 0))[1])
            for name, (made, bad) in now.items()
        }
        return {name: counted for name, counted in since.items() if counted[0] > 0}

    def _by_adapter_since(self, before: dict[str, int]) -> dict[str, int]:
        now = by_adapter(self._board, self._index)
        return {name: max(0, requests - before.get(name, 0)) for name, requests in now.items()}
