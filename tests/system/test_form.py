"""A served phasegate runs in the form that its packages were found in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatch_build import GROUP
from proxy.process.form import form


def test_the_workers_run_the_form_that_is_told(serving: Callable[..., Any], emulated: str) -> None:
    running = serving(emulated, [("half", 50, "10m")])
    wanted = os.environ.get("PHASEGATE_FORM", "plain Python")

    told = running.phasegate("--version").stdout
    pids = [worker.pid for worker in running.client.status().workers]

    assert form() == wanted
    assert told.strip().endswith(f"data plane: {wanted}")
    assert pids
    for pid in pids:
        assert (GROUP in Path(f"/proc/{pid}/maps").read_text()) == (wanted == "compiled")
