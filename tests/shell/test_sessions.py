"""The dashboard's sessions: they outlive the process, and nothing else that they should not."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from control.api.auth import Gatekeeper, Identity, NoCredentials
from control.api.sessions import SESSIONS_MAX, Session, Sessions
from control.plan.settings import Control, Token

TOKENS = (Token("ana", hashlib.sha256(b"a token").hexdigest(), "operator"),)


def gatekeeper(
    path: Path, *, now: float = 100.0, boot: str = "boot", tokens: tuple[Token, ...] = TOKENS
) -> Gatekeeper:
    return Gatekeeper(Control(tokens=tokens), lambda: now, None, (path, boot))


async def test_a_session_goes_on_in_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    cookie, session = gatekeeper(path).begin(Identity("ana", "operator"))
    found = await gatekeeper(path).identify(None, cookie, "127.0.0.1")
    assert found == Identity("ana", "operator", session)


async def test_the_file_is_private_and_no_key_to_anything(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    cookie, _ = gatekeeper(path).begin(Identity("ana", "operator"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cookie not in path.read_text()
    for taken in path.read_text().split('"'):
        with pytest.raises(NoCredentials):
            await gatekeeper(path).identify(None, taken, "127.0.0.1")


@pytest.mark.parametrize(
    "later",
    [
        {"now": 100.0 + 8 * 3600},
        {"boot": "another boot"},
        {"tokens": (*TOKENS, Token("eve", hashlib.sha256(b"x").hexdigest()))},
        {"tokens": (Token("ana", hashlib.sha256(b"a new token").hexdigest(), "operator"),)},
    ],
    ids=["expired", "after a reboot", "other people have access", "its token was replaced"],
)
async def test_a_session_ends(tmp_path: Path, later: dict[str, object]) -> None:
    path = tmp_path / "sessions.json"
    cookie, _ = gatekeeper(path).begin(Identity("ana", "operator"))
    with pytest.raises(NoCredentials):
        await gatekeeper(path, **later).identify(None, cookie, "127.0.0.1")  # type: ignore[arg-type]


async def test_signing_out_holds_in_the_next_process_too(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    first = gatekeeper(path)
    cookie, _ = first.begin(Identity("ana", "operator"))
    first.end(cookie)
    for keeper in (first, gatekeeper(path)):
        with pytest.raises(NoCredentials):
            await keeper.identify(None, cookie, "127.0.0.1")


async def test_a_file_that_is_broken_or_cannot_be_written_only_ends_sessions(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    path.write_text("{")
    cookie, session = gatekeeper(path).begin(Identity("ana", "operator"))
    assert (await gatekeeper(path).identify(None, cookie, "127.0.0.1")).session == session
    keeper = gatekeeper(tmp_path / "no such folder" / "sessions.json")
    cookie, session = keeper.begin(Identity("ana", "operator"))
    assert (await keeper.identify(None, cookie, "127.0.0.1")).session == session


def test_the_oldest_session_is_forgotten_before_there_are_too_many() -> None:
    sessions = Sessions()
    for number in range(SESSIONS_MAX + 1):
        sessions.add(number.to_bytes(32, "big"), Session("ana", "viewer", "c", 1e9), 0.0)
    assert sessions.get((0).to_bytes(32, "big")) is None
    assert sessions.get((1).to_bytes(32, "big")) is not None
