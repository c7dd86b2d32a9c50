"""The load of phase *initial*: ``locust -f loadtest/initial.py``, or ``phasegate loadtest --phase initial``."""

from loadtest.phases.users import PhaseUser


class InitialUser(PhaseUser):
    """A visitor while the migration is in phase *initial*."""

    phase = "initial"
