"""What the adapters share: reading bodies, parameters and cursors, writing times, and server-sent events."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, TypeVar

import msgspec
import orjson

from backends.documents.changes import Change
from backends.documents.port import INT_MAX, INT_MIN, Context, Document, DocumentStore, Rejected, Value
from backends.documents.semantics import valid_id
from backends.errors import Fault
from backends.operations import EVENT_STREAM, Answer, Call, error_answer

T = TypeVar("T")

HEARTBEAT_S: Final = 15.0  # a stream is never silent for longer
POLL_S: Final = 2.0  # how often a stream looks where its store is not told of changes
READ_S: Final = 1.0  # the deadline of a stream's own reads

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# A write's answer, and what the other store is to be told; None where nothing changed.
Written = tuple[Answer, Change | None]


class Refused(Exception):  # noqa: N818 - carries an ordinary answer past the rest of a handler
    """The client is answered this."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def refused(status: int, code: str, message: str) -> Refused:
    """An error answer to raise."""
    return Refused(error_answer(status, code, message))


# ------------------------------------------------------------------------------------------------- what comes in


def read_body(body: bytes, shape: type[T], example: str) -> T:
    """The body as ``shape``; refused with where it went wrong, what was found, what was expected."""
    if not body:
        raise refused(400, "invalid_body", f"the body is empty, expected JSON such as {example}")
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise refused(400, "invalid_body", f"{problem}; expected JSON such as {example}") from None
    except UnicodeDecodeError:
        raise refused(400, "invalid_body", "the body is not UTF-8") from None


def limit_of(call: Call, default: int, maximum: int) -> int:
    """``limit`` of the query string, 1 to ``maximum``."""
    text = call.query.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= maximum):
        raise refused(400, "invalid_query", f"limit: expected a number from 1 to {maximum}, found {text[:40]!r}")
    return int(text)


def time_of(call: Call, name: str) -> datetime | None:
    """A time of the query string: RFC 3339, or seconds since 1970."""
    text = call.query.get(name)
    if text is None:
        return None
    found = parse_time(text)
    if found is None:
        raise refused(
            400, "invalid_query", f"{name}: expected a time such as 2026-01-31T12:00:00Z, found {text[:40]!r}"
        )
    return found


def parse_time(text: str) -> datetime | None:
    """RFC 3339 with an offset, or seconds since 1970; None for anything else."""
    try:
        if text.isascii() and text.replace(".", "", 1).isdigit():
            return EPOCH + timedelta(seconds=float(text))
        # A "+" that was not percent-encoded reaches us as a space.
        found = datetime.fromisoformat(text.replace(" ", "+"))
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def from_unix(seconds: float) -> datetime:
    """The moment, to the microsecond."""
    return EPOCH + timedelta(microseconds=round(seconds * 1_000_000))


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def rest_for(ctx: Context, seconds: float) -> None:
    """Note that the answer holds for so long at most."""
    ctx.rest_until(time.monotonic() + seconds)


def write_cursor(*parts: int | str) -> str:
    """An opaque place in a listing."""
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def cursor_of(call: Call, *kinds: type) -> list[int | str] | None:
    """The parts of ``cursor`` of the query string, of these types; None where there is none.

    Anybody can make one up: strings are document ids, integers have 64 bits, or no store could be asked for them.
    """
    text = call.query.get("cursor")
    if not text:
        return None
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error):
        parts = None
    if (
        not isinstance(parts, list)
        or [type(part) for part in parts] != list(kinds)
        or not all(valid_id(part) if isinstance(part, str) else INT_MIN <= part <= INT_MAX for part in parts)
    ):
        raise invalid_cursor()
    return parts


def invalid_cursor() -> Refused:
    """The refusal of a cursor that no page was given."""
    return refused(400, "invalid_cursor", "cursor: expected the next_cursor of an earlier page")


def moment_cursor(call: Call) -> tuple[Value, str] | None:
    """The cursor of a listing ordered by a time: where its query starts."""
    parts = cursor_of(call, int, str)
    if parts is None:
        return None
    at, doc_id = parts
    assert isinstance(at, int)
    assert isinstance(doc_id, str)
    try:
        return EPOCH + timedelta(microseconds=at), doc_id
    except OverflowError:
        raise invalid_cursor() from None


def moment_after(document: Document, field: str) -> str:
    """The cursor that continues a listing ordered by the time ``field`` after this document."""
    at = document.fields[field]
    assert isinstance(at, datetime)
    return write_cursor(to_micros(at), document.id)


# ------------------------------------------------------------------------------------------------ what goes out


def reply(status: int, value: object) -> Answer:
    """An answer in JSON: times in UTC with a ``Z``, and keys in order, for Firestore does not keep a map's."""
    return Answer(status, orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_SORT_KEYS))


class _Bell:
    """Wakes one sleeper; rung while nobody sleeps, it is heard next time. Nothing queues up."""

    def __init__(self) -> None:
        self._rung = False
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Whether it was rung within the time."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(timeout_s, _finish, self._sleeper)
            try:
                await self._sleeper
            finally:
                timer.cancel()
                self._sleeper = None
        rung, self._rung = self._rung, False
        return rung


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Scene(NamedTuple):
    """What a stream shows as one event; nothing follows the ``final`` one."""

    event_id: str
    name: str
    data: bytes  # one line
    final: bool = False


def event(scene: Scene) -> bytes:
    """The scene as a server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (scene.name.encode(), scene.event_id.encode(), scene.data)


def stream(
    store: DocumentStore,
    collection: str,
    doc_id: str | None,
    look: Callable[[Context], Awaitable[Scene | None]],
    first: Scene | None,
) -> Answer:
    """A stream of what ``look`` sees, beginning with ``first``: one event a change. None: nothing to show yet.

    A slow reader is not queued for: it gets the newest state when it is ready for one. Where the store fails the
    stream ends between two events, and the client, who comes back by itself, is answered by whoever can.
    """
    return Answer(200, content_type=EVENT_STREAM, headers=((b"cache-control", b"no-store"),), stream=_scenes(
        store, collection, doc_id, look, first
    ))  # fmt: skip


async def _scenes(
    store: DocumentStore,
    collection: str,
    doc_id: str | None,
    look: Callable[[Context], Awaitable[Scene | None]],
    scene: Scene | None,
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    bell = _Bell()
    end = store.watch(collection, bell.ring)
    try:
        yield b"retry: 1000\n\n"
        shown: Scene | None = None
        spoke = loop.time()
        while True:
            if scene is not None and scene != shown:
                yield event(scene)
                shown, spoke = scene, loop.time()
                if scene.final:
                    return
            told = store.watches(collection, doc_id)
            heartbeat = max(0.0, spoke + HEARTBEAT_S - loop.time())
            rung = await bell.wait(heartbeat if told else min(POLL_S, heartbeat))
            if loop.time() - spoke >= HEARTBEAT_S:
                yield b": still here\n\n"
                spoke = loop.time()
            if rung or not told:
                scene = await look(Context(loop.time() + READ_S))
    except (Fault, Refused, Rejected):  # the store failed, or what was shown is gone
        return
    finally:
        end()
