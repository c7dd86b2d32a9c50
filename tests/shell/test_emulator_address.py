"""FIRESTORE_EMULATOR_HOST: what is no HOST:PORT is told by the variable's name, with what was found and expected."""

from __future__ import annotations

import pytest

from backends.errors import Fault
from backends.kinds.firestore.address import emulator_address
from backends.kinds.firestore.channel import open_channel
from backends.kinds.firestore.kind import mend
from backends.kinds.firestore.settings import EMULATOR, Firestore
from control.checks.check import failed
from control.lead import starting
from control.plan.settings import parse

DOCUMENT = {
    "app": {"origin": "http://127.0.0.1:3"},
    "backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "firestore", "project": "demo-a"}},
    "migrations": {"phase6": {"source": "mock", "target": "firestore", "routes": ["/api/scans/*"]}},
}


@pytest.mark.parametrize("good", ["127.0.0.1:8085", "localhost:1", "[::1]:8085", "emulator:65535"])
def test_a_host_and_port_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, good: str) -> None:
    monkeypatch.setenv(EMULATOR, good)
    assert emulator_address() == good
    assert not any("EMULATOR" in problem for problem in starting.refusals(parse(DOCUMENT)))


@pytest.mark.parametrize("unset", [None, ""])
def test_without_it_the_real_service_is_meant(monkeypatch: pytest.MonkeyPatch, unset: str | None) -> None:
    monkeypatch.delenv(EMULATOR, raising=False)
    if unset is not None:
        monkeypatch.setenv(EMULATOR, unset)
    assert emulator_address() is None


@pytest.mark.parametrize(
    ("bad", "meant"),
    [
        ("http://127.0.0.1:8085", '; write "127.0.0.1:8085"'),
        ("https://localhost:8085/", '; write "localhost:8085"'),
        ("localhost", ""),
        ("localhost:0", ""),
        ("localhost:99999", ""),
        ("a b:1", ""),
    ],
)
async def test_anything_else_is_told_by_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, bad: str, meant: str
) -> None:
    monkeypatch.setenv(EMULATOR, bad)
    said = f'{EMULATOR}: expected HOST:PORT such as "127.0.0.1:8085", found "{bad}"{meant}'
    with pytest.raises(Fault) as caught:
        await open_channel("demo-a", "(default)")
    assert str(caught.value).endswith(said)
    assert any(problem.endswith(said) for problem in starting.refusals(parse(DOCUMENT)))
    checks = {check.name: check for check in failed(list(starting.checks(parse(DOCUMENT), same_environment=True)))}
    assert checks["environment"].found.endswith(said)
    assert EMULATOR in mend(Firestore(project="demo-a"))


def test_it_says_nothing_where_no_firestore_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR, "http://127.0.0.1:8085")
    document = DOCUMENT | {"backends": {"mock": {"kind": "mock"}, "firestore": {"kind": "mock"}}}
    assert starting.refusals(parse(document)) == []
