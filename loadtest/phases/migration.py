"""The load of a whole migration: more visitors as the weight rises, until it completes or rolls back.

``locust -f loadtest/phases/migration.py -u PEAK``, or ``phasegate loadtest --phase migration --users PEAK``.
"""

from __future__ import annotations

from typing import Final

from locust import LoadTestShape

from loadtest.generator.visitors import crowd_at
from loadtest.phases.users import PhaseUser, watch

PEAK: Final = 100
SPAWN_RATE: Final = 10.0  # visitors per second
ENDED: Final = ("completed", "rolled_back", "aborted")


class MigrationUser(PhaseUser):
    """A visitor in the live phase, which names its requests."""

    phase = ""


class Following(LoadTestShape):
    """The number of visitors for the live weight. The run begins with the migration and ends with it."""

    use_common_options = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # locust's shape is untyped
        self._began = False

    def tick(self) -> tuple[int, float] | None:
        """Called by locust every second."""
        options = self.runner.environment.parsed_options if self.runner is not None else None
        limit = getattr(options, "run_time", None)
        status = watch.status
        if limit and self.get_run_time() > limit:  # type: ignore[no-untyped-call]  # likewise
            return None
        if not status:
            return 1, SPAWN_RATE  # the status has not been read yet
        state = status["state"]
        self._began = self._began or state not in (*ENDED, "idle")
        if self._began and state in ENDED:
            return None
        peak = getattr(options, "users", None) or PEAK
        return crowd_at(float(status["weight"]), peak), getattr(options, "spawn_rate", None) or SPAWN_RATE
