"""Follows a migration: a live view at a terminal, plain lines elsewhere.

Threads of ``follow``: one receives events, one carries out the action of a key, and the caller's own thread draws and
reads keys.
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
from control.report.nextstep import WaitKey, changes, place, waits
from control.report.wording import audit_line
from control.rollout.model import State
from control.store.entry import AuditEntry

ENDED: Final = frozenset({State.COMPLETED, State.ROLLED_BACK, State.ABORTED})
RECONNECT_S: Final = 0.5  # pause before the event stream is opened again
DRAW_EVERY_S: Final = 0.1
LOG_LINES: Final = 6
SAMPLES: Final = 60  # seconds of figures that are kept for drawing
EVENTS_MAX: Final = 1000  # received events that are not drawn yet
PUT_WITHIN_S: Final = 60  # a full queue for so long means that the view has ended
KEYS_AT_ONCE: Final = 64  # bytes read from the keyboard per drawing
_KEYS: Final[dict[str, Action]] = {"r": "rollback", "a": "abort", "p": "pause"}
_TAKE_BACK: Final = ("rollback", "abort")


class _Followed:
    """What was received so far: the newest status, the log, and whether the control plane answers."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.lost = ""  # why the control plane does not answer; empty while it does
        self.taken = 0
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._under_way = False
        self._waits_told: set[WaitKey] = set()

    @property
    def ended(self) -> State | None:
        """The state in which the migration ended; None while it goes on."""
        state = self.status.state if self.status else None
        return state if state in ENDED or (state is State.IDLE and self._under_way) else None

    def take(self, event: EventDocument | ApiError) -> list[str]:
        """Take one event or failure. Returns the plain lines to print for it."""
        self.taken += 1
        if isinstance(event, ApiRefused):
            raise event
        if isinstance(event, ApiError):
            news = f"The control plane does not answer: {event.message}. Traffic goes on; trying again."
            lines = [] if self.lost else [news]
            self.lost = event.message
            return lines
        lines = ["The control plane answers again."] if self.lost else []
        if isinstance(event, Status) and not self.lost and self.status is not None and _older(event, self.status):
            return lines
        self.lost = ""
        match event:
            case Status():
                lines += changes(self.status, event, self._waits_told)
                # A wait that comes and goes is told once in each step.
                self._waits_told = {key for key in self._waits_told if key[: len(place(event))] == place(event)}
                self._waits_told.update(waits(event))
                self.status = event
                self._under_way |= event.state is not State.IDLE
            case Sample():
                self.samples.append(event)
            case AuditEntry() if event.kind != "phase_left":  # its figures are in the report
                self.log.append(audit_line(event))
        return lines


def _older(status: Status, known: Status) -> bool:
    """Whether a status is older than ``known``. An action's answer may arrive before the stream's previous status."""
    return status.revision < known.revision


def follow(
    client: ControlClient,
    *,
    may_act: bool,
    known: Status | None = None,
    may_detach: bool = True,
    note: Callable[[], str] | None = None,
) -> State | None:
    """Show the migration until it ends. Returns its last state, or None where the person detached.

    ``known`` is a status to begin with, such as the answer to a start: a short first phase may be over before the
    event stream is open. Keys act only with ``may_act``. ``note`` returns a line to show below the view. Without
    ``may_detach``, Ctrl-C raises ``KeyboardInterrupt`` in the caller. Raises ``ApiRefused`` for a refused token.
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
    """Put every event into the queue. After a failure connect again, until ``ended`` is set."""
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
            notes = [note()] if note else []
            shown = (view.taken, actor.message, notes, console.size)
            if shown == drawn:  # drawing costs 10 ms of CPU, and most ticks bring nothing new
                continue
            drawn = shown
            lines = [*view.log, *([view.lost] if view.lost else []), *notes]
            footer = _footer(view.status, may_act, may_detach, actor.message)
            live.update(picture(console, view.status, lines, footer, list(view.samples)), refresh=True)
    return view.ended


def _footer(status: Status, may_act: bool, may_detach: bool, message: str) -> str:
    pause = "resume" if status.state is State.PAUSED else "pause"
    keys = f"[b]r[/b] roll back  [b]a[/b] abort  [b]p[/b] {pause}" if may_act else ""
    leave = "[b]d[/b] detach" if may_detach else "[b]Ctrl-C[/b] end"
    return "  ".join(part for part in (keys, leave, message) if part)


class KeyActions:
    """Carries out actions in threads beside the drawing. ``message`` is the state of the last one.

    One action runs at a time. An action asked for meanwhile is queued, and replaces one that was queued before.
    Rollback and abort do not wait: they start at once and discard the queued action.
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
        """Start an action, or queue it while another runs."""
        with self._lock:
            if self.busy and action not in _TAKE_BACK:
                self._next = None if action == self._current else action
                return
            self._current, self._next = action, None
            self._under_way += 1
        threading.Thread(target=self._carry_out, args=(action,), daemon=True).start()

    def _carry_out(self, action: Action) -> None:
        from rich.markup import escape

        current: Action | None = action
        while current is not None:
            self.message = f"[dim]{current} …[/dim]"
            try:
                self._client.act(current, reason="asked for at the terminal")
                self.message = ""
            except ApiError as error:
                self.message = f"[red]{current}: {escape(str(error))}[/red]"
            with self._lock:
                current, self._next = self._next, None
                if current is None:
                    self._under_way -= 1
                else:
                    self._current = current


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[], list[str]]]:
    """A function that returns the keys pressed since its last call; none where standard input is not a terminal.

    The terminal's mode is restored at the end.
    """
    if not sys.stdin.isatty():
        yield list
        return
    import termios
    import tty

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed() -> list[str]:
        ready, _, _ = select.select([fd], [], [], 0)
        return list(os.read(fd, KEYS_AT_ONCE).decode("utf-8", "ignore")) if ready else []

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
