"""A large download and a large upload through each contender: bytes per CPU second, and growth of its memory."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Final

from loadtest.bench.contenders import BenchError, Running
from loadtest.bench.measuring import Bench, Spread, running
from loadtest.stage import procfs

GIB: Final = 1 << 30
_BLOCK: Final = 1 << 18  # bytes per socket call: large enough that the client is not the bottleneck
_WARM_UP: Final = 16 << 20  # bytes
_LOOK_S: Final = 0.02  # between two samples of memory; a transfer of 1 GiB takes about fifty times as long


@dataclass(frozen=True, slots=True)
class Transfer:
    """One transfer: wall and CPU seconds, bytes per CPU second, and growth of resident memory in bytes."""

    wall_s: float
    cpu_s: float
    bytes_per_cpu_s: float
    grown: int


@dataclass(slots=True)
class BulkRow:
    """One contender in one direction, round by round. ``ratios``: bytes per CPU second, relative to the reference."""

    work: str
    contender: str
    size: int
    transfers: list[Transfer]
    ratios: list[float]

    @property
    def ratio(self) -> Spread:
        """Over the rounds; more is better."""
        return Spread.of(self.ratios)

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {
            "work": self.work,
            "contender": self.contender,
            "bytes": self.size,
            "bytes_per_cpu_s": asdict(Spread.of([t.bytes_per_cpu_s for t in self.transfers])),
            "grown_bytes": max(t.grown for t in self.transfers),
            "ratio": asdict(self.ratio),
            "rounds": [asdict(t) for t in self.transfers],
        }


def download(url: str, size: int) -> None:
    """Download ``size`` bytes and count them. Raises ``BenchError``."""
    with _connected(url) as sock:
        sock.sendall(f"GET /bytes/{size} HTTP/1.1\r\nhost: bench.example\r\n\r\n".encode())
        head, rest = _head(sock)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"download: {head[:80]!r}")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if length is None or int(length[1]) != size:
            raise BenchError(f"download: the answer does not say that it has {size} bytes: {head!r}")
        left = size - len(rest)
        buffer = bytearray(_BLOCK)
        while left > 0:
            count = sock.recv_into(buffer)
            if not count:
                raise BenchError(f"download: the answer ended {left} bytes early")
            left -= count


def upload(url: str, size: int) -> None:
    """Upload ``size`` bytes and check that the app counted as many. Raises ``BenchError``."""
    with _connected(url) as sock:
        head = f"PUT /upload HTTP/1.1\r\nhost: bench.example\r\ncontent-length: {size}\r\n\r\n"
        sock.sendall(head.encode())
        block = bytes(_BLOCK)
        for _ in range(size // _BLOCK):
            sock.sendall(block)
        sock.sendall(bytes(size % _BLOCK))
        answer, body = _head(sock)
        while len(body) < len(str(size)):
            more = sock.recv(4096)
            if not more:
                break
            body += more
        if not answer.startswith(b"HTTP/1.1 200 ") or body != str(size).encode():
            raise BenchError(f"upload: the app counted {body[:80]!r} of {size} bytes: {answer[:80]!r}")


def _connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=120)


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(_BLOCK)
        if not more:
            raise BenchError(f"the connection closed within an answer's head: {data[:80]!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


class _MemoryWatch:
    """The peak resident memory of some processes while a block runs."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self.before = self.most = procfs.rss(pids)
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.most = max(self.most, procfs.rss(self._pids))

    def __enter__(self) -> _MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.most = max(self.most, procfs.rss(self._pids))


def transfer(contender: Running, move: Callable[[str, int], None], size: int) -> Transfer:
    """One transfer through a contender, measured."""
    pids = contender.pids()
    with _MemoryWatch(pids) as memory:
        used, began = procfs.cpu_s(pids), time.monotonic()
        move(contender.url, size)
        wall, used = time.monotonic() - began, procfs.cpu_s(pids) - used
    if used <= 0:
        raise BenchError(f"{contender.name}: {size} bytes took no measurable CPU time: transfer more")
    return Transfer(wall, used, size / used, memory.most - memory.before)


def bulk(bench: Bench, names: list[str], size: int, reference: str) -> list[BulkRow]:
    """Download and upload ``size`` bytes through each in turn. Ratios are relative to the reference."""
    rows = []
    base = names.index(reference)
    with ExitStack() as stack:
        contenders = [stack.enter_context(running(name, bench)) for name in names]
        for work, move in (("download", download), ("upload", upload)):
            for contender in contenders:
                move(contender.url, _WARM_UP)
            directions = [BulkRow(work, contender.name, size, [], []) for contender in contenders]
            for number in range(bench.rounds):
                for row, contender in zip(directions, contenders, strict=True):
                    row.transfers.append(transfer(contender, move, size))
                for row in directions:
                    row.ratios.append(
                        row.transfers[-1].bytes_per_cpu_s / directions[base].transfers[-1].bytes_per_cpu_s
                    )
                speeds = "  ".join(
                    f"{row.contender} {row.transfers[-1].bytes_per_cpu_s / 1e9:.2f}" for row in directions
                )
                bench.say(f"  {work}, round {number + 1} of {bench.rounds}, GB by CPU second: {speeds}")
            rows += directions
    return rows
