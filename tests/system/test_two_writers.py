"""Two writers, one on each side, change other fields of one document at nearly the same time: both changes stand.

Real processes, the real emulator. By hand:
``PHASEGATE_PAIRS=1000 python -m pytest tests/system/test_two_writers.py -s``.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from tests.support import sides
from tests.support.datasite import PROJECT, DataSite, equal_by_both_walks
from tests.support.writers import Ledger

PAIRS: Final = int(os.environ.get("PHASEGATE_PAIRS", "40"))
APART_S: Final = 0.05  # at most, between the two
AT_ONCE: Final = 4  # pairs


def ask(site: DataSite, visitor: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Status and document of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    headers = {"x-user-id": visitor, "content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    document = json.loads(answer.read() or b"null")
    connection.close()
    return answer.status, document


def pair(site: DataSite, visitors: tuple[str, str], nth: int) -> tuple[str, dict[str, object]]:
    """One document with two writers; its id, and what was confirmed of it."""
    dice = random.Random(f"pair {nth}")
    status, scan = ask(site, visitors[0], "POST", "/api/scans", {"root": f"/{nth}"})
    assert status == 201, scan
    path = f"/api/scans/{scan['id']}"
    deadline = time.monotonic() + 60
    while ask(site, visitors[1], "GET", path)[0] != 200:  # until the target has it
        assert time.monotonic() < deadline, path
        time.sleep(0.01)
    changes: list[dict[str, object]] = [{"message": f"m{nth}"}, {"progress": float(dice.randint(1, 99))}]
    dice.shuffle(changes)
    confirmed: dict[str, object] = {}

    def write(side: int, delay: float) -> None:
        time.sleep(delay)
        status, told = ask(site, visitors[side], "PATCH", path, changes[side])
        if status == 200:
            confirmed.update(changes[side])
        else:
            assert status == 503, told

    first = dice.randrange(2)
    apart = dice.uniform(0, APART_S)
    threads = [threading.Thread(target=write, args=(side, 0.0 if side == first else apart)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return scan["id"], confirmed


@pytest.mark.parametrize("writes", ["arm", "source"])
def test_changes_of_two_fields_by_two_writers_both_stand(data_site: DataSite, writes: str) -> None:
    data_site.serve(more=f'writes = "{writes}"')
    data_site.begin()
    visitors = data_site.visitor("old"), data_site.visitor("new")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = dict(pool.map(lambda nth: pair(data_site, visitors, nth), range(PAIRS)))
    assert all(len(confirmed) == 2 for confirmed in results.values())  # nothing was refused: nothing failed
    data_site.settle()
    wrong = equal_by_both_walks(data_site, Ledger())
    for side in (
        sides.mock(data_site.folder / "run" / "shop.mock.journal"),
        sides.firestore(data_site.emulator.address, PROJECT),
    ):
        for scan, confirmed in results.items():
            stored = side[f"scans/{scan}"]
            wrong += [
                f"{scan}: {n}: {stored.get(n)!r}, confirmed {v!r}" for n, v in confirmed.items() if stored[n] != v
            ]
    assert not wrong, f"{len(wrong)} wrong of {PAIRS} pairs\n" + "\n".join(wrong[:30])
