"""Listeners beside the plain one, and what replacing workers costs their clients: real processes, no emulator."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from control.demo.children import Children
from tests.support.two_mocks import TWO_MOCKS

REPOSITORY = Path(__file__).parents[2]
CONFIG = (
    """
[app]
origin = "{origin}"
connect_timeout = "60s"
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
run_dir = "run"
trusted = ["127.0.0.0/8"]
listeners = [
  {{ address = "127.0.0.1:0", tls = {{ certificate = "cert.pem", key = "key.pem" }} }},
  {{ address = "127.0.0.1:0", proxy_protocol = true }},
]
[proxy.access_log]
path = "access.log"
"""
    + TWO_MOCKS
    + """\
routes = ["/api/dashboard/*"]
[control]
listen = "127.0.0.1:0"
"""
)


def issue(folder: Path, name: str) -> None:
    """A self-signed certificate for loopback, over the one before."""
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    out = ["-keyout", str(folder / "key.new"), "-out", str(folder / "cert.new")]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *kind, *subject, *out], check=True, capture_output=True)
    for part in ("key", "cert"):
        (folder / f"{part}.new").rename(folder / f"{part}.pem")


def subject_of(address: str) -> str:
    """Whom the certificate names that is served there now."""
    host, port = address.split(":")
    pem = ssl.get_server_certificate((host, int(port)))
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, text=True, check=True
    )
    return text.stdout.strip().rpartition("=")[2].strip()


def status_on(sock: socket.socket) -> int:
    with HTTPResponse(sock) as response:
        response.begin()
        response.read()
        return response.status


@pytest.fixture
def served(tmp_path: Path, children: Children, until: Callable[..., None]) -> dict[str, Any]:
    """phasegate in front of the demo's app with three listeners: what its ready.json says."""
    app = children.python("app", "control.demo.app", read=True)
    assert app.stdout is not None
    (tmp_path / "phasegate.toml").write_text(
        CONFIG.format(origin=f"http://127.0.0.1:{json.loads(app.stdout.readline())['port']}")
    )
    issue(tmp_path, "one")
    children.python("phasegate", "control.cli", "serve", "--config", str(tmp_path / "phasegate.toml"))
    ready = tmp_path / "run" / "ready.json"
    until(ready.exists, 60, "phasegate's start")
    return dict(json.loads(ready.read_text()))


def test_every_listener_serves_and_a_new_certificate_needs_no_restart(
    served: dict[str, Any], tmp_path: Path, until: Callable[..., None]
) -> None:
    plain, secure, balanced = served["proxy"]
    host, port = plain.split(":")
    with socket.create_connection((host, int(port)), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_on(sock) == 200

    host, port = secure.split(":")
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with context.wrap_socket(socket.create_connection((host, int(port)), 30), server_hostname=host) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_on(sock) == 200
        issue(tmp_path, "two")
        until(lambda: {subject_of(secure) for _ in range(8)} == {"two"}, 30, "the new certificate on both workers")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_on(sock) == 200, "who was here before stays"

    host, port = balanced.split(":")
    with socket.create_connection((host, int(port)), 30) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_on(sock) == 200
    log = tmp_path / "access.log"
    until(lambda: log.exists() and "192.0.2.7" in log.read_text(), 30, "the access log's line")
    assert {json.loads(line)["client"] for line in log.read_text().splitlines()} == {"127.0.0.1", "192.0.2.7"}


def test_replacing_workers_loses_no_request_of_a_kept_connection(served: dict[str, Any]) -> None:
    """A client that asks again and again on one connection is told when it is the last time."""
    plain = served["proxy"][0]
    connection = HTTPConnection(plain, timeout=30)

    def ask() -> bool:
        connection.request("GET", "/")
        with connection.getresponse() as response:
            assert response.status == 200
            response.read()
            return response.getheader("connection") == "close"

    told = ask()  # by a worker of the first generation
    os.kill(served["pid"], signal.SIGHUP)
    end = time.monotonic() + 60
    while not told and time.monotonic() < end:
        told = ask()
        time.sleep(0.002)
    assert told, "no worker was replaced"
    ask()  # on a new connection, to a successor
    connection.close()


def test_a_certificate_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "phasegate.toml").write_text(CONFIG.format(origin="http://127.0.0.1:1"))
    command = [sys.executable, "-m", "control.cli", "serve", "--config", str(tmp_path / "phasegate.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "certificate of 127.0.0.1:0" in done.stderr
    assert "Traceback" not in done.stderr
