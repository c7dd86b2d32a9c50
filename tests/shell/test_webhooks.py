"""Webhooks: signed, tried again, and never in the way."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from control.lead import receiver as receivers
from control.lead.news import ApprovalNeeded, Held, LeaseLost, Told
from control.lead.receiver import ATTEMPTS, QUEUE_MAX, Receiver, failure, signature
from control.lead.spool import Spool, SpooledMessage, SpoolFile
from control.lead.webhooks import REASON_MAX, SPOOL, Webhooks, message_of, spooled
from control.plan.settings import Webhook
from control.rollout.model import PhaseChange, Rollback, RollbackBegun, State
from tests.support.patience import WITHIN_S

BEGUN = RollbackBegun("breach", 25.0, 5.0, "errors", 7)
MESSAGE = spooled(message_of("phase6", 1_700_000_000.0, BEGUN, 7), ("it",))


def forget(message_id: str) -> None:
    """Nobody keeps what was taken."""


def phase(number: int) -> PhaseChange:
    return PhaseChange(State.RUNNING, f"phase {number}", float(number))


class Inbox:
    """A receiver of webhooks that answers what the test says, in order, and then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return web.Response(status=self.answers.pop(0) if self.answers else 200)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    made = Inbox()
    app = web.Application()
    app.router.add_post("/hook/secret-path", made.handle)
    async with TestServer(app) as server:
        made.url = str(server.make_url("/hook/secret-path"))
        yield made


