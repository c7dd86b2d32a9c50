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


def estimate(
    kind: str, sizes: tuple[int, int], billed: tuple[bool, bool], sample: int | None = None, *, served: bool = False
) -> Cost:
    """Of a task of ``kind`` over ``sizes`` documents of source and target, each of which is ``billed`` or not.

    A copy writes what the target has fewer of, and beside traffic (``served``) reads that twice more at the source. A
    compare reads both sides once; what differs is read again, which nobody knows before. A repair is a compare, and
    writes what differs: not known before either. A sample reads each document once to find it and once to compare.
    """
    if sample is None:
        reads = sum(size for size, costs in zip(sizes, billed, strict=True) if costs)
    else:
        reads = 2 * sample * sum(billed)
    missing = max(0, sizes[0] - sizes[1]) if kind == "copy" else 0
    if served and billed[0]:
        reads += 2 * missing
    return Cost(reads, missing if billed[1] else 0)
