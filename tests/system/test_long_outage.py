"""A long outage of the target with many changes waiting: nothing is lost, and the queue costs no memory.

By hand: ``PHASEGATE_QUEUED=200000 PHASEGATE_OUTAGE_S=1800 python -m pytest tests/system/test_long_outage.py -s``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
from typing import Final

import psutil

from tests.support.datasite import DataSite, equal_by_both_walks
from tests.support.writers import Ledger

QUEUED: Final = int(os.environ.get("PHASEGATE_QUEUED", "3000"))
OUTAGE_S: Final = float(os.environ.get("PHASEGATE_OUTAGE_S", "3"))
CLIENTS: Final = 8
MIB: Final = 2**20
# What a queue may take in a worker besides what the mock's own documents take, and besides the allocator's slack.
QUEUE_MIB: Final = 48


def post(site: DataSite, ledger: Ledger, name: str, count: int) -> None:
    """So many single events, each its own request, all acknowledged."""

    def run(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=120)
        with contextlib.closing(connection):
            headers = {"x-user-id": f"guest-{client}", "content-type": "application/json"}
            for nth in range(client, count, CLIENTS):
                event = {"id": f"e-{name}-{nth}", "user": f"u{nth % 50}", "type": "view", "item": f"i{nth % 20}"}
                connection.request("POST", "/api/analytics/events", json.dumps(event), headers)
                answer = connection.getresponse()
                told = answer.read()
                assert answer.status == 202, told
                ledger.events.add(event["id"])

    threads = [threading.Thread(target=run, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(event.startswith(f"e-{name}-") for event in ledger.events) == count, "every event was acknowledged"


def memory(site: DataSite) -> float:
    """The workers' resident memory, MiB."""
    return float(sum(psutil.Process(w.pid).memory_info().rss for w in site.client.status().workers)) / MIB


def test_a_long_outage_loses_nothing_and_its_queue_costs_no_memory(data_site: DataSite) -> None:
    site = data_site
    site.serve(workers=1, more='writes = "source"')
    site.begin()
    ledger = Ledger()
    post(site, ledger, "warm", QUEUED)  # so that what the mock itself takes by event is known
    site.settle()
    before = memory(site)
    post(site, ledger, "well", QUEUED)
    site.settle()
    well = memory(site) - before
    before = memory(site)
    site.emulator.signal(signal.SIGSTOP)
    began = time.monotonic()
    post(site, ledger, "outage", QUEUED)
    waiting = memory(site) - before
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began)))
    site.emulator.signal(signal.SIGCONT)
    back = time.monotonic()
    site.settle()
    caught_up = time.monotonic() - back
    told = (
        f"{QUEUED} events: {well:.0f} MiB while well, {waiting:.0f} MiB while the target was away "
        f"for {back - began:.0f} s; caught up in {caught_up:.0f} s"
    )
    print(told, flush=True)
    assert waiting <= well + QUEUE_MIB, told
    wrong = equal_by_both_walks(site, ledger)
    assert not wrong, f"{told}\n" + "\n".join(wrong[:30])
