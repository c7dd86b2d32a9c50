"""The load of phase *early*: ``locust -f loadtest/early.py``, or ``phasegate loadtest --phase early``."""

from loadtest.phases.users import PhaseUser


class EarlyUser(PhaseUser):
    """A visitor while the migration is in phase *early*."""

    phase = "early"
