"""What `serve` refuses, `check` tells, in the same words; and what `check` tells beyond it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from control.checks.check import failed
from control.lead import splitkey, starting
from control.lead.succession import STORE
from control.plan.settings import Settings, located, parse
from control.rollout.model import Entry, Rollout, State
from control.store.sqlite import Store
from proxy.process import rundir

HALF = Rollout(State.PAUSED, weight_bp=5000, revision=3, generation=2)
ENDED = Rollout(State.ABORTED, revision=3, generation=2)
LISTENER = {"address": "127.0.0.1:0", "tls": {"certificate": "cert.pem", "key": "key.pem"}}


def settings(folder: Path, name: str = "store", **changed: Any) -> Settings:
    migration = {"source": "old", "target": "new", "routes": ["/api/scans/*"], **changed.get("migration", {})}
    document = {
        "app": {"origin": "https://127.0.0.1:3", **changed.get("app", {})},
        "proxy": {"run_dir": "run", **changed.get("proxy", {})},
        "backends": {"old": {"kind": "mock", **changed.get("old", {})}, "new": {"kind": "mock"}},
        "migrations": {name: migration},
        "abandon": changed.get("abandon", []),
    }
    return located(parse(document), folder)


def issue(folder: Path, name: str) -> None:
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    out = ["-keyout", str(folder / f"{name}-key.pem"), "-out", str(folder / f"{name}.pem")]
    command = ["openssl", "req", "-x509", *kind, "-subj", f"/CN={name}", "-days", "2", *out]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where nothing is in the way: a certificate with its key, and an empty run directory."""
    issue(tmp_path, "one")
    issue(tmp_path, "other")
    (tmp_path / "one.pem").rename(tmp_path / "cert.pem")
    (tmp_path / "one-key.pem").rename(tmp_path / "key.pem")
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


def saved(folder: Path, kind: str = "start", **rollouts: Rollout) -> None:
    store = Store(folder / "run" / STORE)
    for name, rollout in rollouts.items():
        now = time.time()
        store.save(name, msgspec.json.encode({"rollout": rollout}).decode(), [(now, Entry(kind, "ci", {}))], now)
    store.close()


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def other_key(folder: Path) -> None:
    (folder / "other-key.pem").rename(folder / "key.pem")


def nothing(folder: Path) -> None: ...


TLS = {"proxy": {"listeners": [LISTENER]}}
CA = {"app": {"tls": {"ca": "ca.pem"}}}
# What is done to the folder, what the configuration says, which check fails, and what it says.
REFUSED = [
    (remove("cert.pem"), TLS, "TLS files", "cert.pem: no such file or directory; expected certificates in PEM"),
    (write("cert.pem", b"\x30\x82"), TLS, "TLS files", "cert.pem: it holds no PEM; expected certificates in PEM"),
    (write("cert.pem", b""), TLS, "TLS files", "cert.pem: it is empty"),
    (write("key.pem", b"-----BEGIN CERTIFICATE-----"), TLS, "TLS files", "key.pem: it holds another thing in PEM"),
    (other_key, TLS, "TLS files", "key.pem: it is not the key of"),
    (nothing, CA, "TLS files", "ca.pem: no such file or directory; expected certificates in PEM"),
    (write("ca.pem", b"?"), CA, "TLS files", "ca.pem: it holds no PEM"),
    (nothing, {"old": {"fixtures": "nowhere"}}, "fixtures", "nowhere does not exist; expected a folder"),
    (write(f"run/{splitkey.FILE}", b"short"), {}, "split key", "has 5 bytes, expected 32"),
]


def failures(given: Settings) -> dict[str, str]:
    return {check.name: check.found for check in failed(list(starting.checks(given, same_environment=True)))}


def test_where_nothing_is_in_the_way_nothing_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_KEY", "k")
    hook = {"url": "http://127.0.0.1:1/", "secret_env": "HOOK_KEY"}
    proxy = {"listeners": [LISTENER], "access_log": {"path": "access.log"}}
    well = settings(folder, proxy=proxy, app={"tls": {"ca": "cert.pem"}}, migration={"webhooks": [hook]})
    assert starting.refusals(well) == []
    assert failures(well) == {}


@pytest.mark.parametrize(("spoil", "changed", "name", "said"), REFUSED)
def test_what_serve_refuses_fails_the_check(
    folder: Path, spoil: Callable[[Path], object], changed: dict[str, Any], name: str, said: str
) -> None:
    spoil(folder)
    given = settings(folder, **changed)
    assert said in failures(given)[name]
    assert any(said in problem for problem in starting.refusals(given))


def test_what_serve_does_without_fails_the_check_and_not_the_start(folder: Path) -> None:
    hook = {"url": "http://127.0.0.1:1/", "secret_env": "HOOK_KEY_NOT_SET"}
    given = settings(
        folder, proxy={"access_log": {"path": "logs/access.log"}}, migration={"webhooks": [{"url": "http://a"}, hook]}
    )
    assert starting.refusals(given) == []
    found = failures(given)
    assert "webhooks[1].secret_env: the environment variable HOOK_KEY_NOT_SET is not set" in found["webhook key"]
    assert f"there is no folder {folder}/logs" in found["access log"]
    elsewhere = {check.name: check.ok for check in starting.checks(given, same_environment=False)}
    assert elsewhere["webhook key"] is None, "the environment of `serve` is not known here"
    assert elsewhere["access log"] is False


def test_a_log_that_is_a_folder_is_told(folder: Path) -> None:
    (folder / "access.log").mkdir()
    given = settings(folder, proxy={"access_log": {"path": "access.log"}})
    assert "it is a folder; expected a file" in failures(given)["access log"]


def test_a_run_directory_of_a_newer_version_fails_the_check(folder: Path) -> None:
    (folder / "run" / "version").write_text(f"{rundir.FORM + 1}\n")
    assert "was written by a newer phasegate" in failures(settings(folder))["run directory"]


def test_a_migration_in_flight_that_is_missing_fails_the_check(folder: Path) -> None:
    saved(folder, shop=HALF)
    found = failures(settings(folder))["migrations"]
    assert 'migration "shop" is paused at 50 %' in found
    assert 'was = "shop"' in found


@pytest.mark.parametrize(
    ("name", "changed", "state"),
    [
        ("shop", {}, "shop is paused at 50 %"),
        ("store", {"migration": {"was": "shop"}}, "store (was shop) is paused at 50 %"),
        ("store", {"abandon": ["shop"]}, "shop is paused at 50 % and is abandoned"),
    ],
)
def test_what_becomes_of_a_migration_in_flight_is_told(
    folder: Path, name: str, changed: dict[str, Any], state: str
) -> None:
    saved(folder, shop=HALF)
    given = settings(folder, name, **changed)
    assert failures(given) == {}
    told = {check.name: check.found for check in starting.checks(given, same_environment=True)}
    assert told["migrations"] == state


def test_a_mistyped_was_of_a_migration_at_rest_fails_the_check(folder: Path) -> None:
    saved(folder, shop=ENDED)
    found = failures(settings(folder, migration={"was": "shpo"}))["migrations"]
    assert found == ('migrations.store.was: nothing is known of "shpo", so "store" begins anew; did you mean "shop"?')
    assert failures(settings(folder, migration={"was": "shop"})) == {}
    saved(folder, store=HALF)
    assert failures(settings(folder, migration={"was": "shpo"})) == {}, "it was continued long ago"


def test_a_was_in_a_new_run_directory_is_no_mistake(folder: Path) -> None:
    assert failures(settings(folder, migration={"was": "shop"})) == {}
