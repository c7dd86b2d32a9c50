"""What surely fails whole: the bound against the binomial's own sum, and the count of a failing."""

from __future__ import annotations

import math
from itertools import product

import pytest

from control.judge.evidence import Bound, TargetWatch, Trials
from control.judge.whole import FAILING_SHARE, FailingRun, fails_whole, surely_above

BOUNDS = (Bound(0.05, beside_source=True, probed=True), Bound(0.01, beside_source=True, probed=False))
NOTHING = Trials(0, (0, 0))


def tail(share: float, failed: int, requests: int) -> float:
    terms = (math.comb(requests, k) * share**k * (1 - share) ** (requests - k) for k in range(failed, requests + 1))
    return sum(terms)


@pytest.mark.parametrize(("share", "doubt"), list(product((0.3, 0.6, 0.8), (0.05, 0.01, 0.001))))
def test_the_bound_is_the_binomials(share: float, doubt: float) -> None:
    for requests in range(41):
        for failed in range(requests + 1):
            expected = requests > 0 and failed / requests > share and tail(share, failed, requests) <= doubt
            assert surely_above(share, failed, requests, doubt) is expected


def test_many_requests_are_counted_as_well_as_few() -> None:
    assert surely_above(FAILING_SHARE, 610_000, 1_000_000)
    assert not surely_above(FAILING_SHARE, 600_100, 1_000_000)


def watched(*looks: tuple[int, int], watch: TargetWatch | None = None) -> TargetWatch:
    """A watch after looks of so many failed requests of so many."""
    watch = watch or TargetWatch.fresh(BOUNDS)
    for failed, requests in looks:
        watch = watch.after(Trials(requests, (failed, 0)), NOTHING, 0.25)
    return watch


def test_what_was_good_for_hours_does_not_dilute_a_failing() -> None:
    watch = watched(*[(0, 100)] * 1000, *[(2, 2)] * 6)
    assert fails_whole(watch.failing, unanswered=False) == (
        "the target fails whole: 12 of 12 requests since it began to fail"
    )


@pytest.mark.parametrize("looks", [[(0, 100)] * 50, [(2, 2)] * 3, [(3, 10)] * 100, [(5, 10)] * 100])
def test_what_is_good_or_bad_in_part_or_has_only_begun_to_fail_does_not_fail_whole(
    looks: list[tuple[int, int]],
) -> None:
    assert fails_whole(watched(*looks).failing, unanswered=False) == ""


def test_a_failing_goes_on_over_a_rollback_and_ends_with_answers() -> None:
    before = watched((6, 6))
    after = watched((6, 6), watch=TargetWatch.fresh(BOUNDS, before.failing))
    assert (after.failing.failed, after.failing.requests) == (12, 12)
    assert watched((0, 50), watch=after).failing == FailingRun()


def test_a_suspected_target_that_answers_no_probe_fails_whole_until_it_is_suspected_no_more() -> None:
    suspected = watched((4, 4)).after_probes(2, 2)
    assert fails_whole(suspected.failing, suspected.unanswered) == (
        "the target fails whole: it answers no health check either"
    )
    assert not watched((4, 4)).after_probes(1, 2).unanswered
    assert not watched((0, 500), watch=suspected).unanswered
