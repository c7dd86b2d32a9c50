"""HTTP origins over TLS and unix sockets as real processes meet them: check, the gate before a raise, and traffic."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from control.api.client import ControlClient
from control.demo.children import Children
from tests.support.authority import Authority
from tests.support.servers import Tcp, tcp, unix

REPOSITORY = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"
CONFIG = """
[app]
origin = "https://localhost:{app}"
tls = {{ ca = "ca.pem" }}
connect_timeout = "60s"
[proxy]
listen = ["127.0.0.1:0"]
workers = 1
run_dir = "run"
[backends.own]
kind = "http"
origin = "https://localhost:{app}"
[backends.old]
kind = "http"
origin = "unix:{folder}/old.sock"
health = "/healthz"
[backends.new]
kind = "http"
origin = "https://localhost:{new}"
tls = {tls}
health = "/healthz"
deadline = "{deadline}"
[migrations.shop]
source = "old"
target = "new"
routes = ["/shop/*"]
phases = [{{ name = "all", weight = 100, min_soak = "10m" }}]
[migrations.own]
source = "own"
target = "new"
routes = ["/own/*"]
[control]
listen = "127.0.0.1:0"
tokens = [{{ name = "tests", sha256 = "{sha256}", role = "operator" }}]
"""
TLS = '{ ca = "ca.pem", server_name = "new.internal", certificate = "us.pem", key = "us.key" }'


class Stage:
    """The origins and a configuration of phasegate in front of them, in ``folder``."""

    def __init__(self, folder: Path, new: Tcp, write: Callable[[str], None]) -> None:
        self.folder, self.new, self.write = folder, new, write
        self.address = ""
        self.control = ""

    def phasegate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "control.cli", *arguments]
        told = {**os.environ, "PHASEGATE_TOKEN": TOKEN, "PHASEGATE_URL": f"http://{self.control or '127.0.0.1:1'}"}
        return subprocess.run(command, cwd=REPOSITORY, env=told, capture_output=True, text=True, timeout=60)

    def check(self) -> dict[str, Any]:
        done = self.phasegate("check", "--json", "--config", str(self.folder / "phasegate.toml"))
        return {check["name"]: check for check in json.loads(done.stdout)["checks"]}

    def get(self, path: str) -> tuple[bytes, str]:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return answer.read(), answer.headers["x-data-fallback"] or ""


@pytest.fixture
def deadline() -> str:
    """Of a request to the new origin: a test that is about it gives another."""
    return "60s"


@pytest.fixture
def stage(tmp_path: Path, deadline: str) -> Iterator[Stage]:
    authority = Authority(tmp_path)
    authority.issue("us", files=("us.pem", "us.key"))
    with ExitStack() as opened:
        app = opened.enter_context(tcp(authority.server(), b"app"))
        opened.enter_context(unix(tmp_path / "old.sock", b"old"))
        new = opened.enter_context(tcp(authority.server(asks=True, names=("new.internal",)), b"new"))

        def write(tls: str) -> None:
            sha256 = hashlib.sha256(TOKEN.encode()).hexdigest()
            ports = {"app": app.server_address[1], "new": new.server_address[1]}
            text = CONFIG.format(tls=tls, deadline=deadline, folder=tmp_path, sha256=sha256, **ports)
            (tmp_path / "phasegate.toml").write_text(text)

        write(TLS)
        yield Stage(tmp_path, new, write)


@pytest.fixture
def served(stage: Stage, children: Children, until: Callable[..., None]) -> Stage:
    children.python("phasegate", "control.cli", "serve", "--config", str(stage.folder / "phasegate.toml"))
    ready = stage.folder / "run" / "ready.json"
    until(ready.exists, 60, "phasegate's start")
    said = json.loads(ready.read_text())
    stage.address, stage.control = said["proxy"][0], said["control"]
    until(ControlClient(f"http://{stage.control}", TOKEN).ready, 60, "the control plane")
    return stage


def test_check_finds_every_origin_well(stage: Stage) -> None:
    found = stage.check()
    for name in ("app", "backend own", "backend old", "backend new"):
        assert found[name]["ok"], found[name]


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ('{ server_name = "new.internal" }', "authority that is not trusted here"),
        ('{ ca = "ca.pem", certificate = "us.pem", key = "us.key" }', "is for another name"),
        ('{ ca = "ca.pem", server_name = "new.internal" }', "set `tls.certificate` and `tls.key`"),
        ('{ ca = "none.pem" }', "none.pem: no such file"),
    ],
)
def test_check_says_what_is_wrong_with_the_tls_of_a_target(stage: Stage, tls: str, said: str) -> None:
    stage.write(tls)
    found = stage.check()
    assert found["backend new"]["ok"] is False
    assert said in found["backend new"]["found"]
    assert found["backend new"]["mend"]
    assert found["backend old"]["ok"], "and of no other"


def test_files_that_cannot_be_used_are_said_before_anything_starts(stage: Stage) -> None:
    stage.write('{ ca = "none.pem" }')
    done = stage.phasegate("serve", "--config", str(stage.folder / "phasegate.toml"))
    assert done.returncode != 0
    assert "backends.new.tls" in done.stderr
    assert "none.pem" in done.stderr
    assert "Traceback" not in done.stderr


def test_traffic_passes_over_tls_and_unix_sockets_and_a_start_waits_for_health(
    served: Stage, until: Callable[..., None]
) -> None:
    assert served.get("/other") == (b"app", "")
    assert served.get("/own/x") == (b"app", ""), "an arm at the app's own origin is reached with the app's TLS"
    assert served.get("/shop/x") == (b"old", "")

    served.new.health = 503
    refused = served.phasegate("start", "--migration", "shop", "--detach")
    assert refused.returncode == 3
    assert "answers 503 to GET /healthz; expected 2xx or 3xx" in refused.stderr
    rehearsed = served.phasegate("start", "--migration", "shop", "--dry-run")
    assert rehearsed.returncode == 3
    assert served.get("/shop/x") == (b"old", "")

    served.new.health = 204
    started = served.phasegate("start", "--migration", "shop", "--detach")
    assert started.returncode == 0, started.stderr
    until(lambda: served.get("/shop/x") == (b"new", ""), 30, "an answer over TLS with our certificate")


@pytest.mark.parametrize("deadline", ["1s"])
def test_a_target_that_hangs_is_no_target_and_one_that_dies_costs_no_reader(
    served: Stage, until: Callable[..., None]
) -> None:
    started = served.phasegate("start", "--migration", "shop", "--detach")
    assert started.returncode == 0, started.stderr
    until(lambda: served.get("/shop/x")[0] == b"new", 30, "an answer of the target")
    port = served.new.server_address[1]
    served.new.shutdown()
    served.new.server_close()  # dead, and then somebody who never finishes a handshake
    until(lambda: served.get("/shop/x")[0] == b"old", 30, "an answer in its place")
    with socket.create_server(("127.0.0.1", port)):
        assert served.get("/shop/x")[0] == b"old"
        refused = served.phasegate("start", "--migration", "own", "--detach")
        assert refused.returncode == 3
        assert "it accepted no connection within 1 s" in refused.stderr
