"""Writers on both arms while parts die: what was acknowledged is on both sides, once, and compare finds them equal.

Real processes, the real emulator. The suite makes a few rounds with short outages; by hand
``PHASEGATE_DATA_ROUNDS=100 PHASEGATE_OUTAGE_S=60 python -m pytest tests/system/test_both_sides.py -k rounds -s``, or
in parts beside each other with ``PHASEGATE_DATA_FIRST=50`` for the second: a round's number is its seed. Four rounds
share a site and its emulator, which answers more slowly the more it holds: a hundred on one would measure that.
The emulator keeps its documents in memory, so it is stopped (SIGSTOP) and its connections are cut, but not killed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from typing import Final

import pytest

from tests.support.datasite import DataSite, equal_by_both_walks
from tests.support.writers import PAUSE_S, Ledger, Writers

ROUNDS: Final = int(os.environ.get("PHASEGATE_DATA_ROUNDS", "3"))
FIRST: Final = int(os.environ.get("PHASEGATE_DATA_FIRST", "0"))
OUTAGE_S: Final = float(os.environ.get("PHASEGATE_OUTAGE_S", "3"))
WRITING_S: Final = 2.0  # in a round, around what is done to the processes
ON_A_SITE: Final = 4  # rounds
MOST_WRITES: Final = 300  # of one writer during an outage


def disturb(site: DataSite, what: str, dice: random.Random) -> None:
    """Do to the processes what a round does."""
    match what:
        case "kill one":
            site.kill_one_worker(dice)
        case "kill all":
            site.kill_everything()
            site.serve(site.workers)
        case "restart":
            site.stop()
            site.serve(site.workers)
        case "other workers":
            site.stop()
            site.serve(dice.choice([n for n in (1, 2, 3) if n != site.workers]))
        case "reload":
            assert site.process is not None
            site.process.send_signal(signal.SIGHUP)


DISTURBANCES: Final = ("kill one", "kill all", "restart", "other workers", "reload", "nothing")


@pytest.mark.parametrize("first", range(FIRST, FIRST + ROUNDS, ON_A_SITE))
def test_what_was_acknowledged_is_on_both_sides_once_after_rounds_of_kills_and_outages(
    data_site: DataSite, first: int
) -> None:
    site = data_site
    site.serve()
    site.begin()
    ledger = Ledger()
    for nth in range(first, min(first + ON_A_SITE, FIRST + ROUNDS)):
        dice = random.Random(f"round {nth}")
        what = DISTURBANCES[nth % len(DISTURBANCES)] if ROUNDS < 20 else dice.choice(DISTURBANCES)
        outage = dice.uniform(0.2, OUTAGE_S) if dice.random() < 0.8 else 0.0
        began, before = time.monotonic(), ledger.acknowledged
        with Writers(site.port, ledger, seed=nth, pause_s=max(PAUSE_S, outage / MOST_WRITES)):
            time.sleep(WRITING_S)  # the writers write: what a round is about
            if outage:
                site.emulator.signal(signal.SIGSTOP)
                over = threading.Timer(outage, site.emulator.signal, (signal.SIGCONT,))
                over.start()
            time.sleep(dice.uniform(0.0, min(outage, 3.0)))
            disturb(site, what, dice)
            if outage:
                over.join()
            time.sleep(WRITING_S)
        site.settle()
        wrong = equal_by_both_walks(site, ledger)
        took, acknowledged = time.monotonic() - began, ledger.acknowledged - before
        told = f"round {nth}: {what}, outage {outage:.1f} s, {acknowledged} acknowledged, {took:.0f} s"
        print(told, flush=True)
        assert not wrong, f"{told}: {len(wrong)} wrong\n" + "\n".join(wrong[:40])
        assert acknowledged > 20, f"{told}; by status {dict(ledger.answers)}"
