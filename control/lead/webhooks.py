"""Notifies other systems of what happens to a migration, by HTTP: kept until it was taken, and never waited for.

Each receiver is sent its messages in order, each at least once (``control.lead.receiver``). What was not taken yet
survives a restart, a reload and a kill of the control process (``control.lead.spool``).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec.structs import asdict, replace

from control.lead.documents import (
    ApprovalNeededMessage,
    DataDiffersMessage,
    HeldMessage,
    LeaseLostMessage,
    Message,
    PhaseChangeMessage,
    RollbackCompleteMessage,
    RollbackMessage,
)
from control.lead.news import ApprovalNeeded, DataDiffers, Held, LeaseLost, Told
from control.lead.receiver import BACKOFF_S, Receiver, receiver_id
from control.lead.spool import Spool, SpooledMessage
from control.plan.settings import Webhook
from control.plan.times import rfc3339
from control.rollout.model import PhaseChange, Rollback, RollbackBegun

_log = structlog.get_logger("phasegate.webhooks")

SPOOL: Final = "webhooks.spool"
REASON_MAX: Final = 2000  # characters: a backend's own words may be long, and messages wait in memory
READ_WITHIN_S: Final = 2.0  # how long the spool is waited for before newer messages are sent


# What each kind of news is sent as.
_MESSAGE_OF: Final[dict[type[Told], Callable[..., Message]]] = {
    PhaseChange: PhaseChangeMessage,
    RollbackBegun: RollbackMessage,
    Rollback: RollbackCompleteMessage,
    ApprovalNeeded: ApprovalNeededMessage,
    Held: HeldMessage,
    LeaseLost: LeaseLostMessage,
    DataDiffers: DataDiffersMessage,
}


def message_of(migration: str, unix: float, news: Told, revision: int) -> Message:
    """What receivers are sent of something that happened at a Unix time, after which the rollout has ``revision``."""
    kind = _MESSAGE_OF[type(news)]
    facts = {"revision": revision} | asdict(news)
    facts.pop("reasons", None)  # `reason` has them all
    if "reason" in facts:
        facts["reason"] = facts["reason"][:REASON_MAX]
    return kind(migration=migration, at=rfc3339(unix), **facts)


def spooled(message: Message, to: Sequence[str]) -> SpooledMessage:
    """The message as it waits for its receivers, with a name of its own."""
    return SpooledMessage(str(uuid.uuid4()), tuple(to), message.event, msgspec.Raw(msgspec.json.encode(message)))


def renamed(message: SpooledMessage, names: Mapping[str, str]) -> SpooledMessage:
    """A message as it is sent once its migration has another name; ``names`` has the new one by the old one.

    A receiver that sorts messages by ``migration`` knows the new name alone, so the message has that, and as ``was``
    the name that the migration had when the message was made. All else stays, its id and its revision too.
    """
    body = msgspec.json.decode(message.body)
    old = body.get("migration") if isinstance(body, dict) else None
    if not isinstance(old, str) or old not in names:
        return message
    now = body | {"migration": names[old], "was": body.get("was", old)}
    return replace(message, body=msgspec.Raw(msgspec.json.encode(now)))


class Webhooks:
    """Every migration's receivers. One that several migrations name gets all their messages in one order."""

    def __init__(
        self,
        hooks: Mapping[str, Sequence[Webhook]],
        run_dir: Path,
        *,
        names: Mapping[str, str] = {},
        backoff_s: float = BACKOFF_S,
    ) -> None:
        """``names`` has the names of renamed migrations, the new one by the old one."""
        self._names = names
        self._spool = Spool(run_dir / SPOOL)
        self._receivers_of = {
            name: tuple(dict.fromkeys(map(receiver_id, each))) for name, each in hooks.items() if each
        }
        known = {receiver_id(hook): hook for each in hooks.values() for hook in each}
        self.receivers = {
            name: Receiver(hook, partial(self._took, name), backoff_s=backoff_s) for name, hook in known.items()
        }
        self._tasks: list[asyncio.Task[None]] = []

    def _took(self, receiver: str, message_id: str) -> None:
        self._spool.took(message_id, receiver)

    def start(self) -> None:
        """Begin to send; first what an earlier process left."""
        self._spool.start()
        self._spool.loaded.add_done_callback(self._take_over)
        self._tasks = [asyncio.create_task(self._run(one), name="webhook") for one in self.receivers.values()]

    async def _run(self, receiver: Receiver) -> None:
        await asyncio.wait({self._spool.loaded}, timeout=READ_WITHIN_S)
        await receiver.run()

    def _take_over(self, loaded: asyncio.Future[list[SpooledMessage]]) -> None:
        """Hand out what an earlier process left; what is for nobody who is configured is dropped."""
        if loaded.cancelled():
            return
        messages = [self._under_its_name(message) for message in loaded.result()]
        for name, receiver in self.receivers.items():
            receiver.put_first([message for message in messages if name in message.to])
        gone = [(message.id, name) for message in messages for name in message.to if name not in self.receivers]
        for message_id, name in gone:
            self._spool.took(message_id, name)
        if gone:
            _log.warning("webhook_receiver_gone", dropped=len(gone))

    def _under_its_name(self, message: SpooledMessage) -> SpooledMessage:
        now = renamed(message, self._names)
        if now is not message:
            self._spool.add(now)  # in the place of what was read: the next process need not know of the old name
        return now

    def notify(self, migration: str, news: Told, revision: int) -> None:
        """Tell the migration's receivers what happened; ``revision`` is the rollout's after it."""
        names = self._receivers_of.get(migration, ())
        if names:
            message = spooled(message_of(migration, time.time(), news, revision), names)
            self._spool.add(message)
            for name in names:
                self.receivers[name].put(message)

    async def close(self) -> None:
        """Stop sending; what waits is sent by the next process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._spool.close()
