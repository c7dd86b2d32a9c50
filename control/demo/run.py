"""Runs the demo: a whole migration without any setup, and a check of its outcome.

Starts a small app, the Firestore emulator, phasegate exactly as ``phasegate serve`` does, and a stream of requests.
Goes through all phases, then compares the client's counts with phasegate's. Every child process is ended, however the
demo ends.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from control.api.unanswered import ApiError
from control.demo.children import ENDING, Children
from control.demo.promises import promises
from control.demo.stage import DemoError, DemoStage
from control.demo.traffic import Traffic
from control.report.nextstep import next_line
from control.rollout.model import State
from control.terminal.exits import GATE, INTERRUPTED, OK, ROLLED_BACK, UNREACHABLE, USAGE, Stop
from control.terminal.follow import follow
from control.terminal.tables import print_judged, print_report

PROXY_PORT: Final = 8080  # tried first, so that the address is usually the same
CONTROL_PORT: Final = 9090
PORT_MAX: Final = 65535


def demo(
    *,
    once: bool,
    phase_seconds: float,
    listen: str | None,
    control: str | None,
    rate: float,
    workers: int,
    report: str | None,
) -> int:
    """Run the demo and return the exit code: 0 only where every check of the outcome passed."""
    listens = _address(listen, PROXY_PORT), _address(control, CONTROL_PORT)
    folder = Path(tempfile.mkdtemp(prefix="phasegate-demo-"))
    code = GATE
    try:
        with _ended_by_signals(), Children(folder) as children:
            stage = DemoStage(children, folder, phase_seconds, *listens, workers)
            code = _walk(stage, once, rate, report)
    except DemoError as error:
        print(f"phasegate demo: {error}", file=sys.stderr)
    except ApiError as error:
        print(f"phasegate demo: {error}", file=sys.stderr)
        code = UNREACHABLE
    except KeyboardInterrupt:
        print("Ended; every part of the demo has been stopped.", flush=True)
        code = INTERRUPTED
    if code in (OK, INTERRUPTED):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"The parts' logs are in {folder}", file=sys.stderr)
    return code


def _walk(stage: DemoStage, once: bool, rate: float, report: str | None) -> int:
    """Start everything, follow the migration, print the report and check the outcome."""
    _say("Starting the app and the Firestore emulator …")
    stage.emulator()
    config = stage.config(stage.app())
    phasegate = stage.serve(config)
    stage.warm_up()
    stage.settle(phasegate)
    _say(f"Proxy      http://{stage.listen}")
    _say(f"Dashboard  http://{stage.control}/admin/migration")
    _say(f"Token      {stage.token}")
    _say(f"Next       {next_line(stage.client.status())}")
    _say(stage.copy())
    _say(f"Next       {next_line(stage.client.status())}")
    traffic = Traffic(stage.children, stage.listen, rate)
    started = stage.client.act("start", reason="the demo")
    state = follow(stage.client, may_act=True, known=started, may_detach=False, note=traffic.note)
    wire = traffic.end() if once else traffic.counts
    run_report = stage.client.report()
    if report is not None:
        Path(report).write_bytes(msgspec.json.format(msgspec.json.encode(run_report), indent=2) + b"\n")
    print_report(run_report)
    if once:
        checks = promises(run_report, ("mock", "firestore"), stage.counters(), wire)
        print_judged((each.held, each.name, each.evidence) for each in checks)
        held = all(each.held for each in checks)
        return OK if held else ROLLED_BACK if state is not State.COMPLETED else GATE
    _say(f"Everything keeps running: http://{stage.listen}, http://{stage.control}/admin/migration. Ctrl-C ends it.")
    while True:
        signal.pause()


def _say(line: str) -> None:
    print(line, flush=True)


def _address(option: str | None, usual: int) -> str:
    """The address to listen on: the option's, or else the usual port if it is free, or else any (port 0)."""
    if option is not None:
        host, _, port = option.rpartition(":")
        if not host or not port.isdigit() or int(port) > PORT_MAX:
            raise Stop(USAGE, f"{option!r} is not an address: expected HOST:PORT, such as 127.0.0.1:{usual}")
        return option
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", usual))
        return f"127.0.0.1:{usual}"
    return "127.0.0.1:0"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, and Ctrl-C too where the shell made it ignored."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
