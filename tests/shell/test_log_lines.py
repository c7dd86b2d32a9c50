"""Whatever a process has to say, and whoever says it, comes out as one JSON object a line: real processes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.process.logs import VALUE_CHARS
from proxy.process.stray import KEEP_BYTES, READ_BYTES, Stray
from tests.support.loglines import lines

REPOSITORY = Path(__file__).parents[2]
HEAD = """
import asyncio, logging, os, sys, threading, warnings
import structlog
from proxy.process import logs
logs.configure("worker-0")
log = structlog.get_logger()
"""
SHOW = "log.warning('origin_unreachable', origin='a', reason=VALUE)"


def run(script: str, **to: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", HEAD + script]
    return subprocess.run(command, cwd=REPOSITORY, timeout=60, check=False, **({"stderr": subprocess.PIPE} | to))


def logged_by(script: str) -> list[dict[str, Any]]:
    found = lines(run(script).stderr.decode())
    assert all(line["process"] == "worker-0" for line in found)
    return found


SPEAKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a library": (
        "logging.getLogger('some.library').error('no %s', 'way')",
        {"event": "library_message", "level": "error", "logger": "some.library", "message": "no way"},
    ),
    "a library with an exception": (
        "try: 1 / 0\nexcept ZeroDivisionError: logging.getLogger('some.library').exception('it broke')",
        {"level": "error", "message": "it broke", "exception": "ZeroDivisionError: division by zero"},
    ),
    "a library whose words do not fit": (
        "logging.getLogger('some.library').warning('%d things', 'many')",
        {"level": "warning", "message": "%d things"},
    ),
    "a library with a level of its own": (
        "logging.getLogger('some.library').log(35, 'mind')",
        {"level": "warning", "message": "mind"},
    ),
    "Google's libraries, which hand nothing on": (
        "import google.api_core\nlogging.getLogger('google.auth').warning('no project')",
        {"logger": "google.auth", "message": "no project"},
    ),
    "a warning": ("warnings.warn('mind this')", {"logger": "py.warnings", "message": "UserWarning: mind this"}),
    "an exception that ends the process": (
        "raise ValueError('so\\nbe it')",
        {"event": "uncaught_exception", "where": "main thread", "exception": "ValueError: so\nbe it"},
    ),
    "a thread's exception": (
        "threading.Thread(target=lambda: 1 / 0, name='saver').start()",
        {"event": "uncaught_exception", "where": "thread saver", "exception": "ZeroDivisionError"},
    ),
    "an exception that cannot be raised": (
        "class Broken:\n  def __del__(self): 1 / 0\nBroken()",
        {"event": "uncaught_exception", "where": "__del__", "exception": "ZeroDivisionError"},
    ),
    **{
        f"a task that nobody waits for, on {loop}": (
            "async def fail(): 1 / 0\n"
            "async def main():\n  asyncio.create_task(fail())\n  await asyncio.sleep(0.01)\n"
            f"import {loop}\n{loop}.run(main())",
            {"logger": "asyncio", "message": "never retrieved", "exception": "ZeroDivisionError"},
        )
        for loop in ("asyncio", "uvloop")
    },
    "a loop's callback": (
        "import uvloop\nasync def main():\n"
        "  asyncio.get_running_loop().call_soon(lambda: 1 / 0)\n  await asyncio.sleep(0.01)\nuvloop.run(main())",
        {"logger": "asyncio", "level": "error", "exception": "ZeroDivisionError"},
    ),
    "an aiohttp handler": (
        "from aiohttp import ClientSession, web\n"
        "async def fail(request): 1 / 0\n"
        "async def main():\n"
        "  app = web.Application()\n  app.router.add_get('/', fail)\n"
        "  runner = web.AppRunner(app)\n  await runner.setup()\n"
        "  site = web.TCPSite(runner, '127.0.0.1', 0)\n  await site.start()\n"
        "  port = site._server.sockets[0].getsockname()[1]\n"
        "  async with ClientSession() as session, session.get(f'http://127.0.0.1:{port}/') as answer:\n"
        "    assert answer.status == 500\n"
        "  await runner.cleanup()\n"
        "asyncio.run(main())",
        {"logger": "aiohttp.server", "level": "error", "exception": "ZeroDivisionError"},
    ),
}


@pytest.mark.parametrize("speaker", SPEAKERS)
def test_whoever_speaks_it_is_one_line_of_the_log(speaker: str) -> None:
    script, expected = SPEAKERS[speaker]
    (line,) = logged_by(script)
    for field, value in expected.items():
        assert value in line[field], line


def test_without_the_log_set_up_those_lines_are_none_of_the_log() -> None:
    for speaker, (script, _) in SPEAKERS.items():
        bare = HEAD.replace('logs.configure("worker-0")', "")
        done = subprocess.run(
            [sys.executable, "-c", bare + script], cwd=REPOSITORY, stderr=subprocess.PIPE, check=False
        )
        assert done.stderr, speaker
        with pytest.raises((ValueError, AssertionError)):
            lines(done.stderr.decode())


def test_grpcs_core_tells_nothing_of_connections_that_end_as_they_should() -> None:
    script = (
        "import backends.kinds.firestore.channel\nimport grpc\n"
        "async def main():\n"
        "  server = grpc.aio.server()\n  port = server.add_insecure_port('127.0.0.1:0')\n  await server.start()\n"
        "  channel = grpc.aio.insecure_channel(f'127.0.0.1:{port}')\n"
        "  await channel.channel_ready()\n"
        "  call = channel.stream_stream('/a/b')()\n"
        "  await server.stop(None)\n  await channel.close()\n"
        "asyncio.run(main())"
    )
    assert run(script).stderr == b""
    assert run(script, env={**os.environ, "GRPC_VERBOSITY": "DEBUG"}).stderr != b"", "the same, asked to be told"


VALUES: dict[str, tuple[str, Any]] = {
    "lines": (r"'a\nb\r\n{\"event\":\"forged\"}'", 'a\nb\r\n{"event":"forged"}'),
    "a terminal's orders": (r"'\x1b[2J\x07\x7f\x9b2J'", "\x1b[2J\x07\x7f\x9b2J"),
    "what a reader takes for a line's end": (r"'a\x85b\u2028c\u2029d'", "a\x85b\u2028c\u2029d"),
    "marks of direction": (r"'a\u202eb\u2066c'", "a\u202eb\u2066c"),
    "what is no text": (r"'\udcff/x'", "\\udcff/x"),
    "bytes": (r"b'\xff'", r"b'\xff'"),
    "a large number": ("2**70", str(2**70)),
    "what cannot be shown": ("type('Mute', (), {'__str__': lambda self: 1 / 0})()", "<Mute>"),
    "a list": ("['a', 'b']", ["a", "b"]),
}


@pytest.mark.parametrize("value", VALUES)
def test_no_value_makes_a_line_of_its_own_or_acts_on_a_terminal(value: str) -> None:
    script, expected = VALUES[value]
    told = run(SHOW.replace("VALUE", script)).stderr.decode()
    assert told.count("\n") == 1
    assert told[:-1].isprintable()
    (line,) = lines(told)
    assert line["reason"] == expected


def test_a_long_value_loses_its_middle() -> None:
    (line,) = logged_by(SHOW.replace("VALUE", f"'a' + 'x' * {10 * VALUE_CHARS} + 'z'"))
    assert (line["reason"][0], line["reason"][-1]) == ("a", "z")
    assert VALUE_CHARS <= len(line["reason"]) < VALUE_CHARS + 100
    assert f"{9 * VALUE_CHARS + 2} characters left out" in line["reason"]


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed:
        done = run(f"{SHOW.replace('VALUE', '1')}\nprint('went on')", stderr=closed, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, b"went on\n")


def test_only_what_is_said_at_the_level_asked_for_is_logged() -> None:
    (line,) = logged_by(
        "logs.configure('worker-0', level=logging.WARNING)\nlog.info('reloading')\n" + SHOW.replace("VALUE", "1")
    )
    assert line["event"] == "origin_unreachable"


def at_terminal(script: str) -> str:
    """What a terminal is sent, as its bytes."""
    ours, theirs = pty.openpty()
    with open(theirs, "wb") as terminal:
        done = run(script, stderr=terminal)
    assert done.returncode == 0
    sent = b""
    while b"the end" not in sent:
        sent += os.read(ours, 65536)
    os.close(ours)
    return sent.decode()


def test_at_a_terminal_a_value_is_shown_and_never_acts() -> None:
    attack = r"'\x1b[2J\x9b2J\u202e\n12:00:00 [info     ] forged'"
    sent = at_terminal(
        f"{SHOW.replace('VALUE', attack)}\n"
        f"log.error('cannot_start', reason={attack.replace('n12', ' 12')})\n"
        f"try: raise ValueError({attack})\n"
        "except ValueError: log.exception('operation_failed', operation='x')\n"
        f"logging.getLogger({attack}).error({attack})\n"
        "log.info('reloading', text='the end')"
    )
    for order in ("\x1b[2J", "\x9b", "\u202e"):
        assert order not in sent
    assert sent.count(r"\x1b[2J") >= 4
    shown = [line for line in sent.splitlines() if "forged" in line]
    assert shown
    assert not [line for line in shown if line.startswith("12:00:00")]
    assert "ValueError" in sent
    assert "origin_unreachable" in sent


def test_what_a_child_writes_past_its_log_is_taken_once_and_in_order() -> None:
    stray = Stray()

    def write(text: str) -> None:
        subprocess.run(
            [sys.executable, "-c", f"import os; os.write(2, {text.encode()!r})"], stderr=stray.fd, check=True
        )

    assert stray.take() == ""
    write("one\n")
    write("two\n")
    assert stray.take() == "one\ntwo"
    assert stray.take() == ""
    os.write(stray.fd, b"x" * (KEEP_BYTES + 1))
    assert len(stray.take()) == READ_BYTES
    assert os.fstat(stray.fd).st_size == 0
    write("three\n")
    assert stray.take() == "three"
    stray.close()
