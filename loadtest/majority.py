"""The load of phase *majority*: ``locust -f loadtest/majority.py``, or ``phasegate loadtest --phase majority``."""

from loadtest.phases.users import PhaseUser


class MajorityUser(PhaseUser):
    """A visitor while the migration is in phase *majority*."""

    phase = "majority"
