"""How much burstier than chance failures come: the φ by which evidence from failures is divided. Pure.

Neighbouring windows of one length are compared in pairs. Where failures come by chance at a steady rate, the squared
difference of two windows' failures is on average what their counts let expect:

    φ = Σ (k₁ n₂ - k₂ n₁)² / (n₁ + n₂)²  ÷  Σ (k₁ + k₂) n₁ n₂ / (n₁ + n₂)²

is 1 then, and m where m fail together. A lasting change of the rate touches one pair only. The worst of four lengths
counts. Only looks older than half a minute have a say: what is being judged does not decide how strictly it is.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LENGTHS: Final = (1, 4, 20, 60)  # of a window, in looks of 0.25 s: 0.25, 1, 5 and 15 s
DELAY: Final = 120  # looks
PRIOR: Final = 2.0  # added to both sums: with few failures the ratio is near 1
MOST: Final = 30.0
KNOWN_AFTER: Final = 720  # looks, three minutes: with less nothing is known of how failures come
FORGIVEN: Final = 3.0  # failures by which a target may exceed its margin, and its own burstiness counts still
FADE: Final = 0.999  # by look, of the traffic by which the arms' burstiness is compared


class Burstiness:
    """φ of one arm's failures, for ``runs`` rollouts beside each other."""

    def __init__(self, runs: int = 1) -> None:
        self._waiting: deque[tuple[Floats, Floats]] = deque()
        self._sums = {length: np.zeros((2, runs)) for length in LENGTHS}
        self._before: dict[int, Floats | None] = dict.fromkeys(LENGTHS)
        self._unexpected = {length: np.full(runs, PRIOR) for length in LENGTHS}
        self._expected = {length: np.full(runs, PRIOR) for length in LENGTHS}
        self.looks = 0
        self.phi = np.ones(runs)

    def after(self, made: Floats, failed: Floats) -> None:
        """Another look's requests and failures, (runs,) each."""
        self._waiting.append((made, failed))
        if len(self._waiting) <= DELAY:
            return
        look = np.stack(self._waiting.popleft())
        self.looks += 1
        closed = False
        for length in LENGTHS:
            self._sums[length] += look
            if self.looks % length == 0:
                closed |= self._close(length)
        if closed:
            ratios = [self._unexpected[length] / self._expected[length] for length in LENGTHS]
            self.phi = np.clip(np.max(ratios, axis=0), 1.0, MOST)

    def _close(self, length: int) -> bool:
        """A window has ended; whether it was the second of a pair."""
        now, before = self._sums[length], self._before[length]
        self._sums[length] = np.zeros_like(now)
        if before is None:
            self._before[length] = now
            return False
        self._before[length] = None
        (n1, k1), (n2, k2) = before, now
        squared = np.maximum(n1 + n2, 1.0) ** 2
        self._unexpected[length] += (k1 * n2 - k2 * n1) ** 2 / squared
        self._expected[length] += (k1 + k2) * n1 * n2 / squared
        return True


class Bursts:
    """φ of both arms, and the one that the target's evidence is divided by."""

    def __init__(self, ratio: float, margin: float, runs: int = 1) -> None:
        """The target's own burstiness counts while it fails at most ``ratio`` x (the source's share + ``margin``)."""
        self._ratio, self._margin = ratio or 1.0, margin
        self._arms = (Burstiness(runs), Burstiness(runs))
        self._recent = np.zeros((2, runs))
        self._made, self._failed = np.zeros((2, runs)), np.zeros((2, runs))

    def after(self, made: Floats, failed: Floats) -> None:
        """Another look's requests and failures of (source, target): (2, runs) each."""
        for arm, each in enumerate(self._arms):
            each.after(made[arm], failed[arm])
        self._recent = self._recent * FADE + made
        self._made += made
        self._failed += failed

    def begin(self) -> None:
        """A new weight: how much the target fails is counted anew."""
        self._made[:] = 0
        self._failed[:] = 0

    @property
    def known(self) -> bool:
        """Whether there was history enough to know how the source's failures come."""
        return self._arms[0].looks + DELAY >= KNOWN_AFTER

    @property
    def phi(self) -> Floats:
        """(runs,): what the target's evidence from errors is divided by.

        The source's, for as many requests as the target has: of a burst that hits ten at the source, a target with a
        tenth of its traffic sees one.
        """
        source, target = (arm.phi for arm in self._arms)
        share = np.minimum(1.0, self._recent[1] / np.maximum(self._recent[0], 1.0))
        lent = 1 + (source - 1) * share
        expected = self._ratio * self._made[1] * (self._failed[0] / np.maximum(self._made[0], 1) + self._margin)
        keeps = self._failed[1] <= expected + FORGIVEN
        result: Floats = np.maximum(np.where(keeps, target, 1.0), lent)
        return result
