"""How the command line finds a running phasegate by its configuration."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from control.api.client import DEFAULT_URL
from control.api.unanswered import Unreachable
from control.cli.finding import chosen_migration, control_url, found_url, peek, proxy_url
from control.terminal.exits import USAGE, Stop
from proxy.process import rundir
from proxy.process.rundir import ReadyNote

CONFIG = """
[proxy]
listen = ["0.0.0.0:0"]
run_dir = "run"
[control]
listen = "{listen}"
[migrations.shop]
"""


def written(folder: Path, listen: str) -> str:
    path = folder / "phasegate.toml"
    path.write_text(CONFIG.format(listen=listen))
    return str(path)


def test_who_serves_from_the_run_directory_says_where_it_is(tmp_path: Path) -> None:
    config = written(tmp_path, "127.0.0.1:0")
    with rundir.take(tmp_path / "run"):
        ready = ReadyNote(os.getpid(), ("0.0.0.0:40002", "127.0.0.1:40003"), "127.0.0.1:40001")
        rundir.note_ready(tmp_path / "run", ready)
        assert found_url(peek(config, needed=True), config) == "http://127.0.0.1:40001"
        assert proxy_url(config) == "http://127.0.0.1:40002"
        # The file was edited since: what is served is where it was.
        config = written(tmp_path, "127.0.0.1:9091")
        assert found_url(peek(config, needed=True), config) == "http://127.0.0.1:40001"
    assert found_url(peek(config, needed=True), config) == "http://127.0.0.1:9091"


def test_a_port_that_is_chosen_at_the_start_leads_nowhere_while_nobody_serves(tmp_path: Path) -> None:
    config = written(tmp_path, "127.0.0.1:0")
    with pytest.raises(
        Unreachable, match=r"no phasegate serves from .*run, and the port of control.listen .127.0.0.1:0. is chosen"
    ) as found:
        found_url(peek(config, needed=True), config)
    assert "PHASEGATE_URL" in found.value.hint
    assert control_url("127.0.0.1:0", tmp_path / "run") is None


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:9090", "http://127.0.0.1:9090"),
        ("[::]:9090", "http://[::1]:9090"),
        ("[::1]:9090", "http://[::1]:9090"),
        ("control.internal:80", "http://control.internal:80"),
    ],
)
def test_an_address_is_one_that_can_be_asked(tmp_path: Path, listen: str, url: str) -> None:
    assert control_url(listen, tmp_path) == url


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert found_url({}, str(tmp_path / "phasegate.toml")) == DEFAULT_URL
    assert chosen_migration({}, "phasegate.toml") == "phase6"
    assert chosen_migration({"migrations": {"a": {}}}, "phasegate.toml") == "a"
    with pytest.raises(Stop, match=r"several migrations: choose one with --migration \(a, b\)") as found:
        chosen_migration({"migrations": {"a": {}, "b": {}}}, "phasegate.toml")
    assert found.value.code == USAGE
