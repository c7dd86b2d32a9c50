"""docs/firestore.md says what each request costs, as counted on the wire before the real emulator."""

from __future__ import annotations

import re
from pathlib import Path

from backends.adapters.registry import BUILT_IN
from tests.support.costs import PAGE, READS, measure, tables, writes

PLACE = re.compile(r"<!-- figures: costs -->\n(.*?)<!-- end -->", re.DOTALL)


async def test_the_page_says_what_was_measured(emulator_address: str, emulated: str, tmp_path: Path) -> None:
    costs = await measure(emulator_address, emulated, tmp_path)
    (place,) = PLACE.findall(PAGE.read_text())
    written, measured = place.strip().splitlines(), tables(costs).splitlines()
    wrong = [(old, new) for old, new in zip(written, measured, strict=False) if old != new]
    assert wrong == [], "docs/firestore.md: (as it is written, as it was measured); run python -m tests.support.costs"
    assert len(written) == len(measured)


def test_every_read_and_write_has_a_row() -> None:
    rows = {reading.operation for reading in READS} | {request.operation.name for _, request in writes("")}
    assert rows == {each.name for adapter in BUILT_IN for each in adapter.operations if each.kind != "stream"}
