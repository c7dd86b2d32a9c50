"""Who works little goes before the load, and who does not queues with everyone for a while."""

from __future__ import annotations

from control.lead.priority import LIGHT, NICENESS, ORDINARY_FOR_S, Priority


def test_one_that_works_little_goes_before_the_load() -> None:
    priority = Priority(0)
    assert [priority.deserved(LIGHT, 1.0, now) for now in (1.0, 2.0, 3.0)] == [NICENESS] * 3


def test_one_that_does_not_queues_with_everyone_until_it_has_worked_little_for_long_enough() -> None:
    priority = Priority(5)
    assert priority.deserved(LIGHT * 2 + 0.01, 2.0, 10.0) == 5
    assert priority.deserved(0.0, 1.0, 11.0) == 5
    assert priority.deserved(1.0, 1.0, 12.0) == 5
    assert priority.deserved(0.0, 1.0, 12.0 + ORDINARY_FOR_S - 0.1) == 5
    assert priority.deserved(0.0, 1.0, 12.0 + ORDINARY_FOR_S) == NICENESS
