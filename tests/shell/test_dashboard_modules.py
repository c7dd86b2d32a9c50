"""The dashboard's pure modules: their own tests, and that they agree with the state machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from control.rollout.machine import TRANSITIONS
from control.rollout.model import On, State

EVERYTHING = """
import { allowed } from "./control/dashboard/actions.js";
const phases = ["a", "b", "c"].map((name, i) => ({ name, weight: 10 + 40 * i, min_soak_s: 1, rollback_within_s: 1 }));
const found = {};
for (const state of STATES) {
  const status = { migration: "m", state, weight: 50, phases, verdict: { outcome: "hold" },
    phase: { index: 1, ...phases[1], soaked_s: 0 }, checkpoint: { resume_phase: "b" } };
  found[state] = allowed(status).map((each) => each.action);
}
console.log(JSON.stringify(found));
"""


def test_the_pages_pure_parts(repository: Path) -> None:
    command = ["node", "--test", "tests/shell/dashboard/"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_page_offers_nothing_that_the_state_machine_has_no_row_for(repository: Path) -> None:
    states = [state.value for state in State]
    script = EVERYTHING.replace("STATES", json.dumps(states))
    command = ["node", "--input-type=module", "-e", script]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60, check=True)
    offered = json.loads(done.stdout)
    assert offered.keys() == set(states)
    rows = {(row.state, row.on) for row in TRANSITIONS}
    strange = [(state, a) for state, found in offered.items() for a in found if (State(state), On(a)) not in rows]
    assert strange == []
    for state in (State.RUNNING, State.PAUSED, State.COMPLETED, State.ROLLED_BACK):
        assert "rollback" in offered[state.value], "the way back is always offered"
