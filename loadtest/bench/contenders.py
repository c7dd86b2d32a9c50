"""The proxies that are compared: starts and ends each, configured for the same work.

Each splits by the same sticky key between two arms, both the same app, keeps connections alive on both sides, and
sends the app the same five fields about the client. None writes an access log.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.stage import procfs
from loadtest.stage.api import ControlApi
from loadtest.stage.errors import StageError
from loadtest.stage.ports import free_port
from loadtest.stage.processes import LOOK_EVERY_S, ROOT, STARTED_WITHIN_S, Process, answers

COMPILED: Final = ROOT / "build" / "compiled"
_SPARE_FILES: Final = 200  # descriptors for everything but client connections
BEFORE: Final = "phasegate-before"  # an earlier checkout, beside this one
_WORKER: Final = re.compile(rb"\0proxy\.(process\.)?worker\0")  # in a worker's command line, also of version 0.1
_GROUP: Final = "phasegate__mypyc"  # the library that holds the compiled code (hatch_build.py)


class BenchError(StageError):
    """The benchmark cannot go on: what was found, and what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder for files, and the processors to run on."""

    folder: Path
    proxy_cpus: str  # as taskset takes them
    load_cpus: str

    @property
    def proxy(self) -> list[str]:
        """The command prefix of everything that is measured."""
        return ["taskset", "-c", self.proxy_cpus]

    @property
    def load(self) -> list[str]:
        """The command prefix of everything else: wrk, the app."""
        return ["taskset", "-c", self.load_cpus]


@contextmanager
def ended_on_failure(process: Process) -> Iterator[None]:
    """End the process if the block raises."""
    try:
        yield
    except BaseException:
        process.end()
        raise


class BenchApp:
    """The app on the load's processors; ``ports`` are its two arms."""

    def __init__(self, place: Place) -> None:
        command = [*place.load, sys.executable, "-m", "loadtest.bench.origin"]
        self._process = Process("the app", command, place.folder / "origin.log", read=True)
        self._process.start()
        with ended_on_failure(self._process):
            self.ports: list[int] = self._process.line()["ports"]
        self.url = f"http://127.0.0.1:{self.ports[0]}"

    def end(self) -> None:
        """End it."""
        self._process.end()


@dataclass
class Running:
    """A running contender."""

    name: str
    url: str
    process: Process
    control: str = ""  # phasegate's control API
    token: str = ""
    data_path: str = ""  # answered by phasegate itself, from memory
    relay_path: str = ""  # split between two HTTP origins and recorded

    def pids(self) -> list[int]:
        """Every process of it."""
        return procfs.tree(self.process.pid)

    def end(self) -> None:
        """End it."""
        self.process.end()


@dataclass(frozen=True, slots=True)
class ContenderOptions:
    """The parts of a contender's configuration that a work may change."""

    workers: int = 1
    routes: int = 1  # per migration between HTTP origins; no request to the app matches them
    migrations: int = 2  # the data migration, and others between two HTTP origins
    firestore: str = ""  # the emulator's address: the data migration's target


def _started(process: Process, url: str, ready: Callable[[], bool] | None = None) -> None:
    """Start it and wait until it answers a request with 200. Raises ``StageError``, with the process ended."""
    process.start()
    _answering(process, url, ready)


def _answering(process: Process, url: str, ready: Callable[[], bool] | None = None) -> None:
    with ended_on_failure(process):
        process.ready(lambda: answers(url.removeprefix("http://"), "/") and (ready is None or ready()))


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


def nginx(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
    """nginx with split_clients and keep-alive on both sides; bodies are streamed, as phasegate does."""
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
            connections=files - _SPARE_FILES,
        )
    )
    process = Process("nginx", [*place.proxy, "nginx", "-c", str(config), "-e", "stderr"], folder / "log")
    url = f"http://127.0.0.1:{port}"
    _started(process, url)
    return Running("nginx", url, process)


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


