"""The proxies that are compared: their configurations for the same work, started and ended.

Each splits by the same sticky key between two arms that are the same app, keeps connections alive on both sides, and
tells the app of the client in the same five fields. None writes an access log.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from loadtest.stage import ports, procfs
from loadtest.stage.api import Api

STARTED_WITHIN_S: Final = 60.0
_ENDED_WITHIN_S: Final = 20.0

ROOT: Final = Path(__file__).parents[2]
COMPILED: Final = ROOT / "build" / "compiled"
_GROUP: Final = "phasegate__mypyc"  # the library that holds the compiled code (hatch_build.py)

# The kernel ends a child when the benchmark is killed, so that nothing is left running.
_WITH_US: Final = ("setpriv", "--pdeathsig", "TERM")


class BenchError(Exception):
    """The benchmark cannot go on: what was found, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things run: a folder for files, and the command prefixes that pin to processors."""

    folder: Path
    proxy_cpus: str  # as taskset takes them
    load_cpus: str

    @property
    def proxy(self) -> list[str]:
        """The prefix of everything that is measured."""
        return [*_WITH_US, "taskset", "-c", self.proxy_cpus]

    @property
    def load(self) -> list[str]:
        """The prefix of everything that measures: wrk, the app."""
        return [*_WITH_US, "taskset", "-c", self.load_cpus]


def free_port() -> int:
    """As ``ports.free_port``. Raises ``BenchError``."""
    try:
        return ports.free_port()
    except OSError as error:
        raise BenchError(str(error)) from None


@dataclass
class Child:
    """A process of the benchmark's own, its output in ``log``."""

    process: subprocess.Popen[str]
    log: Path

    @classmethod
    def start(cls, command: list[str], log: Path, *, read: bool = False, env: dict[str, str] | None = None) -> Child:
        """Start it; with ``read`` its standard output is a pipe."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read else out,
                stderr=out,
                text=True,
                env={**os.environ, **(env or {})},
            )
        return cls(process, log)

    def line(self) -> dict[str, Any]:
        """Its next line of output, as JSON. Raises ``BenchError`` where it ended instead."""
        out: IO[str] | None = self.process.stdout
        assert out is not None, "started without read"
        line = out.readline()
        if not line:
            raise BenchError(f"{' '.join(self.process.args)} ended: {self.tail()}")  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(line)
        return found

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:].strip()

    def end(self) -> None:
        """Ask it to end, and see that all of it does."""
        if self.process.poll() is None:
            family = procfs.tree(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_ENDED_WITHIN_S)
            except subprocess.TimeoutExpired:
                for pid in family:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def ended_on_failure(child: Child) -> Iterator[None]:
    """End the child where the block raises."""
    try:
        yield
    except BaseException:
        child.end()
        raise


class App:
    """The app on the load's processors; ``ports`` are its two arms."""

    def __init__(self, place: Place) -> None:
        self._child = Child.start(
            [*place.load, sys.executable, "-m", "loadtest.bench.origin"], place.folder / "origin.log", read=True
        )
        with ended_on_failure(self._child):
            self.ports: list[int] = self._child.line()["ports"]
        self.url = f"http://127.0.0.1:{self.ports[0]}"

    def end(self) -> None:
        """End it."""
        self._child.end()


@dataclass
class Running:
    """A contender that runs; ``pids`` is every process of it."""

    name: str
    url: str
    child: Child
    control: str = ""  # phasegate's control API
    token: str = ""
    data_path: str = ""  # answered by phasegate itself, from memory
    relay_path: str = ""  # split between two HTTP origins and recorded
    run_dir: Path = field(default_factory=Path)

    def pids(self) -> list[int]:
        """Every process of it."""
        return procfs.tree(self.child.process.pid)

    def end(self) -> None:
        """End it."""
        self.child.end()


@dataclass(frozen=True, slots=True)
class Options:
    """What of a contender's configuration a work changes."""

    workers: int = 1
    routes: int = 1  # of a migration that no request of the app's takes
    migrations: int = 2  # the data's, and others between two HTTP origins
    firestore: str = ""  # the emulator's address: the data migration's target


def _wait(name: str, url: str, child: Child, ready: Callable[[], bool] | None = None) -> None:
    """Wait until it answers a request with 200. Raises ``BenchError``, with the child ended."""
    with ended_on_failure(child):
        _wait_for_answer(name, url, child, ready)


