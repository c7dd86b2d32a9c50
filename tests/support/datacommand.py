"""``phasegate copy`` and ``compare`` as processes, over two mocks in a folder, with and without a control plane."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from backends.copy.calm import ArrivalLook
from backends.durations import encode_hook
from control.data.runner import TaskRunner, command
from control.data.state import AskedTask, task_orders
from control.lead.datakeeper import DataSetup
from control.plan.settings import Settings
from tests.support.patience import WITHIN_S
from tests.support.played_task import PlayedData

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = """
[app]
origin = "http://127.0.0.1:1"
[proxy]
run_dir = {run_dir}
[backends.old]
kind = "mock"
fixtures = {old}
[backends.new]
{target}
[backends.site]
kind = "http"
origin = "http://127.0.0.1:1"
[backends.other-site]
kind = "http"
origin = "http://127.0.0.1:2"
[migrations.phase6]
source = "old"
target = "new"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
phases = [{{ name = "half", weight = 50, min_soak = "1h" }}]
[migrations.web]
source = "site"
target = "other-site"
routes = ["/web/*"]
phases = [{{ name = "half", weight = 50, min_soak = "1h" }}]
[control]
listen = "127.0.0.1:0"
"""


class Said(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its JSON document, which must be all that it printed."""
        assert self.out, self.err
        return json.loads(self.out)


def nothing_waits() -> ArrivalLook:
    """No worker runs here, so there is no change that has not arrived."""
    now = time.monotonic()
    return ArrivalLook(now, now, now)


class DataFolder:
    """A configuration of two mocks. ``source`` and ``target`` are documents of their fixtures, by collection."""

    def __init__(self, folder: Path, source: dict[str, Any], target: dict[str, Any]) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.config = folder / "phasegate.toml"
        self._started: list[Process] = []
        for name, collections in (("old", source), ("new", target)):
            (folder / name).mkdir()
            for collection in ("scans", "analytics_events"):
                documents = collections.get(collection, {})
                (folder / name / f"{collection}.json").write_text(json.dumps(documents))
        self.configure()

    def configure(self, *, to_firestore: bool = False) -> None:
        """Write the configuration, from the mock to the other one or to a Firestore."""
        run_dir, old, new = (
            json.dumps(str(place)) for place in (self.run_dir, self.folder / "old", self.folder / "new")
        )
        firestore = 'kind = "firestore"\nproject = "demo-none"\ndeadline = "60s"'
        target = firestore if to_firestore else f'kind = "mock"\nfixtures = {new}'
        self.config.write_text(CONFIG.format(run_dir=run_dir, old=old, target=target))

    def setup(self, settings: Settings) -> DataSetup:
        """What a control plane keeps the data with: real tasks over the same folder."""
        plan = msgspec.json.encode(settings.plan(), enc_hook=encode_hook)

        def orders(asked: AskedTask) -> Any:
            return task_orders(asked, "phase6", plan, str(self.run_dir), 500)

        def runner() -> TaskRunner:
            return TaskRunner("phase6", nothing_waits, command(2))

        return PlayedData(every_s=0).setup()._replace(orders=orders, runner=runner)

    async def start(self, *args: str, **environment: str) -> Process:
        """``phasegate`` with these arguments, as a process under way."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PHASEGATE_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "control.cli",
            *args,
            "--config",
            str(self.config),
            cwd=ROOT,
            env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
            stdout=PIPE,
            stderr=PIPE,
        )
        self._started.append(process)
        return process

    async def ended(self, process: Process) -> Said:
        """Wait for a process's end."""
        async with asyncio.timeout(WITHIN_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Said(process.returncode, out.decode(), err.decode())

    async def phasegate(self, *args: str, **environment: str) -> Said:
        """``phasegate`` with these arguments, to its end."""
        return await self.ended(await self.start(*args, **environment))

    async def close(self) -> None:
        """End what is still under way."""
        for process in self._started:
            if process.returncode is None:
                process.kill()
                await process.wait()