async def got(inbox: Inbox, count: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while len(inbox.got) < count:
            await asyncio.sleep(0.01)


async def test_a_message_is_signed_so_that_its_receiver_can_tell(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "a key")
    hooks = Webhooks({"phase6": [Webhook(inbox.url, "HOOK_KEY")]}, tmp_path)
    hooks.start()
    hooks.notify("phase6", BEGUN, 7)
    hooks.notify("other", BEGUN, 7)
    await got(inbox, 1)
    await hooks.close()
    headers, body = inbox.got[0]
    assert json.loads(body)["event"] == headers["X-Phasegate-Event"] == "rollback"
    assert json.loads(body)["migration"] == "phase6"
    unix, mac = headers["X-Phasegate-Signature"].removeprefix("t=").split(",v1=")
    assert hmac.new(b"a key", f"{unix}.".encode() + body, hashlib.sha256).hexdigest() == mac
    assert signature(b"a key", int(unix), body) == headers["X-Phasegate-Signature"]
    assert len(inbox.got) == 1


@pytest.mark.parametrize(
    ("news", "event", "detail"),
    [
        (
            PhaseChange(State.RUNNING, "half", 50.0),
            "phase_change",
            {"state": "running", "phase": "half", "weight": 50.0},
        ),
        (BEGUN, "rollback", {"trigger": "breach", "from_weight": 25.0, "to_weight": 5.0, "reason": "errors"}),
        (
            Rollback("breach", "errors", 25.0, 5.0, 1.0, 2.0, 3.0, 6.0, True),
            "rollback_complete",
            {
                "trigger": "breach",
                "reason": "errors",
                "from_weight": 25.0,
                "to_weight": 5.0,
                "decided_ms": 1.0,
                "seen_ms": 2.0,
                "drained_ms": 3.0,
                "total_ms": 6.0,
                "within_deadline": True,
            },
        ),
        (
            ApprovalNeeded("half", 50.0, "it waits"),
            "approval_needed",
            {"phase": "half", "weight": 50.0, "reason": "it waits"},
        ),
        (
            Held("window", None, None, "outside the hours"),
            "held",
            {"reason_kind": "window", "phase": None, "weight": None, "reason": "outside the hours"},
        ),
        (LeaseLost(25.0, "it ran out"), "lease_lost", {"from_weight": 25.0, "reason": "it ran out"}),
        (
            Held("health", "half", 50.0, "x" * 10_000),
            "held",
            {"reason_kind": "health", "phase": "half", "weight": 50.0, "reason": "x" * REASON_MAX},
        ),
    ],
)
def test_a_message_says_what_happened_when_to_whom_and_at_which_revision(
    news: Told, event: str, detail: dict[str, Any]
) -> None:
    said = {"event": event, "migration": "phase6", "at": "2023-11-14T22:13:20.000Z", **detail, "revision": 7}
    assert json.loads(msgspec.json.encode(message_of("phase6", 1_700_000_000.0, news, 7))) == said


async def test_a_message_is_tried_again_as_the_same_delivery(inbox: Inbox) -> None:
    inbox.answers = [500, 302, 429]
    receiver = Receiver(Webhook(inbox.url), forget, backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await got(inbox, 4)
    task.cancel()
    assert len({headers["X-Phasegate-Delivery"] for headers, _ in inbox.got}) == 1


async def test_a_receiver_that_is_away_holds_nothing_up(free_port: Callable[[], int]) -> None:
    receiver = Receiver(Webhook(f"http://127.0.0.1:{free_port()}/"), forget, backoff_s=10.0)
    task = asyncio.create_task(receiver.run())
    for _ in range(QUEUE_MAX + 50):
        receiver.put(MESSAGE)
    assert receiver.dropped >= 49
    task.cancel()


async def test_without_its_key_nothing_is_sent_unsigned(inbox: Inbox, capsys: Any) -> None:
    receiver = Receiver(Webhook(inbox.url, "NOT_SET_ANYWHERE"), forget)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await asyncio.sleep(0.05)
    task.cancel()
    assert inbox.got == []


async def test_a_webhooks_path_is_never_logged(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    inbox.answers = [500] * 2
    receiver = Receiver(Webhook(inbox.url), forget, backoff_s=0.01)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await got(inbox, 3)
    task.cancel()
    told = capsys.readouterr()
    assert "webhook_failed" in told.out + told.err
    assert "secret-path" not in told.out + told.err


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


def phases(inbox: Inbox) -> list[str]:
    """The messages in the order in which they came, by their phase."""
    return [json.loads(body)["phase"] for _, body in inbox.got]


def here(url: str) -> dict[str, list[Webhook]]:
    return {"phase6": [Webhook(url)]}


async def test_what_was_not_taken_is_sent_by_the_next_process_in_order(inbox: Inbox, tmp_path: Path) -> None:
    inbox.answers = [200, 503, *[503] * 100]
    first = Webhooks(here(inbox.url), tmp_path, backoff_s=0.01)
    first.start()
    for number in range(3):
        first.notify("phase6", phase(number), number)
    await got(inbox, 3)
    await first.close()
    before = [headers["X-Phasegate-Delivery"] for headers, _ in inbox.got]
    inbox.answers.clear()
    inbox.got.clear()
    second = Webhooks(here(inbox.url), tmp_path, backoff_s=0.01)
    second.notify("phase6", phase(3), 3)  # before it has read what the first one left
    second.start()
    await got(inbox, 3)
    await second.close()
    assert phases(inbox) == ["phase 1", "phase 2", "phase 3"]
    assert inbox.got[0][0]["X-Phasegate-Delivery"] == before[-1]
    third = Webhooks(here(inbox.url), tmp_path)
    third.start()
    await third._spool.loaded
    await third.close()
    assert third._spool.loaded.result() == []


async def test_what_waits_when_a_migration_is_renamed_says_both_names(inbox: Inbox, tmp_path: Path) -> None:
    inbox.answers = [503] * 1000
    for hooks in (
        Webhooks({"shop": [Webhook(inbox.url)], "other": [Webhook(inbox.url)]}, tmp_path, backoff_s=10.0),
        # Nobody takes it under its second name either; this process has written it down.
        Webhooks({"store": [Webhook(inbox.url)]}, tmp_path, names={"shop": "store"}, backoff_s=10.0),
    ):
        hooks.start()
        for name in hooks._receivers_of:
            hooks.notify(name, phase(1), 1)
        await got(inbox, 1)
        await hooks.close()
        inbox.got.clear()
    before = [message.id for message in SpoolFile(tmp_path / SPOOL).load()]
    inbox.answers.clear()
    last = Webhooks({"mall": [Webhook(inbox.url)]}, tmp_path, names={"store": "mall"}, backoff_s=0.01)
    last.start()
    await got(inbox, 3)
    await last.close()
    sent = [json.loads(body) for _, body in inbox.got]
    assert [(body["migration"], body.get("was")) for body in sent] == [
        ("mall", "shop"),
        ("other", None),
        ("mall", "store"),
    ]
    assert [headers["X-Phasegate-Delivery"] for headers, _ in inbox.got] == before
    assert sent[0]["phase"] == "phase 1"


async def test_a_killed_process_leaves_what_it_was_told(inbox: Inbox, tmp_path: Path) -> None:
    inbox.answers = [503] * 1000
    killed = Webhooks(here(inbox.url), tmp_path, backoff_s=0.01)
    killed.start()
    for number in range(3):
        killed.notify("phase6", phase(number), number)
    await got(inbox, 1)
    # Never closed: what a second process finds is what the first had written by itself.
    await until(lambda: len(SpoolFile(tmp_path / SPOOL).load()) == 3)
    await killed.close()


async def test_each_receiver_has_a_place_of_its_own_in_the_spool(inbox: Inbox, tmp_path: Path) -> None:
    away = inbox.url.replace("secret-path", "nobody-here")
    hooks = Webhooks({"phase6": [Webhook(away), Webhook(inbox.url), Webhook(inbox.url)]}, tmp_path, backoff_s=0.01)
    hooks.start()
    hooks.notify("phase6", phase(0), 0)
    hooks.notify("phase6", phase(1), 1)
    await got(inbox, 2)
    await until(lambda: all(len(message.to) == 1 for message in hooks._spool._waiting.values()))
    await hooks.close()
    assert phases(inbox) == ["phase 0", "phase 1"]
    left = SpoolFile(tmp_path / SPOOL).load()
    assert [message.to for message in left] == [(receivers.receiver_id(Webhook(away)),)] * 2


async def test_what_is_for_a_receiver_that_is_configured_no_more_is_dropped_and_logged(
    tmp_path: Path, free_port: Callable[[], int], logged: list[Any]
) -> None:
    before = Webhooks(here(f"http://127.0.0.1:{free_port()}/"), tmp_path)
    before.start()
    before.notify("phase6", phase(0), 0)
    await before.close()
    after = Webhooks({}, tmp_path)
    after.start()
    await until(lambda: any(line["event"] == "webhook_receiver_gone" for line in logged))
    await after.close()
    assert SpoolFile(tmp_path / SPOOL).load() == []


async def test_a_receiver_that_is_away_for_hours_costs_bounded_memory_and_disk(
    tmp_path: Path, free_port: Callable[[], int], logged: list[Any]
) -> None:
    hooks = Webhooks(here(f"http://127.0.0.1:{free_port()}/"), tmp_path, backoff_s=10.0)
    hooks.start()
    await hooks._spool.loaded
    for number in range(QUEUE_MAX * 12):
        hooks.notify("phase6", phase(number), number)
        if number % 100 == 0:
            await until(lambda: not hooks._spool._unwritten)
    await until(lambda: not hooks._spool._unwritten)
    (receiver,) = hooks.receivers.values()
    size = (tmp_path / SPOOL).stat().st_size
    await hooks.close()
    assert (receiver.waiting, receiver.dropped) == (QUEUE_MAX, QUEUE_MAX * 11)
    assert sum(line["event"] == "webhook_dropped" for line in logged) == QUEUE_MAX * 11
    left = SpoolFile(tmp_path / SPOOL).load()
    assert json.loads(bytes(left[0].body))["phase"] == f"phase {QUEUE_MAX * 11}", "the newest stay"
    assert len(left) == QUEUE_MAX
    assert size < 3 * QUEUE_MAX * 500 + (1 << 20)


async def test_a_message_that_is_refused_does_not_keep_back_the_others(inbox: Inbox, logged: list[Any]) -> None:
    inbox.answers = [503, 404, *[422] * ATTEMPTS]
    taken: list[str] = []
    receiver = Receiver(Webhook(inbox.url), taken.append, backoff_s=0.0)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    receiver.put(spooled(message_of("phase6", 0.0, phase(1), 8), ("it",)))
    await got(inbox, ATTEMPTS + 3)
    await until(lambda: len(taken) == 2)
    task.cancel()
    assert receiver.dropped == 1
    assert [line["reason"] for line in logged if line["event"] == "webhook_dropped"] == ["status 422"]


async def test_a_receiver_that_is_away_fills_no_log(inbox: Inbox, logged: list[Any]) -> None:
    inbox.answers = [404] * 40
    receiver = Receiver(Webhook(inbox.url), forget, backoff_s=0.0)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await until(lambda: any(line["event"] == "webhook_delivered" for line in logged))
    task.cancel()
    failed = [line["attempt"] for line in logged if line["event"] == "webhook_failed"]
    assert failed == [1, 2, 4, 8, 16, 32]


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The address of a server that does this with each connection."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret-path"
    server.close()


async def reason_of(url: str, logged: list[Any]) -> str:
    """What is logged of the first attempt to deliver to an address."""
    receiver = Receiver(Webhook(url), forget, backoff_s=10.0)
    task = asyncio.create_task(receiver.run())
    receiver.put(MESSAGE)
    await until(lambda: any(line["event"] == "webhook_failed" for line in logged))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return str(next(line["reason"] for line in logged if line["event"] == "webhook_failed"))


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await writer.drain()
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_receiver_that_refuses_connections_is_told_so(
    free_port: Callable[[], int], logged: list[Any]
) -> None:
    assert await reason_of(f"http://127.0.0.1:{free_port()}/", logged) == "the connection was refused"


async def test_a_receiver_whose_name_nobody_knows_is_told_so(logged: list[Any]) -> None:
    assert await reason_of("http://nobody.invalid/", logged) == "the name was not found"


@pytest.mark.parametrize(
    ("answer", "scheme", "expected"),
    [
        (hang_up, "http", "the connection was cut before an answer"),
        (babble, "http", "its answer is not HTTP"),
        (babble, "https", "the TLS handshake failed"),
        (say_nothing, "http", "timed out after 5 s"),
    ],
)
async def test_what_went_wrong_with_a_receiver_is_told_in_words(
    answer: Any, scheme: str, expected: str, logged: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control.lead.receiver.TIMEOUT_S", 0.3 if answer is say_nothing else 30.0)
    async with serving(answer) as url:
        assert await reason_of(url.replace("http:", f"{scheme}:"), logged) == expected


def test_no_failure_is_told_as_the_name_of_a_class() -> None:
    class StrangeError(aiohttp.ClientError):
        pass

    assert failure(StrangeError("https://hook.example/secret")) == "the connection failed"


async def test_messages_wait_in_memory_while_the_disk_takes_none(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr("control.lead.webhooks.READ_WITHIN_S", 0.05)
    spool = tmp_path / SPOOL
    spool.mkdir()  # nothing can be written there
    hooks = Webhooks(here(inbox.url), tmp_path, backoff_s=0.01)
    hooks._spool._retry_s = 0.01
    inbox.answers = [503] * 5
    hooks.start()
    hooks.notify("phase6", phase(0), 0)
    await until(lambda: any(line["event"] == "webhook_spool_failed" for line in logged))
    await got(inbox, 6)
    inbox.answers = [503] * 1000
    hooks.notify("phase6", phase(1), 1)
    spool.rmdir()
    await until(lambda: any(line["event"] == "webhook_spool_back" for line in logged))
    await hooks.close()
    (left,) = SpoolFile(spool).load()
    assert json.loads(bytes(left.body))["phase"] == "phase 1"


async def test_a_write_that_fails_halfway_costs_no_message(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    inbox.answers = [503] * 1000
    hooks = Webhooks(here(inbox.url), tmp_path, backoff_s=0.01)
    hooks._spool._retry_s = 0.01
    hooks.start()
    await hooks._spool.loaded
    real, whole = os.write, [False]

    def half(fd: int, data: bytes) -> int:
        if whole[0]:
            return real(fd, data)
        real(fd, bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("control.lead.spool.os.write", half)
    hooks.notify("phase6", phase(0), 0)
    await until(lambda: hooks._spool.failing)
    hooks.notify("phase6", phase(1), 1)
    whole[0] = True
    await until(lambda: not hooks._spool.failing)
    await hooks.close()
    assert [json.loads(bytes(message.body))["phase"] for message in SpoolFile(tmp_path / SPOOL).load()] == [
        "phase 0",
        "phase 1",
    ]


def test_a_spool_that_breaks_off_or_is_damaged_gives_what_can_be_read(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "spool")
    line = msgspec.json.encode(MESSAGE) + b"\n"
    file.append(line + b"\xff{]\n" + line.replace(MESSAGE.id.encode(), b"another") + line[:40])
    file.close()
    assert [message.id for message in file.load()] == [MESSAGE.id, "another"]
    assert file.damaged == 2
    assert not file.whole
    assert file.load()[0] == MESSAGE
    file.replace(line[:-1])  # whole but for its end: what follows would be written onto it
    assert file.load() == [MESSAGE]
    assert (file.damaged, file.whole) == (0, False)
    file.replace(line)
    assert file.load() == [MESSAGE]
    assert file.whole


def test_the_spool_is_readable_by_its_owner_alone_and_follows_no_link(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "spool")
    file.append(b"{}\n")
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600
    file.replace(b"")
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for act in (SpoolFile(tmp_path / "link").load, lambda: SpoolFile(tmp_path / "link").append(b"")):
        with pytest.raises(OSError):
            act()
    assert not (tmp_path / "elsewhere").exists()


async def test_a_spool_holds_no_address_and_no_key(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", "a-key-of-somebody")
    inbox.answers = [503] * 1000
    hooks = Webhooks({"phase6": [Webhook(inbox.url, "HOOK_KEY")]}, tmp_path)
    hooks.start()
    hooks.notify("phase6", phase(0), 0)
    await got(inbox, 1)
    await hooks.close()
    text = (tmp_path / SPOOL).read_text()
    assert "phase 0" in text
    assert "secret-path" not in text
    assert "a-key" not in text


async def test_a_spool_is_written_anew_when_it_is_mostly_receipts(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.start()
    await spool.loaded
    body = msgspec.Raw(msgspec.json.encode("x" * 4000))
    for number in range(1000):
        spool.add(SpooledMessage(str(number), ("it",), "held", body))
        spool.took(str(number), "it")
        if number % 20 == 0:
            await until(lambda: not spool._unwritten)
    await spool.close()
    assert (tmp_path / "spool").stat().st_size < 2 << 20
