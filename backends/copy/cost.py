"""What a copy, compare or repair costs where Firestore is asked, told before it runs. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

# Dollars for 100,000, of the multi-regions nam5 and eur3; a single region costs about half.
# From https://cloud.google.com/firestore/pricing, in November 2026.
READ_USD: Final = 0.06
WRITE_USD: Final = 0.18
PER: Final = 100_000


class Cost(NamedTuple):
    """Operations that are billed."""

    reads: int
    writes: int

    @property
    def usd(self) -> float:
        """What they cost, to the tenth of a cent, without the free quota."""
        return round((self.reads * READ_USD + self.writes * WRITE_USD) / PER, 3)


def estimate(kind: str, sizes: tuple[int, int], billed: tuple[bool, bool], sample: int | None = None) -> Cost:
    """Of a task of ``kind`` over ``sizes`` documents of source and target, each of which is ``billed`` or not.

    A copy writes what the target has fewer of. A compare reads both sides once; what differs is read again, which
    nobody knows before. A repair is a compare, and writes what differs: not known before.
    """
    seen = sizes if sample is None else (min(sample, sizes[0]), min(sample, sizes[1]))
    reads = sum(size for size, costs in zip(seen, billed, strict=True) if costs)
    writes = max(0, sizes[0] - sizes[1]) if kind == "copy" and billed[1] else 0
    return Cost(reads, writes)