def _wait_for_answer(name: str, url: str, child: Child, ready: Callable[[], bool] | None) -> None:
    host = url.removeprefix("http://")
    deadline = time.monotonic() + STARTED_WITHIN_S
    last = "no answer"
    while time.monotonic() < deadline and child.process.poll() is None:
        connection = http.client.HTTPConnection(host, timeout=2)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            if response.status == 200 and (ready is None or ready()):
                return
            last = f"status {response.status}"
        except OSError as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.05)
    raise BenchError(f"{name} did not start ({last}): {child.tail()}")


_NGINX: Final = """\
daemon off; worker_processes {workers}; pid {folder}/pid; error_log stderr crit;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; client_max_body_size 0;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_x_user_id $key {{ "" $cookie_phasegate; default $http_x_user_id; }}
  split_clients $key $arm {{ 50% target; * source; }}
  upstream source {{ server 127.0.0.1:{a}; keepalive 256; keepalive_requests 1000000000; }}
  upstream target {{ server 127.0.0.1:{b}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://$arm; proxy_http_version 1.1; proxy_request_buffering off; proxy_max_temp_file_size 0;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Via "1.1 bench";
      proxy_set_header Forwarded "for=$remote_addr;proto=http";
    }}
  }}
}}
"""


def nginx(place: Place, app: App, options: Options) -> Running:
    """nginx with split_clients and keep-alive on both sides; bodies stream as phasegate's do."""
    port, folder = free_port(), place.folder / "nginx"
    folder.mkdir(exist_ok=True)
    files = _files()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(
            folder=folder,
            port=port,
            workers=options.workers,
            a=app.ports[0],
            b=app.ports[1],
            files=files,
            connections=files - 100,
        )
    )
    child = Child.start([*place.proxy, "nginx", "-c", str(config), "-e", "stderr"], folder / "log")
    url = f"http://127.0.0.1:{port}"
    _wait("nginx", url, child)
    return Running("nginx", url, child)


_HAPROXY: Final = """\
global
  maxconn {connections}
  nbthread {workers}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  option http-keep-alive
frontend front
  bind 127.0.0.1:{port} backlog 4096
  default_backend arms
backend arms
  balance hash req.cook(phasegate)
  hash-type consistent
  http-reuse always
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Via "1.1 bench"
  http-request set-header Forwarded for=%[src];proto=http
  server source 127.0.0.1:{a} weight 50
  server target 127.0.0.1:{b} weight 50
"""


def haproxy(place: Place, app: App, options: Options) -> Running:
    """haproxy with two weighted servers and a consistent hash of the key."""
    port, folder = free_port(), place.folder / "haproxy"
    folder.mkdir(exist_ok=True)
    config = folder / "haproxy.cfg"
    config.write_text(
        _HAPROXY.format(
            port=port,
            workers=options.workers,
            connections=_files() // 2 - 200,
            a=app.ports[0],
            b=app.ports[1],
        )
    )
    child = Child.start([*place.proxy, "haproxy", "-db", "-f", str(config)], folder / "log")
    url = f"http://127.0.0.1:{port}"
    _wait("haproxy", url, child)
    return Running("haproxy", url, child)


def aiohttp(place: Place, app: App, options: Options) -> Running:
    """A plain proxy on aiohttp and uvloop."""
    command = [*place.proxy, sys.executable, "-m", "loadtest.bench.aiohttp_proxy", *map(str, app.ports)]
    child = Child.start(command, place.folder / "aiohttp.log", read=True)
    with ended_on_failure(child):
        url = f"http://127.0.0.1:{child.line()['port']}"
    _wait("aiohttp", url, child)
    return Running("aiohttp", url, child)


_PHASEGATE: Final = """\
[app]
origin = "{app}"
max_idle = 16384
max_connections = 16384

[proxy]
listen = ["127.0.0.1:{port}"]
workers = {workers}
run_dir = "run"
idle_timeout = "1h"

[backends.memory]
kind = "mock"

[backends.spare]
{target}

[backends.old]
kind = "http"
origin = "{app}"

[backends.new]
kind = "http"
origin = "{other}"

[control]
listen = "127.0.0.1:{control}"
tokens = [{{ name = "bench", sha256 = "{sha256}", role = "operator" }}]
"""

