"""The terminal's view of a migration: a live picture where there is a terminal, plain lines where there is none.

``follow``: one thread receives events, one carries out what a key asked for, and the caller's draws and reads keys.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from control.api.client import ApiError, Client, Event, Refused, Unreachable
from control.report.wording import Json, audit_line, changes

ENDED: Final = frozenset({"completed", "rolled_back", "aborted"})
RECONNECT_S: Final = 0.5
DRAW_EVERY_S: Final = 0.1
LOG_LINES: Final = 6
SAMPLES: Final = 60
EVENTS_MAX: Final = 1000
_KEYS: Final = {"r": "rollback", "a": "abort", "p": "pause"}


def print_status(status: Json) -> None:
    """A status for a person, once."""
    from rich.console import Console

    from control.terminal.picture import picture

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(picture(console, status))
        return
    with console.capture() as drawn:
        console.print(picture(console, status))
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


# Following


class _Seen:
    """What has been received: the newest status, the log, and whether the control plane is in sight."""

    def __init__(self) -> None:
        self.status: Json | None = None
        self.lost = ""
        self.taken = 0
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.samples: deque[Json] = deque(maxlen=SAMPLES)
        self._under_way = False

    @property
    def ended(self) -> str | None:
        """The state in which the migration has ended; None while it has not."""
        state = self.status["state"] if self.status else None
        return state if state in ENDED or (state == "idle" and self._under_way) else None

    def take(self, event: Event | ApiError) -> list[str]:
        """Take in what was received, and give what is to be said of it in plain lines."""
        self.taken += 1
        if isinstance(event, Refused):
            raise event
        if isinstance(event, ApiError):
            said = (
                []
                if self.lost
                else [f"Lost sight of the control plane: {event.message}. Traffic goes on; trying again."]
            )
            self.lost = event.message
            return said
        said = ["The control plane is back."] if self.lost else []
        self.lost = ""
        if event.name == "status":
            said += changes(self.status, event.data)
            self.status = event.data
            self._under_way |= event.data["state"] != "idle"
        elif event.name == "sample":
            self.samples.append(event.data)
        elif event.name == "audit" and event.data["kind"] != "phase_left":  # that one is for the report
            self.log.append(audit_line(event.data))
        return said


def follow(
    client: Client, *, may_act: bool, may_detach: bool = True, note: Callable[[], str] | None = None
) -> str | None:
    """Show the migration until it has ended, and give its last state; None where the person detached.

    Keys act only where ``may_act``; ``note`` gives a line to show below. Where not ``may_detach``, Ctrl-C is the
    caller's. Raises ``Refused`` where the token does not do.
    """
    events: queue.Queue[Event | ApiError] = queue.Queue(EVENTS_MAX)
    ended = threading.Event()
    threading.Thread(target=_receive, args=(client, events, ended), daemon=True).start()
    try:
        if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            state = _follow_live(client, events, may_act, may_detach, note)
        else:
            state = _follow_lines(events)
    except KeyboardInterrupt:
        if not may_detach:
            raise
        state = None
    finally:
        ended.set()
    if state is None:
        print(f"Detached. {client.migration} goes on; `phasegate watch` follows it again.", flush=True)
    return state


def _receive(client: Client, events: queue.Queue[Event | ApiError], ended: threading.Event) -> None:
    """Put every event into the queue, connecting again for as long as it is wanted."""
    with contextlib.suppress(queue.Full):  # nobody draws any more
        while not ended.is_set():
            try:
                for event in client.events():
                    if ended.is_set():
                        return
                    events.put(event, timeout=60)
            except Refused as error:
                final = error.status in (401, 403, 404)
                events.put(error if final else Unreachable(error.message, error.hint), timeout=60)
                if final:
                    return
            except ApiError as error:
                events.put(error, timeout=60)
            ended.wait(RECONNECT_S)


def _follow_lines(events: queue.Queue[Event | ApiError]) -> str:
    seen = _Seen()
    while seen.ended is None:
        for line in seen.take(events.get()):
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
    return seen.ended


def _follow_live(
    client: Client,
    events: queue.Queue[Event | ApiError],
    may_act: bool,
    may_detach: bool,
    note: Callable[[], str] | None,
) -> str | None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from control.terminal.picture import picture

    seen, actor, console = _Seen(), _Actor(client), Console(highlight=False)
    drawn: object = None
    with _keys() as pressed, Live(console=console, auto_refresh=False) as live:
        while seen.ended is None or actor.busy:
            with contextlib.suppress(queue.Empty):
                seen.take(events.get(timeout=DRAW_EVERY_S))
                while True:
                    seen.take(events.get_nowait())
            for key in pressed():
                if key in ("d", "q") and may_detach:
                    return None
                if may_act and key in _KEYS and seen.status is not None:
                    paused = seen.status["state"] == "paused"
                    actor.ask("resume" if key == "p" and paused else _KEYS[key])
            if seen.status is None:
                live.update(Text(seen.lost or f"Waiting for {client.url} …"), refresh=True)
                continue
            noted = [note()] if note else []
            now = (seen.taken, actor.said, noted, console.size)
            if now == drawn:  # drawing costs 10 ms, and most tenths of a second bring nothing
                continue
            drawn = now
            lines = [*seen.log, *([seen.lost] if seen.lost else []), *noted]
            footer = _footer(seen.status, may_act, may_detach, actor.said)
            live.update(picture(console, seen.status, lines, footer, list(seen.samples)), refresh=True)
    return seen.ended


def _footer(status: Json, may_act: bool, may_detach: bool, said: str) -> str:
    pause = "resume" if status["state"] == "paused" else "pause"
    keys = f"[b]r[/b] roll back  [b]a[/b] abort  [b]p[/b] {pause}" if may_act else ""
    leave = "[b]d[/b] detach" if may_detach else "[b]Ctrl-C[/b] end"
    return "  ".join(part for part in (keys, leave, said) if part)


class _Actor:
    """Carries out one action at a time beside the drawing, and says how it went."""

    def __init__(self, client: Client) -> None:
        self.said = ""
        self._client = client
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an action is under way."""
        return self._thread is not None and self._thread.is_alive()

    def ask(self, action: str) -> None:
        """Begin an action; one that takes traffic back never waits behind another."""
        if self.busy and action not in ("rollback", "abort"):
            return
        self.said = f"[dim]{action} …[/dim]"
        self._thread = threading.Thread(target=self._carry_out, args=(action,), daemon=True)
        self._thread.start()

    def _carry_out(self, action: str) -> None:
        from rich.markup import escape

        try:
            self._client.act(action, reason="asked for at the terminal")
            self.said = ""
        except ApiError as error:
            self.said = f"[red]{action}: {escape(str(error))}[/red]"


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], list[str]]]:
    """Keys as they are pressed, where standard input is a terminal; the terminal is always given back as it was."""
    if not sys.stdin.isatty():
        yield list
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed() -> list[str]:
        ready, _, _ = select.select([fd], [], [], 0)
        return list(os.read(fd, 64).decode("utf-8", "ignore")) if ready else []

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
