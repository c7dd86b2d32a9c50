"""A migration's data with tasks that have no process: they are begun as real ones are, and end as the test says."""

from __future__ import annotations

from collections.abc import Callable

from control.data.messages import (
    ComparedCollection,
    OrderedTask,
    TaskCost,
    TaskDone,
    TaskEnd,
    TaskFailed,
    TaskProgress,
    TaskResult,
)
from control.data.runner import TaskBusyError
from control.data.state import AskedTask, DataGauges, DataPair, task_orders
from control.lead.datakeeper import DataSetup
from control.plan.times import Now

IDENTITY = "mock → firestore (project demo, database (default))"


class PlayedRunner:
    """Stands in for ``TaskRunner``."""

    def __init__(self) -> None:
        self.progress: TaskProgress | None = None
        self.cost: TaskCost | None = None
        self.begun: list[OrderedTask] = []
        self.stopped = False
        self._ended: Callable[[TaskEnd], None] | None = None

    @property
    def busy(self) -> bool:
        return self._ended is not None

    def begin(self, orders: OrderedTask, ended: Callable[[TaskEnd], None]) -> None:
        if self._ended is not None:
            raise TaskBusyError
        self.progress = self.cost = None
        self.stopped = False
        self.begun.append(orders)
        self._ended = ended

    def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        self._ended = None

    def end(self, end: TaskEnd) -> None:
        """The task under way ends."""
        ended, self._ended = self._ended, None
        assert ended is not None, "no task is under way"
        ended(end)


class PlayedData:
    """What a coordinator is led with: gauges and seed are the test's."""

    def __init__(self, *, gate: bool = True, every_s: float = 600.0, fixtures: str | None = None) -> None:
        self.gauges = DataGauges("board-1", 0, 0.0, 0)
        self.runner = PlayedRunner()
        self.pair = DataPair("phase6", IDENTITY, gate, fixtures)
        self.every_s = every_s
        self.seed: str | Exception | None = None
        self.sought = 0

    def setup(self) -> DataSetup:
        """For a new coordinator, as of a new control process."""
        self.runner = PlayedRunner()

        def orders(asked: AskedTask) -> OrderedTask:
            return task_orders(asked, "phase6", b"{}", "run", 500)

        def gauges(now: Now) -> DataGauges:
            return self.gauges

        async def seed() -> str | None:
            self.sought += 1
            if isinstance(self.seed, Exception):
                raise self.seed
            return self.seed

        return DataSetup(self.pair, self.every_s, orders, gauges, lambda: self.runner, seed)  # type: ignore[return-value, arg-type]

    def lose(self, changes: int) -> None:
        """So many more changes reach one side alone."""
        self.gauges = self.gauges._replace(lost=self.gauges.lost + changes)

    def copied(self, documents: int = 12, left: int = 0) -> None:
        """The copy under way is done, and has left so many documents that differ."""
        self.runner.end(TaskDone(TaskResult(copied=documents - left, skipped_newer=left), left, documents))

    def compared(self, different: int = 0, repaired: int = 0) -> None:
        """The compare or repair under way is done, and leaves so many differences."""
        row = ComparedCollection("scans", 12, 12, 12 - different, 0, 0, different, 0)
        self.runner.end(TaskDone(TaskResult(not different, (row,), repaired), different, 12))

    def failed(self, kind: str = "unreachable") -> None:
        """The task under way gives up."""
        self.runner.end(TaskFailed("the target does not answer", kind))


def kinds(data: PlayedData) -> list[str]:
    """The tasks that were begun in this control process."""
    return [orders.kind for orders in data.runner.begun]
