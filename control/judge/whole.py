"""Whether a target that is rolled back fails whole, so that less traffic would not help it. Pure.

A breach goes one phase down where ``on_breach`` says so. From a target that is dead each phase on the way to the
start costs requests, the more the less traffic there is. So what surely fails whole goes to the start at once. Three
kinds of evidence say that it does, beside a breach by errors:

- Of its requests since its failing began, surely more than ``FAILING_SHARE`` failed. The beginning is where the
  CUSUM of the greatest alternative last stood at 0, as Page's test estimates it: what was good before does not dilute
  it. The count goes on over a rollback, or a target that gets few requests would never be sure between two breaches.
- The same of its copies of writes, where the source answers every write: they do not become fewer with its weight.
- It was suspected, was asked by phasegate itself, and answered none of that round's probes.
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

# Share of 1. That more than half fail would be said of a target that one phase down might still serve; at four fifths
# thirty failures in a row are needed, which at a few requests a second are three more phases on the way.
FAILING_SHARE: Final = 0.6
# Chance, at a target that fails no more than that share, of as many failures. Ten in a row are that sure; fewer can
# be one visitor's burst.
DOUBT: Final = 0.01
NEGLIGIBLE: Final = 1e-12  # a term of the sum so much smaller than the sum is left out, with all after it


class FailingRun(Struct, frozen=True):
    """The target's requests since its failing began, and how many of them failed."""

    score: float = 0.0  # the CUSUM; at 0 the run is over
    failed: float = 0.0
    requests: float = 0.0

    def after(self, failed: float, requests: float, per_failure: float, per_success: float) -> FailingRun:
        """The run after so many more; what each adds to the log-likelihood ratio."""
        score = self.score + failed * per_failure + (requests - failed) * per_success
        if score <= 0:
            return FailingRun()
        return FailingRun(score, self.failed + failed, self.requests + requests)


NO_FAILING: Final = FailingRun()


def surely_above(share: float, failed: int, requests: int, doubt: float = DOUBT) -> bool:
    """Whether the exact lower bound (Clopper-Pearson) of the failing share is at least ``share``.

    That is so where a target that fails just that share would show as many with a chance of ``doubt`` at most.
    """
    if requests <= 0 or failed / requests <= share:
        return False
    log = math.lgamma(requests + 1) - math.lgamma(failed + 1) - math.lgamma(requests - failed + 1)
    term = math.exp(log + failed * math.log(share) + (requests - failed) * math.log(1 - share))
    tail, odds = 0.0, share / (1 - share)
    for k in range(failed, requests + 1):  # the terms fall, for the failed are more than the share
        tail += term
        if tail > doubt or term < tail * NEGLIGIBLE:
            break
        term *= (requests - k) / (k + 1) * odds
    return tail <= doubt


def fails_whole(run: FailingRun, unanswered: bool, copies: FailingRun = NO_FAILING) -> str:
    """Why the target surely fails whole, in words; nothing where that is not sure."""
    failed, requests = int(run.failed), int(run.requests)
    if surely_above(FAILING_SHARE, failed, requests):
        return f"the target fails whole: {failed} of {requests} requests since it began to fail"
    failed, made = int(copies.failed), int(copies.requests)
    if surely_above(FAILING_SHARE, failed, made):
        return f"the target fails whole: {failed} of {made} copies of writes since they began to fail"
    if unanswered:
        return "the target fails whole: it answers no health check either"
    return ""
