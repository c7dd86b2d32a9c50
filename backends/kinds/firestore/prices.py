"""What Firestore's operations cost: the list prices, in one place. Pure.

They differ by location and change: an estimate from this table is of the right size, not to the cent. Storage and
traffic are priced besides, and not here.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

SOURCE: Final = "https://cloud.google.com/firestore/pricing"
AS_OF: Final = "2026-11"  # when the prices were last held against that page
UNIT: Final = 100_000  # operations that a price is for

Location = Literal["multi-region", "region"]


class Price(NamedTuple):
    """US dollars for ``UNIT`` documents read, written or deleted, without the free quota of a day."""

    reads: float
    writes: float
    deletes: float


# Multi-regions (nam5, eur3) have one price. Regions differ: this is the lowest, for example us-central1.
PRICES: Final[dict[Location, Price]] = {
    "multi-region": Price(0.06, 0.18, 0.02),
    "region": Price(0.03, 0.09, 0.01),
}


def usd(reads: int = 0, writes: int = 0, deletes: int = 0, location: Location = "multi-region") -> float:
    """The price of so many operations, in US dollars."""
    price = PRICES[location]
    return (reads * price.reads + writes * price.writes + deletes * price.deletes) / UNIT
