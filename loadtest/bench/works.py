"""The works measured with wrk: pass-through with repeated and unique heads, data from memory, split and record."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from loadtest.bench.contenders import Running
from loadtest.bench.measuring import Bench, Turn, WrkRow, running
from loadtest.bench.wrk import BROWSER

IDENTITIES: Final = 64  # equal to the number of connections


def _all(bench: Bench, stack: ExitStack, names: list[str]) -> list[Running]:
    return [stack.enter_context(running(name, bench)) for name in names]


def pass_through(bench: Bench, names: list[str], reference: str) -> list[WrkRow]:
    """A small GET of the app's with a browser's nine fields on 64 keep-alive connections: one head, then many."""
    cookie = {"Cookie": BROWSER["Cookie"] + "; phasegate=%016x"}
    scripts = {
        "pass-through": bench.script("same", cookie, 1),
        "pass-through, 64 heads": bench.script("heads", cookie, IDENTITIES),
        "pass-through, no head twice": bench.script("unique", {**cookie, "X-Request-Id": "%032x"}),
    }
    rows = []
    with ExitStack() as stack:
        contenders = _all(bench, stack, names)
        for work, lua in scripts.items():
            turns = [Turn(contender.name, contender, "/", lua) for contender in contenders]
            rows += bench.rounds_of(work, turns, reference)
            # The other contenders parse every head anew, so different heads change only phasegate's cost.
            contenders = [each for each in contenders if each.name == reference or "phasegate" in each.name]
    return rows


def data(bench: Bench, names: list[str], reference: str) -> list[WrkRow]:
    """The dashboard's snapshot: phasegate splits, records and answers from memory; the others forward to the app."""
    cookie = {"Cookie": BROWSER["Cookie"] + "; phasegate=%016x"}
    scripts = {
        "data, key in the cookie": bench.script("data-cookie", cookie, IDENTITIES),
        "data, key in x-user-id": bench.script("data-user", {"X-User-Id": "user-%d"}, IDENTITIES),
    }
    rows = []
    with ExitStack() as stack:
        contenders = _all(bench, stack, names)
        for work, lua in scripts.items():
            turns = [Turn(contender.name, contender, "/api/dashboard/metrics", lua) for contender in contenders]
            rows += bench.rounds_of(work, turns, reference)
    return rows


def split(bench: Bench, beside: str | None = None) -> list[WrkRow]:
    """phasegate's own pass-through, with splitting and recording on (a relayed migration) and off (the app's).

    ``beside``: another contender whose splitting is compared too.
    """
    lua = bench.script("split", {"X-User-Id": "user-%d"}, IDENTITIES)
    with ExitStack() as stack:
        names = ["phasegate"] if beside is None else ["phasegate", beside]
        phasegate, *others = _all(bench, stack, names)
        turns = [Turn("off", phasegate, "/x", lua), Turn("on", phasegate, phasegate.relay_path, lua)]
        rows = bench.rounds_of("split and record", turns, "off")
        for other in others:
            turns = [Turn(each.name, each, each.relay_path, lua) for each in (other, phasegate)]
            rows += bench.rounds_of("split between two origins", turns, other.name)
        return rows