_MIGRATION: Final = """
[migrations.{name}]
source = "{source}"
target = "{target}"
routes = [{routes}]
phases = [{{ name = "half", weight = 50, min_soak = "1h", rollback_within = "20s" }}]
"""


def phasegate(place: Place, app: App, options: Options) -> Running:
    """phasegate as it is served: supervisor, workers, control plane; the hot modules compiled, as pip installs it."""
    if not any(COMPILED.glob(f"{_GROUP}.*.so")):
        raise BenchError(f"{COMPILED} has no compiled modules: run `make compiled`")
    return _phasegate("phasegate", place, app, options, [COMPILED, ROOT])


def phasegate_plain(place: Place, app: App, options: Options) -> Running:
    """The same from the sources, as it runs where there was no C compiler."""
    return _phasegate("phasegate-plain", place, app, options, [ROOT])


def _phasegate(name: str, place: Place, app: App, options: Options, search: list[Path]) -> Running:
    """Serve what an import finds in ``search``, and see that it is what runs."""
    port, control, token = free_port(), free_port(), secrets.token_urlsafe(16)
    folder = place.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target = 'kind = "firestore"\nproject = "demo-bench"' if options.firestore else 'kind = "mock"\nseed = 1'
    other = f"http://127.0.0.1:{app.ports[1]}"
    text = _PHASEGATE.format(
        app=app.url,
        other=other,
        port=port,
        workers=options.workers,
        control=control,
        target=target,
        sha256=hashlib.sha256(token.encode()).hexdigest(),
    )
    text += _MIGRATION.format(name="data", source="memory", target="spare", routes='"/api/dashboard/*"')
    for i in range(options.migrations - 1):
        further = [f"/relay{i}/more{j}/*" for j in range(1, options.routes)]
        routes = ", ".join(json.dumps(route) for route in [f"/relay{i}/*", *further])
        text += _MIGRATION.format(name=f"relay{i}", source="old", target="new", routes=routes)
    config = folder / "phasegate.toml"
    config.write_text(text)
    command = [*place.proxy, sys.executable, "-m", "control.cli", "serve", "--config", str(config)]
    # Nothing is found because it lies in the working folder.
    env = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, search))}
    if options.firestore:
        env["FIRESTORE_EMULATOR_HOST"] = options.firestore
        _seed(config, options.firestore)
    child = Child.start(command, folder / "log", env=env)
    url, api = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}"
    _wait(name, url, child, lambda: _ready(api))
    with ended_on_failure(child):
        _check_form(child, COMPILED in search, options.workers)
        for migration in ("data", "relay0")[: options.migrations]:
            Api(api, token, migration).act("start", reason="a benchmark")
    return Running(
        name,
        url,
        child,
        control=api,
        token=token,
        data_path="/api/dashboard/metrics",
        relay_path="/relay0/x",
        run_dir=folder / "run",
    )


def _check_form(child: Child, compiled: bool, workers: int) -> None:
    """See that every worker runs the form that is measured. Raises ``BenchError``."""
    deadline = time.monotonic() + STARTED_WITHIN_S
    found: list[bool] = []
    while found != [compiled] * workers:
        if time.monotonic() > deadline:
            raise BenchError(f"{workers} workers, compiled {compiled}: found {found}. Run `make compiled`")
        time.sleep(0.05)
        served = [Path(f"/proc/{pid}") for pid in procfs.tree(child.process.pid)]
        served = [proc for proc in served if b"proxy.process.worker" in (proc / "cmdline").read_bytes()]
        found = [_GROUP in (proc / "maps").read_text() for proc in served]


def _seed(config: Path, emulator: str) -> None:
    """Give the emulator what the mock begins with."""
    command = [sys.executable, "-m", "control.cli", "seed", "--config", str(config), "--migration", "data", "--yes"]
    env = {**os.environ, "FIRESTORE_EMULATOR_HOST": emulator}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def _ready(api: str) -> bool:
    connection = http.client.HTTPConnection(api.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _files() -> int:
    """How many files a process may have open."""
    import resource

    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)


CONTENDERS: Final[dict[str, Callable[[Place, App, Options], Running]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "aiohttp": aiohttp,
    "phasegate-plain": phasegate_plain,
    "phasegate": phasegate,
}
