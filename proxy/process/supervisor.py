"""The supervisor: binds the sockets, makes the board, starts children, restarts them and logs their last words.

It does nothing else. It owns one listening socket a worker and address (SO_REUSEPORT), so a worker that is killed
loses what it had in flight and nothing more: its accept queue waits for the next one. It never reads a request, never
opens a backend and holds no state that a child needs to go on. Signals are waited for, never handled in between:

    SIGTERM, SIGINT   the workers accept who has connected, and the listening sockets are closed; the workers drain
                      while control goes on renewing the lease; then control ends, and this process
    SIGHUP            the config is read again; if it is good, control is restarted and workers are replaced one by
                      one, each only when its successor serves
    SIGCHLD           a child ended: restart it, later and later if it keeps ending
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import Final

import msgspec
import structlog

from backends.durations import encode_hook
from backends.pair.changelog import lost_before
from proxy.board.board import Board, BoardError, boot_id
from proxy.board.carrying import LeftBoard, carry, read_left
from proxy.board.layout import Layout
from proxy.migration.routes import layout
from proxy.process import rundir
from proxy.process.fixed import changed, fixed_of
from proxy.process.form import form
from proxy.process.leftover import BOARD, Succession, left_in, rows_of, workers_of
from proxy.process.listening import address_of, bind, take_no_more, waiting
from proxy.process.logs import STDERR
from proxy.process.rundir import ReadyNote
from proxy.process.stray import Stray
from proxy.process.supervision import RestartHistory, after_death, is_hung
from proxy.settings import CannotStartError, Plan

_log = structlog.get_logger("phasegate.supervisor")

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_WORKER_HUNG_S: Final = 10.0
_CONTROL_HUNG_S: Final = 30.0
_STARTING_S: Final = 30.0  # until a child's first sign of life
# Until the changes that an ended worker has left are a living one's: it looks once a second (``mirror.LOOK_S``).
_HANDED_OVER_S: Final = 3.0
_KILL_AFTER_S: Final = 5.0  # beyond the drain's time, from when the end was asked for
_CONTROL_ENDS_S: Final = 10.0  # that control may take to end: it writes what the store has yet to take
_POLL_S: Final = 1.0
_ORPHANS_S: Final = 5.0  # that the workers of a supervisor which was killed may take to notice and leave
_SUCCESSOR_POLL_S: Final = 0.02  # while a replaced worker's successor is starting
_HANDSHAKE_S: Final = 0.25  # that a client's last packet of a TCP handshake may be under way, between continents
_ACCEPTED_WITHIN_S: Final = 3.0  # that workers may take to accept who has connected; less than _KILL_AFTER_S


@dataclass(frozen=True)
class Launch:
    """What to run: a config, as the composition root reads it.

    ``control_module`` is run as ``python -m``; ``control_orders`` reaches it on its standard input, with the board's
    place and its listening socket. Whoever makes it has refused a configuration that cannot be used.
    """

    plan: Plan
    control_listen: str
    control_module: str
    control_orders: str
    succession: Succession


@dataclass
class _Child:
    name: str
    start: Callable[[], subprocess.Popen[bytes]]
    board: Board  # the one it was started with: a new config may have brought another since
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    started_ns: int = 0
    history: RestartHistory = field(default_factory=RestartHistory)
    due: float = 0.0  # when to start it, while it has no process
    row: int = -1  # a worker's
    stray: Stray = field(default_factory=Stray)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _await_end(pid: int, within_s: float) -> None:
    """Wait for a process to end, if there is one: what it publishes last must be seen."""
    end = monotonic() + within_s
    while pid and _is_alive(pid) and monotonic() < end:
        sleep(_SUCCESSOR_POLL_S)


class Supervisor:
    """One run, from binding to the last child's end."""

    def __init__(self, load: Callable[[], Launch]) -> None:
        self._load = load
        self._launch = load()
        self._boot = boot_id()
        self._log_fd = os.dup(STDERR)  # the children's log: their own standard error is read by us
        plan = self._launch.plan
        self._run_dir = Path(plan.proxy.run_dir)
        self._lock = rundir.take(self._run_dir)
        rundir.form(self._run_dir)
        self._workers, self._rows = workers_of(plan), rows_of(plan)
        # Where an earlier run was killed, its children may live for the moment they need to notice.
        was_killed = (self._run_dir / rundir.READY).exists()
        patience_s = _ORPHANS_S if was_killed else 0.0
        self._sockets = [bind(listener.address, self._workers, patience_s) for listener in plan.proxy.all_listeners()]
        (self._control_socket,) = bind(self._launch.control_listen, 1, patience_s)
        left = self._left(self._launch, was_killed=was_killed)
        if left is not None and was_killed:
            _await_end(left.control_pid, _ORPHANS_S)
            left = self._left(self._launch, was_killed=was_killed)
        if refusal := self._launch.succession.refusal({} if left is None else left.words()):
            raise CannotStartError(refusal)
        self._launch.succession.take_over()
        self._board = self._open_board(self._launch, left)
        rundir.note_form(self._run_dir)
        self._control = _Child("control", self._start_control, self._board)
        self._slots = [self._slot(i) for i in range(self._workers)]
        # Rows of this board without a process, and since when: what their workers left is taken over meanwhile.
        self._ended_rows = dict.fromkeys(range(self._rows), monotonic())
        self._leaving: list[_Child] = []  # replaced workers that are still draining
        self._replacing: list[int] = []  # slots whose worker is yet to be replaced
        self._successor: tuple[int, _Child] | None = None

    def run(self) -> int:
        """Keep the children alive until told to end. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._announce()
        try:
            while True:
                for child in self._children():
                    self._keep(child)
                self._hand_over()
                self._replace()
                received = signal.sigtimedwait(_SIGNALS, self._patience())
                if received is None or received.si_signo == signal.SIGCHLD:
                    continue
                if received.si_signo == signal.SIGHUP:
                    self._reload()
                    continue
                _log.info("stopping", signal=signal.Signals(received.si_signo).name)
                return 0
        finally:
            self._stop()

    # What there is before the first child

    def _left(self, launch: Launch, *, was_killed: bool) -> LeftBoard | None:
        return left_in(self._run_dir, self._boot, launch.plan, launch.succession, was_killed=was_killed)

    def _open_board(self, launch: Launch, left: LeftBoard | None) -> Board:
        """The board of an earlier run on this boot with its counts, or a new one; with the weights either way."""
        shape = layout(launch.plan, self._rows)
        board = self._same_board(shape) or self._new_board(shape, left, launch.succession.was)
        if left is not None and left.ended_at:
            board.go_on_after(left.ended_at, monotonic_ns())
        return board

    def _same_board(self, shape: Layout) -> Board | None:
        """The board as it is, where it fits and nobody writes to it."""
        try:
            found = Board.open(self._run_dir / BOARD, shape, self._boot)
        except BoardError:
            return None
        if any(worker.pid and _is_alive(worker.pid) for worker in found.workers()):
            # Workers of a supervisor that was killed are still finishing, and write their rows.
            found.close()
            return None
        for row in range(self._rows):
            found.clear_volatile(row)
        return found

    def _new_board(self, shape: Layout, left: LeftBoard | None, was: Mapping[str, str]) -> Board:
        """A board with nothing counted; migrations that an earlier one had keep their weight and their lease."""
        path = self._run_dir / BOARD

        def fill(new: Board) -> None:
            new.begin(monotonic_ns(), [lost_before(self._run_dir, name) for name, _ in shape.migrations])
            if left is not None:
                carry(left, new, was)

        try:
            return Board.create(path, shape, self._boot, fill)
        except OSError as error:
            raise CannotStartError(f"cannot make the board {path}: {error.strerror}") from None

    def _announce(self) -> None:
        """Say where everything is: to people on the log, to scripts in ``ready.json``."""
        addresses = [address_of(sockets[0]) for sockets in self._sockets]
        control = address_of(self._control_socket)
        _log.info("listening", proxy=addresses, control=control, workers=self._workers, data_plane=form())
        fixed = fixed_of(self._launch.plan, self._launch.control_listen)
        rundir.note_ready(self._run_dir, ReadyNote(os.getpid(), tuple(addresses), control, fixed))

    # Children

    def _children(self) -> list[_Child]:
        successor = [] if self._successor is None else [self._successor[1]]
        return [self._control, *self._slots, *successor, *self._leaving]

    def _slot(self, index: int) -> _Child:
        child = _Child(f"worker {index}", lambda: self._start_worker(index, child), self._board)
        return child

    def _keep(self, child: _Child) -> None:
        """Reap, restart, or end a child, as its state asks."""
        now = monotonic()
        if child.process is None:
            if now >= child.due:
                child.process = child.start()
                child.started, child.started_ns = now, monotonic_ns()
            return
        code = child.process.poll()
        self._pass_on(child)  # before its end is told
        if code is None:
            self._end_hung(child)
            return
        child.process = None
        if child.row >= 0:
            child.board.clear_volatile(child.row)
            if child.board is self._board:
                self._ended_rows[child.row] = now
        if child in self._leaving:
            self._leaving.remove(child)
            child.stray.close()
            return
        restart = after_death(child.history, now - child.started)
        child.history = restart.history
        child.due = now + restart.delay_s
        _log.warning("child_ended", child=child.name, code=code, restart_in_s=restart.delay_s)
        if restart.looping:
            _log.error("crash_loop", child=child.name, code=code, hint="its last lines above say why it cannot live")
        if now >= child.due:
            self._keep(child)

    def _hand_over(self) -> None:
        """Let no ended worker's row say that the target lacks changes, once the living have taken over its logs."""
        now = monotonic()
        in_use = {child.row for child in self._children() if child.process is not None and child.board is self._board}
        for row in in_use:
            self._ended_rows.pop(row, None)
        if in_use:
            for row in [row for row, ended in self._ended_rows.items() if now - ended > _HANDED_OVER_S]:
                self._board.hand_over(row)
                del self._ended_rows[row]

    def _pass_on(self, child: _Child) -> None:
        """Put into the log what a child wrote past it."""
        if text := child.stray.take():
            _log.warning("stray_output", child=child.name, text=text)

    def _end_hung(self, child: _Child) -> None:
        """A process without a heartbeat would hold its connections for ever: kill it, and start another."""
        assert child.process is not None
        if child.row >= 0:
            beat, limit = child.board.worker(child.row).heartbeat, _WORKER_HUNG_S
        else:
            beat, limit = child.board.control()[1], _CONTROL_HUNG_S
        if beat < child.started_ns:
            limit = _STARTING_S
        if is_hung(beat, child.started_ns, monotonic_ns(), limit):
            _log.error("child_hung", child=child.name, process_id=child.process.pid, silent_s=limit)
            child.process.kill()
            child.process.wait()

    def _spawn(
        self, child: _Child, module: str, orders: dict[str, object], fds: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module]
        fds = (*fds, self._log_fd)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=child.stray.fd, pass_fds=fds)
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode({**orders, "log": self._log_fd}, enc_hook=encode_hook))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once: the next look reaps it
        return process

    def _start_worker(self, index: int, child: _Child) -> subprocess.Popen[bytes]:
        in_use = {other.row for other in self._children() if other is not child and other.process is not None}
        child.row = next(row for row in (index, *range(self._rows)) if row not in in_use)
        child.board = self._board
        self._board.clear_volatile(child.row)
        fds = tuple(sockets[index].fileno() for sockets in self._sockets)
        orders: dict[str, object] = {
            "slot": child.row,
            "rows": self._rows,
            "fds": fds,
            "board": str(self._board.path),
            "boot": self._boot,
            "extensions": self._launch.plan.extensions,
            "plan": self._launch.plan,
        }
        return self._spawn(child, "proxy.process.worker", orders, fds)

    def _start_control(self) -> subprocess.Popen[bytes]:
        self._control.board = self._board
        fd = self._control_socket.fileno()
        orders: dict[str, object] = {
            "fd": fd,
            "rows": self._rows,
            "board": str(self._board.path),
            "boot": self._boot,
            "orders": self._launch.control_orders,
            "extensions": self._launch.plan.extensions,
        }
        return self._spawn(self._control, self._launch.control_module, orders, (fd,))

    # A new config

    def _reload(self) -> None:
        """Take a new config, or say why not and go on with the old one."""
        try:
            launch = self._load()
        except Exception as error:
            _log.error("reload_refused", reason=str(error))
            return
        fixed = changed(*(fixed_of(each.plan, each.control_listen) for each in (self._launch, launch)))
        if fixed:
            _log.error("reload_refused", reason=f"{', '.join(fixed)} can be changed by a restart only")
            return
        left = read_left(self._board.path, self._boot)
        if refusal := launch.succession.refusal({} if left is None else left.words()):
            _log.error("reload_refused", reason=refusal)
            return
        # The words are read when no control process can publish any more: a decrease between the two would be lost.
        self._end_control()
        try:
            launch.succession.take_over()
            self._take_board(launch)
        except CannotStartError as error:
            _log.error("reload_refused", reason=str(error))
            return  # control is started again, by the old configuration
        self._launch = launch
        _log.info("reloading")
        self._replacing = list(range(self._workers))

    def _take_board(self, launch: Launch) -> None:
        """Have the children that are started from here on use the board that a new config needs."""
        shape = layout(launch.plan, self._rows)
        if shape != self._board.layout:
            left = read_left(self._board.path, self._boot)
            self._board = self._new_board(shape, left, launch.succession.was)  # the old workers keep the old one
            self._ended_rows.clear()

    def _end_control(self) -> None:
        """Have the control process end, and wait for it; the next look starts it again."""
        control = self._control
        if control.process is not None:
            control.process.terminate()
            try:
                control.process.wait(_CONTROL_ENDS_S)
            except subprocess.TimeoutExpired:
                control.process.kill()
                control.process.wait()
            self._pass_on(control)
            control.process = None
        control.history, control.due = RestartHistory(), 0.0

    def _replace(self) -> None:
        """One step of replacing workers: a successor first, and only when it serves, the old one leaves."""
        if self._successor is not None:
            index, child = self._successor
            alive = child.process is not None and child.board.worker(child.row).pid == child.process.pid
            if not alive:
                return
            old, self._slots[index] = self._slots[index], child
            self._successor = None
            if old.process is not None:
                old.process.terminate()
                self._leaving.append(old)
        # A slot without a process, for the moment, needs its row again.
        if self._replacing and len(self._slots) + len(self._leaving) < self._rows:
            index = self._replacing.pop(0)
            self._successor = (index, self._slot(index))
            self._keep(self._successor[1])

    def _patience(self) -> float:
        """How long to wait for a signal before the next look."""
        if self._successor is not None:
            return _SUCCESSOR_POLL_S
        due = [child.due - monotonic() for child in self._children() if child.process is None]
        return max(0.0, min([_POLL_S, *due]))

    def _stop(self) -> None:
        """Let the workers drain, then control end; by force what does not in its time, or when told to end once more.

        Control leads until the last worker has ended, so a slow request costs no lease.
        """
        end = monotonic() + self._launch.plan.proxy.drain_timeout_s + _KILL_AFTER_S
        impatient = self._close_listeners()
        workers = [child for child in self._children() if child is not self._control and child.process is not None]
        for child in workers:
            assert child.process is not None
            child.process.terminate()
        drain_s = 0.0 if impatient else end - monotonic()
        impatient = self._await(workers, drain_s, keep_control=True) or impatient
        ended_at = monotonic_ns()  # nobody uses the target from here on
        self._control_socket.close()  # with control's own one gone, too, who asks is refused and not kept waiting
        if self._control.process is not None:
            self._control.process.terminate()
            self._await([self._control], 0.0 if impatient else _CONTROL_ENDS_S)
        for child in self._children():
            self._pass_on(child)
        for row in range(self._rows):
            self._board.clear_volatile(row)
        self._board.end(ended_at)
        (self._run_dir / rundir.READY).unlink(missing_ok=True)

    def _close_listeners(self) -> bool:
        """Refuse new clients while the others are still being served; whether it was told not to wait.

        Only the workers have the sockets after this, and close them as soon as they are told to end. A client that
        nobody has accepted by then would be reset: so new ones are kept out first, and the workers accept the rest.
        """
        sockets = [sock for listener in self._sockets for sock in listener]
        for sock in sockets:
            take_no_more(sock)
        began, impatient = monotonic(), False
        while not impatient and (lasted := monotonic() - began) < _ACCEPTED_WITHIN_S:
            if lasted >= _HANDSHAKE_S and not any(map(waiting, sockets)):
                break
            for child in self._children():
                self._keep(child)
            received = signal.sigtimedwait(_SIGNALS, _SUCCESSOR_POLL_S)
            impatient = received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT)
        for sock in sockets:
            sock.close()
        return impatient

    def _await(self, children: list[_Child], within_s: float, *, keep_control: bool = False) -> bool:
        """Wait for children to end, and kill what has not in time; whether it was told not to wait."""
        end = monotonic() + within_s
        impatient = False
        while any(child.process is not None and child.process.poll() is None for child in children):
            if keep_control:
                self._keep(self._control)
            received = signal.sigtimedwait(_SIGNALS, max(0.0, min(_POLL_S, end - monotonic())))
            impatient = impatient or (received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT))
            if impatient or monotonic() >= end:
                for child in children:
                    if child.process is not None:
                        child.process.kill()
                        child.process.wait()
        return impatient


def supervise(load: Callable[[], Launch]) -> int:
    """Run phasegate until told to end. Raises ``CannotStartError``, and whatever ``load`` raises the first time."""
    return Supervisor(load).run()


__all__ = ["CannotStartError", "Launch", "Supervisor", "supervise"]
