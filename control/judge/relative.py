"""The target held against the source: what each operation's trials say of the target being worse. Pure.

An absolute limit says nothing of a target that keeps it and is still far worse than the source: one that answers 404
to everything, that fails one operation in fifty whole, or that is ten times slower. So a trial's outcome is compared
with the source's own, by operation and by *signal* (a row of ``SIGNALS``).

*Worse* means p_T > rho₀ (p_S + δ): the target's share of bad trials is above rho₀ times the source's, with a margin
δ so that a source without any bad trial forgives a few. p_S is free: it may be another one in each block of time and
each operation. For points rho_j above rho₀, a block with n_T, n_S trials and k_T, k_S bad ones gives

    r_j    = (rho₀ n_T + n_S) / (rho_j n_T + n_S)
    ln e_j = k_T ln(rho_j/rho₀) + (k_T + k_S) ln r_j + δ n_S (r_j - 1)
    S_j ← max(0, S_j + min(ln e_j / φ, CAP))

Given n_T and n_S, E[e_j] is at most 1 for independent trials of a target that is not worse (1 + x ≤ exp x; equality
for Poisson counts at the boundary). So the mean over j of exp S_j is an e-detector (Shin, Ramdas, Rinaldo 2022): at a
bar C its average run length to a false alarm is at least C looks. Where both arms are sick alike it gives nothing.
Operations are strata: what is pooled over operations is the ln e_j and not the counts, so two arms with different
mixes of operations do not look different.

*Bursts.* Failures come together: a dependency is away for a second, one page loads eight things. φ says how much
burstier than chance they came so far (``control.judge.bursts``), and one look adds at most CAP, a third of what
fires. The recent trials must be above the limit too, or a burst long over would be found when it is.

*No worse* is proven by the same formula with rho_j below rho₁, against H₀: p_T ≥ rho₁ (p_S + δ), and never reset.

Arrays have a run on their first axis: a judge has one run, and a simulation thousands.

The verdict does not read this yet: ``control.judge.evidence`` decides. ``tests/core/test_relative.py`` shows what it
finds and what it leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from control.judge.evidence import FIRE, POINTS

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RHO_WORSE: Final = 1.25  # rho₀, where no other is asked for
RHO_PROOF: Final = 1.5  # rho₁
CAP: Final = FIRE / 3
LEAST_TARGET: Final = 1  # trials in a block
LEAST_SOURCE: Final = 4
RECENT_HALF_LIFE_S: Final = 15.0  # of the recent trials: about those of the last half minute
LEAST_PROVEN: Final = 100  # target trials of one operation, below which nothing is said of it

SOURCE, TARGET = 0, 1


class Signal(NamedTuple):
    """What a trial can be bad by. ``expected`` is the share that is bad at the source where that is known."""

    rule: str  # in verdicts
    label: str  # for a person
    margin: float  # δ
    expected: float
    quantile: float  # of the source, that makes a trial slow; 0: the signal is not about time
    did: str  # what bad trials did, in a reason


SIGNALS: Final = (
    Signal("relative_errors", "Errors beside the source", 0.005, 0.0, 0.0, "failed"),
    Signal("relative_status", "4xx beside the source", 0.005, 0.0, 0.0, "answered 4xx"),
    Signal("abandoned", "Abandoned waits", 0.005, 0.0, 0.0, "were abandoned before an answer"),
    Signal("relative_p75", "p75 beside the source", 0.01, 0.25, 0.75, "were slow"),
    Signal("relative_p95", "p95 beside the source", 0.005, 0.05, 0.95, "were slow"),
    Signal("relative_p99", "p99 beside the source", 0.005, 0.01, 0.99, "were slow"),
)
ERRORS: Final = 0
STATUS: Final = 1
ABANDONED: Final = 2
DEFAULT_RHOS: Final = (RHO_WORSE,) * len(SIGNALS)


def worse_points(signal: Signal, rho: float) -> Floats:
    """The rho_j above rho₀: up to the one at which nearly every trial of the target is bad."""
    most = 1.0 / (signal.expected + signal.margin)
    return np.geomspace(min(1.3 * rho, 0.6 * most), max(0.95 * most, 1.35 * rho), POINTS)


def better_points() -> Floats:
    """The rho_j below rho₁."""
    return np.geomspace(0.02 * RHO_PROOF, 0.8 * RHO_PROOF, POINTS)


def log_ratio(made: Any, bad: Any, margin: float, points: Floats, rho: float) -> Floats:
    """ln e_j of blocks. ``made`` and ``bad`` are (source, target) arrays of a shape; the result has an axis more."""
    n_s, n_t = (np.asarray(each, float)[..., None] for each in made)
    k_s, k_t = (np.asarray(each, float)[..., None] for each in bad)
    r = (rho * n_t + n_s) / np.maximum(points * n_t + n_s, 1e-12)
    r = np.where(n_t + n_s > 0, r, 1.0)
    result: Floats = k_t * np.log(points / rho) + (k_t + k_s) * np.log(r) + margin * n_s * (r - 1)
    return result


def log_mean(logs: Floats) -> Floats:
    """ln of the mean of exp over the last axis."""
    top = logs.max(axis=-1, keepdims=True)
    mean: Floats = np.squeeze(top, -1) + np.log(np.exp(logs - top).mean(axis=-1))
    return mean


class Comparison:
    """The detectors of every operation and signal, and the proofs, of ``runs`` rollouts beside each other."""

    def __init__(self, operations: int, rhos: Sequence[float] = DEFAULT_RHOS, runs: int = 1) -> None:
        """``rhos``: rho₀ of each signal; 0: it is not compared."""
        self._rhos = tuple(rhos)
        self._worse = [
            worse_points(signal, rho or RHO_WORSE) for signal, rho in zip(SIGNALS, self._rhos, strict=True)
        ]
        self._better = better_points()
        shape = (runs, 2, operations, len(SIGNALS))
        self._block_made, self._block_bad = np.zeros(shape), np.zeros(shape)
        self.recent_made, self.recent_bad = np.zeros(shape), np.zeros(shape)
        self.made, self.bad = np.zeros(shape), np.zeros(shape)  # since the soak began
        self._by_operation = np.zeros((runs, operations, len(SIGNALS), POINTS))
        self._pooled = np.zeros((runs, len(SIGNALS), POINTS))
        self._proofs = np.zeros((runs, len(SIGNALS), POINTS))

    def begin(self) -> None:
        """A new weight: its proof begins anew, and what is suspected stays suspected."""
        self._proofs[:] = 0
        self.made[:] = 0
        self.bad[:] = 0
        self._block_made[:] = 0
        self._block_bad[:] = 0

    def forget(self) -> None:
        """A lower weight: what led to it has had its effect."""
        self.begin()
        for each in (self._by_operation, self._pooled, self.recent_made, self.recent_bad):
            each[:] = 0

    def after(self, made: Floats, bad: Floats, elapsed_s: float, phi: Floats | None = None) -> None:
        """Count another look's trials. ``made`` and ``bad``: (runs, 2, operations, signals); ``phi``: (runs,)."""
        fade = 0.5 ** (elapsed_s / RECENT_HALF_LIFE_S)
        for total, new in ((self.recent_made, made), (self.recent_bad, bad)):
            total *= fade
            total += new
        self.made += made
        self.bad += bad
        self._block_made += made
        self._block_bad += bad
        for s, signal in enumerate(SIGNALS):
            if self._rhos[s]:
                self._close_blocks(s, signal, np.ones(len(made)) if phi is None or s != ERRORS else phi)

    def _close_blocks(self, s: int, signal: Signal, phi: Floats) -> None:
        n, k = self._block_made[..., s], self._block_bad[..., s]
        # A failure may come after its request's block was closed: an answer that breaks off. It is not left out.
        ready = ((n[:, TARGET] >= LEAST_TARGET) | (k[:, TARGET] > 0)) & (n[:, SOURCE] >= LEAST_SOURCE)
        run, operation = np.nonzero(ready)
        if not run.size:
            return
        made = n[run, SOURCE, operation], n[run, TARGET, operation]
        bad = k[run, SOURCE, operation], k[run, TARGET, operation]
        step = log_ratio(made, bad, signal.margin, self._worse[s], self._rhos[s])
        own = self._by_operation[run, operation, s]
        self._by_operation[run, operation, s] = _climbed(own, step / phi[run, None])
        pooled = np.zeros((len(phi), POINTS))
        np.add.at(pooled, run, step)
        self._pooled[:, s] = _climbed(self._pooled[:, s], pooled / phi[:, None])
        proof = log_ratio(made, bad, signal.margin, self._better, RHO_PROOF)
        np.add.at(self._proofs[:, s], run, proof)
        for block in (self._block_made, self._block_bad):
            block[run, :, operation, s] = 0

    # What it says.

    @property
    def active(self) -> tuple[int, ...]:
        """The signals that are switched on, by their places in ``SIGNALS``."""
        return tuple(s for s, rho in enumerate(self._rhos) if rho)

    def allowed(self, s: int) -> Floats:
        """(runs, operations): the share of the target's recent trials that may be bad, beside the source's."""
        return self._rhos[s] * (_share(self.recent_bad, self.recent_made, SOURCE, s) + SIGNALS[s].margin)

    def suspicion(self) -> tuple[Floats, Floats]:
        """(runs, signals) of all operations together, and (runs, operations, signals): ln of the evidence."""
        return log_mean(self._pooled), log_mean(self._by_operation)

    def by_operation(self) -> Floats:
        """(runs, operations, signals): the evidence against the target, where its recent trials are bad too."""
        found = self.suspicion()[1]
        for s in self.active:
            over = _share(self.recent_bad, self.recent_made, TARGET, s) > self.allowed(s)
            found[..., s] = np.where(over, found[..., s], 0.0)
        return found

    def pooled(self) -> Floats:
        """(runs, signals): the same of all operations together."""
        return np.where(self.over(), self.suspicion()[0], 0.0)

    def over(self) -> Bools:
        """(runs, signals): whether more of the target's recent trials are bad than the source's lets expect."""
        made = self.recent_made[:, TARGET]
        allowed = np.stack([self.allowed(s) for s in range(len(SIGNALS))], axis=-1)
        expected = (made * allowed).sum(axis=1)
        result: Bools = self.recent_bad[:, TARGET].sum(axis=1) > expected
        return result

    def proof(self) -> Floats:
        """(runs, signals): ln of the evidence that the target is no worse than rho₁ times source and margin."""
        return log_mean(self._proofs)

    def compared(self, s: int) -> Bools:
        """(runs,): whether there were trials of both arms to compare."""
        both: Bools = self.made[:, :, :, s].sum(axis=2).min(axis=1) > 0
        return both


