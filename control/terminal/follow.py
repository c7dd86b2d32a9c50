"""Follows a migration: a live picture at a terminal, plain lines elsewhere.

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

from control.api.client import ControlClient
from control.api.unanswered import ApiError, ApiRefused, Unreachable
from control.figures.documents import Sample
from control.lead.commands import Action
from control.lead.documents import EventDocument, Status
from control.report.wording import audit_line, changes
from control.rollout.model import State
from control.store.entry import AuditEntry

ENDED: Final = frozenset({State.COMPLETED, State.ROLLED_BACK, State.ABORTED})
RECONNECT_S: Final = 0.5
DRAW_EVERY_S: Final = 0.1
LOG_LINES: Final = 6
SAMPLES: Final = 60  # seconds of figures that are kept to be drawn
EVENTS_MAX: Final = 1000  # received and not drawn yet
PUT_WITHIN_S: Final = 60  # where nobody takes an event for that long, the view has ended
_KEYS: Final[dict[str, Action]] = {"r": "rollback", "a": "abort", "p": "pause"}
_TAKE_BACK: Final = ("rollback", "abort")


class _Followed:
    """What has been received: the newest status, the log, and whether the control plane answers."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.lost = ""
        self.taken = 0
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._under_way = False

    @property
    def ended(self) -> State | None:
        """The state in which the migration has ended; None while it has not."""
        state = self.status.state if self.status else None
        return state if state in ENDED or (state is State.IDLE and self._under_way) else None

    def take(self, event: EventDocument | ApiError) -> list[str]:
        """Take one event or failure; the plain lines to print for it."""
        self.taken += 1
        if isinstance(event, ApiRefused):
            raise event
        if isinstance(event, ApiError):
            news = f"The control plane does not answer: {event.message}. Traffic goes on; trying again."
            lines = [] if self.lost else [news]
            self.lost = event.message
            return lines
        lines = ["The control plane is back."] if self.lost else []
        if isinstance(event, Status) and not self.lost and self.status is not None and _older(event, self.status):
            return lines
        self.lost = ""
        match event:
            case Status():
                lines += changes(self.status, event)
                self.status = event
                self._under_way |= event.state is not State.IDLE
            case Sample():
                self.samples.append(event)
            case AuditEntry() if event.kind != "phase_left":  # its figures are in the report
                self.log.append(audit_line(event))
        return lines


def _older(status: Status, known: Status) -> bool:
    """Whether a status is of before ``known``: an action's answer may overtake the stream's last status."""
    return status.revision < known.revision


def follow(
    client: ControlClient,
    *,
    may_act: bool,
    known: Status | None = None,
    may_detach: bool = True,
    note: Callable[[], str] | None = None,
) -> State | None:
    """Show the migration until it has ended, and give its last state; None where the person detached.

    ``known`` is the status from which on it is followed, such as the answer to a start: a first phase may be over
    before the event stream is open. Keys act only where ``may_act``; ``note`` gives a line to show below. Where not
    ``may_detach``, Ctrl-C is the caller's. Raises ``ApiRefused`` where the token does not do.
    """
    events: queue.Queue[EventDocument | ApiError] = queue.Queue(EVENTS_MAX)
    if known is not None:
        events.put(known)
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


def _receive(client: ControlClient, events: queue.Queue[EventDocument | ApiError], ended: threading.Event) -> None:
    """Put every event into the queue; connect again after each failure until ``ended``."""
    with contextlib.suppress(queue.Full):
        while not ended.is_set():
            try:
                for event in client.events():
                    if ended.is_set():
                        return
                    events.put(event, timeout=PUT_WITHIN_S)
            except ApiRefused as error:
                final = error.status in (401, 403, 404)
                events.put(error if final else Unreachable(error.message, error.hint), timeout=PUT_WITHIN_S)
                if final:
                    return
            except ApiError as error:
                events.put(error, timeout=PUT_WITHIN_S)
            ended.wait(RECONNECT_S)


def _follow_lines(events: queue.Queue[EventDocument | ApiError]) -> State:
    view = _Followed()
    while view.ended is None:
        for line in view.take(events.get()):
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
    return view.ended


def _follow_live(
    client: ControlClient,
    events: queue.Queue[EventDocument | ApiError],
    may_act: bool,
    may_detach: bool,
    note: Callable[[], str] | None,
) -> State | None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from control.terminal.picture import picture

    view, actor, console = _Followed(), KeyActions(client), Console(highlight=False)
    drawn: object = None
    with _keys() as pressed, Live(console=console, auto_refresh=False) as live:
        while view.ended is None or actor.busy:
            with contextlib.suppress(queue.Empty):
                view.take(events.get(timeout=DRAW_EVERY_S))
                while True:
                    view.take(events.get_nowait())
            for key in pressed():
                if key in ("d", "q") and may_detach:
                    return None
                if may_act and key in _KEYS and view.status is not None:
                    paused = view.status.state is State.PAUSED
                    actor.ask("resume" if key == "p" and paused else _KEYS[key])
            if view.status is None:
                live.update(Text(view.lost or f"Waiting for {client.url} …"), refresh=True)
                continue
            noted = [note()] if note else []
            now = (view.taken, actor.message, noted, console.size)
            if now == drawn:  # drawing costs 10 ms, and most tenths of a second bring nothing
                continue
            drawn = now
            lines = [*view.log, *([view.lost] if view.lost else []), *noted]
            footer = _footer(view.status, may_act, may_detach, actor.message)
            live.update(picture(console, view.status, lines, footer, list(view.samples)), refresh=True)
    return view.ended


def _footer(status: Status, may_act: bool, may_detach: bool, message: str) -> str:
    pause = "resume" if status.state is State.PAUSED else "pause"
    keys = f"[b]r[/b] roll back  [b]a[/b] abort  [b]p[/b] {pause}" if may_act else ""
    leave = "[b]d[/b] detach" if may_detach else "[b]Ctrl-C[/b] end"
    return "  ".join(part for part in (keys, leave, message) if part)


class KeyActions:
    """Carries out actions beside the drawing, one at a time, and says how the last one went.

    What is asked for while another is under way is done next, the newest wish in place of an older one; what takes
    traffic back waits for nothing, and what was to be done next is not done any more.
    """

    def __init__(self, client: ControlClient) -> None:
        self.message = ""
        self._client = client
        self._lock = threading.Lock()
        self._current = ""
        self._next: Action | None = None
        self._under_way = 0

    @property
    def busy(self) -> bool:
        """Whether an action is under way."""
        return self._under_way > 0

    def ask(self, action: Action) -> None:
        """Begin an action, or have it done next."""
        with self._lock:
            if self.busy and action not in _TAKE_BACK:
                self._next = None if action == self._current else action
                return
            self._current, self._next = action, None
            self._under_way += 1
        threading.Thread(target=self._carry_out, args=(action,), daemon=True).start()

    def _carry_out(self, action: Action) -> None:
        from rich.markup import escape

        wanted: Action | None = action
        while wanted is not None:
            self.message = f"[dim]{wanted} …[/dim]"
            try:
                self._client.act(wanted, reason="asked for at the terminal")
                self.message = ""
            except ApiError as error:
                self.message = f"[red]{wanted}: {escape(str(error))}[/red]"
            with self._lock:
                wanted, self._next = self._next, None
                if wanted is None:
                    self._under_way -= 1
                else:
                    self._current = wanted


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], list[str]]]:
    """Keys as they are pressed, where standard input is a terminal, whose mode is restored at the end."""
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
