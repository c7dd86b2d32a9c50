"""Ten thousand idle keep-alive connections: the memory of each, and their effect on the latency of active ones."""

from __future__ import annotations

import resource
import socket
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Final

from loadtest.bench.contenders import BenchError, Running
from loadtest.bench.measuring import Bench, Turn, check, running
from loadtest.bench.wrk import BROWSER
from loadtest.stage import procfs

IDLE: Final = 10_000
LIVE: Final = 100  # active connections, before and beside the idle ones
_SETTLE_S: Final = 2.0  # before memory is read, so that memory of the load before is released
_SPARE_FILES: Final = 200  # descriptors for everything but idle connections
_REQUEST: Final = b"GET / HTTP/1.1\r\nhost: bench.example\r\nuser-agent: idle\r\n\r\n"


@dataclass(frozen=True, slots=True)
class IdleRow:
    """One contender. ``bytes_each`` is resident memory per idle connection; p99 of active ones in milliseconds."""

    contender: str
    connections: int
    bytes_each: float
    p99_before_ms: list[float]
    p99_beside_ms: list[float]

    @property
    def ratio(self) -> float:
        """The active connections' p99 beside the idle ones, relative to that without them."""
        return statistics.median(self.p99_beside_ms) / statistics.median(self.p99_before_ms)

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {"work": "idle", **asdict(self), "ratio": self.ratio}


class Idlers:
    """Connections that get one answer each and then stay idle."""

    def __init__(self, url: str, count: int) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._sockets: list[socket.socket] = []
        for _ in range(count):
            sock = socket.create_connection((host, int(port)), timeout=30)
            self._sockets.append(sock)
            sock.sendall(_REQUEST)
            if not sock.recv(4096).startswith(b"HTTP/1.1 200 "):
                raise BenchError(f"connection {len(self._sockets)} of {count} was not answered")

    def alive(self) -> int:
        """How many of them still serve a second request."""
        count = 0
        for sock in self._sockets:
            try:
                sock.sendall(_REQUEST)
                count += sock.recv(4096).startswith(b"HTTP/1.1 200 ")
            except OSError:
                continue
        return count

    def close(self) -> None:
        """Close them."""
        for sock in self._sockets:
            sock.close()


def allow_files(count: int) -> None:
    """Let this process open so many more files. Raises ``BenchError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + _SPARE_FILES:
        if hard < count + _SPARE_FILES:
            raise BenchError(f"{count} connections need `ulimit -n {count + _SPARE_FILES}`, found {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + _SPARE_FILES, hard))


def idle(bench: Bench, names: list[str], count: int = IDLE) -> list[IdleRow]:
    """Each contender by itself: active connections alone, then beside the idle ones."""
    allow_files(count)
    lua = bench.script("idle", {"Cookie": BROWSER["Cookie"] + "; phasegate=%016x"}, LIVE)
    rows = []
    for name in names:
        with running(name, bench) as contender:
            rows.append(_of(bench, contender, Turn(name, contender, "/", lua, LIVE), count))
        row = rows[-1]
        figures = f"{row.bytes_each / 1024:.1f} KiB each; p99 of {LIVE} live ones {row.ratio:.2f} times that before"
        bench.say(f"  {name}: {figures}")
    return rows


def _of(bench: Bench, contender: Running, turn: Turn, count: int) -> IdleRow:
    check(turn)
    bench.sample(turn, 2)
    before = [bench.sample(turn, bench.seconds).p99_ms for _ in range(bench.rounds)]
    time.sleep(_SETTLE_S)
    pids = contender.pids()
    memory = procfs.rss(pids)
    idlers = Idlers(contender.url, count)
    try:
        time.sleep(_SETTLE_S)
        grown = procfs.rss(pids) - memory
        beside = [bench.sample(turn, bench.seconds).p99_ms for _ in range(bench.rounds)]
        alive = idlers.alive()
        if alive != count:
            raise BenchError(f"{contender.name}: only {alive} of {count} idle connections were kept")
    finally:
        idlers.close()
    return IdleRow(contender.name, count, grown / count, before, beside)