def haproxy(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
    """haproxy with two weighted servers and a consistent hash of the key."""
    port, folder = free_port(), place.folder / "haproxy"
    folder.mkdir(exist_ok=True)
    config = folder / "haproxy.cfg"
    config.write_text(
        _HAPROXY.format(
            port=port,
            workers=options.workers,
            connections=_files() // 2 - _SPARE_FILES,  # each client's needs one to a server too
            a=app.ports[0],
            b=app.ports[1],
        )
    )
    process = Process("haproxy", [*place.proxy, "haproxy", "-db", "-f", str(config)], folder / "log")
    url = f"http://127.0.0.1:{port}"
    _started(process, url)
    return Running("haproxy", url, process)


def aiohttp(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
    """A plain proxy on aiohttp and uvloop."""
    command = [*place.proxy, sys.executable, "-m", "loadtest.bench.aiohttp_proxy", *map(str, app.ports)]
    process = Process("aiohttp", command, place.folder / "aiohttp.log", read=True)
    process.start()
    with ended_on_failure(process):
        url = f"http://127.0.0.1:{process.line()['port']}"
    _answering(process, url)
    return Running("aiohttp", url, process)


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
# The first copy opens the gate. Compared is nothing: that would take processor time while something is measured.
data = {{ compare_every = "0" }}
phases = [{{ name = "half", weight = 50, min_soak = "1h", rollback_within = "20s" }}]
"""


def phasegate(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
    """phasegate as users run it: supervisor, workers, control plane; hot modules compiled, as pip installs it."""
    if not any(COMPILED.glob(f"{_GROUP}.*.so")):
        raise BenchError(f"{COMPILED} has no compiled modules: run `make compiled`")
    return _phasegate("phasegate", place, app, options, [COMPILED, ROOT])


def phasegate_of(tree: Path) -> Callable[[Place, BenchApp, ContenderOptions], Running]:
    """Another checkout of phasegate, compiled there, as a contender: what a change of this one costs."""

    def start(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
        compiled = tree / "build" / "compiled"
        if not any(compiled.glob(f"{_GROUP}.*.so")):
            raise BenchError(f"{compiled} has no compiled modules: run `make compiled` in {tree}")
        return _phasegate(BEFORE, place, app, options, [compiled, tree])

    return start


def phasegate_plain(place: Place, app: BenchApp, options: ContenderOptions) -> Running:
    """The same from the plain sources, as it runs without a C compiler."""
    return _phasegate("phasegate-plain", place, app, options, [ROOT])


def _phasegate(name: str, place: Place, app: BenchApp, options: ContenderOptions, search: list[Path]) -> Running:
    """Serve the phasegate found in ``search``, and check that the workers run it."""
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
    # PYTHONSAFEPATH keeps imports from finding the working folder's modules first.
    env = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(map(str, search))}
    if options.firestore:
        env["FIRESTORE_EMULATOR_HOST"] = options.firestore
    process = Process(name, command, folder / "log", env)
    url, api = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}"
    _started(process, url, lambda: answers(f"127.0.0.1:{control}", "/readyz"))
    with ended_on_failure(process):
        _check_form(process, len(search) > 1, options.workers)
        ControlApi(api, token, "data").copy()
        for migration in ("data", "relay0")[: options.migrations]:
            ControlApi(api, token, migration).act("start", reason="a benchmark")
    data_path, relay_path = "/api/dashboard/metrics", "/relay0/x"
    return Running(name, url, process, control=api, token=token, data_path=data_path, relay_path=relay_path)


def _check_form(process: Process, compiled: bool, workers: int) -> None:
    """Check that every worker runs the form to be measured, compiled or not. Raises ``BenchError``."""
    deadline = time.monotonic() + STARTED_WITHIN_S
    forms: list[bool] = []
    while forms != [compiled] * workers:
        if time.monotonic() > deadline:
            raise BenchError(f"{workers} workers, compiled {compiled}: found {forms}. Run `make compiled`")
        time.sleep(LOOK_EVERY_S)
        served = [Path(f"/proc/{pid}") for pid in procfs.tree(process.pid)]
        served = [proc for proc in served if _WORKER.search((proc / "cmdline").read_bytes())]
        forms = [_GROUP in (proc / "maps").read_text() for proc in served]


def _files() -> int:
    """The limit of open files, at most 2**20: nginx and haproxy allocate tables of that size."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)


CONTENDERS: Final[dict[str, Callable[[Place, BenchApp, ContenderOptions], Running]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "aiohttp": aiohttp,
    "phasegate-plain": phasegate_plain,
    "phasegate": phasegate,
}
