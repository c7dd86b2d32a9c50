"""Publishes what one migration does: its status, its figures, and both as they change, to every subscriber."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec.structs import asdict

from backends.arm import SOURCE, TARGET
from control.data.documents import DataDocument
from control.figures.counts import figures, read_counts, summary, workers
from control.figures.documents import Figures
from control.figures.history import StepHistory
from control.lead import waiting
from control.lead.documents import ArmsStatus, ArmStatus, Status
from control.lead.events import Hub
from control.lead.observer import Observer
from control.lead.saving import Outbox
from control.lead.status import status_document
from control.plan.gates import Hold
from control.plan.phases import percent_of
from control.plan.settings import Migration
from control.plan.times import Now, of_ns
from control.rollout.model import Rollout, RolloutPlan
from proxy.board.board import Board
from proxy.board.series import Series

STATUS_EVERY_S: Final = 1.0


class Publisher:
    """Publishes one migration. ``hub`` has the subscribers, ``history`` the last hours, step by step."""

    def __init__(
        self,
        name: str,
        index: int,
        settings: Migration,
        plan: RolloutPlan,
        kinds: tuple[str, str],
        board: Board,
        observer: Observer,
        outbox: Outbox[Any],
        holds: Callable[[], Sequence[Hold]],
        now: Now,
        data: Callable[[], DataDocument | None],
    ) -> None:
        """``kinds`` names the arms' backends; ``holds`` is what keeps an earned phase from beginning now."""
        self.hub = Hub()
        self.history = StepHistory()
        self._name = name
        self._index = index
        self._settings = settings
        self._hours = waiting.Hours(settings)
        self._plan = plan
        self._holds = holds
        self._kinds = kinds
        self._board = board
        self._observer = observer
        self._outbox = outbox
        self._data = data
        self._published_at = now.mono

    def publish_status(self, state: Rollout, now: Now) -> None:
        """Send the status to every subscriber."""
        self._published_at = now.mono
        if self.hub:
            self.hub.publish(self.status(state, now))

    def publish_due(self, state: Rollout, now: Now) -> None:
        """Record and send what is due."""
        if self.history.due(now.mono):
            seen = read_counts(self._board, self._index, now.mono)
            sample = self.history.add(seen, now.unix, percent_of(state.weight_bp))
            if sample is not None:
                self.hub.publish(sample)
        if now.mono - self._published_at >= STATUS_EVERY_S:
            self.publish_status(state, now)

    def status(self, state: Rollout, now: Now) -> Status:
        """The migration's status, as the API shows it."""
        rows = workers(self._board, self._index, now.mono)
        done = self._observer.so_far(now)
        arms = ArmsStatus(
            _arm(self._kinds[SOURCE], done.source, sum(r.inflight_source for r in rows)),
            _arm(self._kinds[TARGET], done.target, sum(r.inflight_target + r.inflight_old for r in rows)),
        )
        resumed = self._plan.resumed(state)
        checkpoint = self._outbox.status(None if resumed is None else resumed.name)
        verdict, requests = self._observer.verdict, done.target.requests
        waits = waiting.waits(self._settings, self._plan, state, now, verdict, requests, self._holds())
        opens = self._hours.opens_at(now)
        return status_document(
            self._name, self._plan, state, now, verdict, arms, checkpoint, rows, waits, opens, self._data()
        )

    def figures(self) -> Figures:
        """Every operation since boot, and the data sources' gauges, as the API shows them."""
        return figures(self._board, self._index)

    def age_s(self, now: Now) -> dict[str, float]:
        """How old the signs of life on the board are: the oldest of a worker's, and control's own."""
        ages = [row.heartbeat_age_s for row in workers(self._board, self._index, now.mono)]
        return {"workers": max(ages, default=0.0), "control": max(0.0, now.mono - of_ns(self._board.control()[1]))}


def _arm(kind: str, series: Series, inflight: int) -> ArmStatus:
    return ArmStatus(backend=kind, **asdict(summary(series)), inflight=inflight)
