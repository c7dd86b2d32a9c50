"""The load of phase *half*: ``locust -f loadtest/half.py``, or ``phasegate loadtest --phase half``."""

from loadtest.phases.users import PhaseUser


class HalfUser(PhaseUser):
    """A visitor while the migration is in phase *half*."""

    phase = "half"
