"""When a child is restarted and when it is hung."""

from __future__ import annotations

from itertools import pairwise

from proxy.process.supervision import RestartHistory, after_death, is_hung


def test_a_steady_child_is_restarted_at_once() -> None:
    restart = after_death(RestartHistory(early_deaths=4), lived_s=60)
    assert restart.delay_s == 0
    assert restart.history == RestartHistory()


def test_a_first_death_is_no_reason_to_wait() -> None:
    assert after_death(RestartHistory(), lived_s=0.1).delay_s == 0


def test_a_child_that_keeps_dying_is_started_ever_later_and_for_ever() -> None:
    history, delays, loops = RestartHistory(), [], 0
    for _ in range(30):
        restart = after_death(history, lived_s=0.1)
        history = restart.history
        delays.append(restart.delay_s)
        loops += restart.looping
    assert all(a <= b for a, b in pairwise(delays))
    assert delays[-1] == 30
    assert loops == 1, "a crash loop is reported once, not at every turn"


def test_a_process_is_hung_by_its_last_sign_of_life_or_its_start() -> None:
    second = 1_000_000_000
    assert not is_hung(heartbeat_ns=95 * second, started_ns=0, now_ns=100 * second, limit_s=10)
    assert is_hung(heartbeat_ns=85 * second, started_ns=0, now_ns=100 * second, limit_s=10)
    # The row still holds the heartbeat of the process before it.
    assert not is_hung(heartbeat_ns=1 * second, started_ns=95 * second, now_ns=100 * second, limit_s=10)