def _climbed(scores: Floats, step: Floats) -> Floats:
    return np.maximum(0.0, scores + np.minimum(step, CAP))


def _share(bad: Floats, made: Floats, arm: int, s: int) -> Floats:
    result: Floats = bad[:, arm, :, s] / np.maximum(made[:, arm, :, s], 1.0)
    return result


# Many streams.

ABSOLUTE_WEIGHT: Final = 1 / 3
POOLED_WEIGHT: Final = 1 / 3
OPERATION_WEIGHT: Final = 1 / 3


def mean_evidence(absolute: Floats, pooled: Floats, by_operation: Floats) -> Floats:
    """ln of the weighted mean of all streams' evidence, by run: a mean of e-detectors is one.

    (runs, rules), (runs, signals), (runs, operations, signals). However many operations there are, there are no more
    false alarms: sixteen cost a stream that is alone ln 240, which is about two failures.
    """
    flat = by_operation.reshape(len(by_operation), -1)
    streams = [
        each + math.log(weight / each.shape[1])
        for each, weight in (
            (absolute, ABSOLUTE_WEIGHT),
            (pooled, POOLED_WEIGHT),
            (flat, OPERATION_WEIGHT),
        )
    ]
    joined = np.concatenate(streams, axis=1)
    top = joined.max(axis=1)
    total: Floats = top + np.log(np.exp(joined - top[:, None]).sum(axis=1))
    return total
