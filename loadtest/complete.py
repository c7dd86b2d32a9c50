"""The load of phase *complete*: ``locust -f loadtest/complete.py``, or ``phasegate loadtest --phase complete``."""

from loadtest.phases.users import PhaseUser


class CompleteUser(PhaseUser):
    """A visitor while the migration is in phase *complete*."""

    phase = "complete"
