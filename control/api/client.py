"""The control API as Python calls: the command line's only way to phasegate.

It imports ``http.client`` and the documents' types only, so a command starts fast. Answers are decoded as those
types; fields that a later version added are ignored. Every call opens its own connection, so threads may share a
client.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from backends.errors import said_by
from control.api.documents import AuditPage, ErrorDetail, ErrorDocument, Migrations, VerifiedTrail
from control.api.unanswered import ApiError, ApiRefused, Unreachable
from control.data.documents import DataAnswer, DataBody, DataDocument, DifferencesPage, EndedTask
from control.figures.documents import Figures
from control.lead.commands import Action, ActionBody
from control.lead.documents import EVENTS, EventDocument, Status
from control.report.documents import Report

DEFAULT_URL: Final = "http://127.0.0.1:9090"
DEFAULT_MIGRATION: Final = "phase6"
TIMEOUT_S: Final = 10.0
ACTION_TIMEOUT_S: Final = 90.0  # a rollback answers when it is complete; the longest deadline by default is 38 s
EVENTS_TIMEOUT_S: Final = 15.0  # a status comes at least once a second
READY_TIMEOUT_S: Final = 2.0  # /readyz does no work: a slower answer counts as none
_BODY_MAX: Final = 64 * 1024 * 1024  # bytes of an answer that are read, a bound on memory
_LINE_MAX: Final = 4 * 1024 * 1024  # bytes of one line of the event stream, likewise

_WHERE: Final = "Is PHASEGATE_URL the control port (by default 9090), not the proxy's?"
_CREDENTIALS: Final = "Put a token that control.tokens knows into PHASEGATE_TOKEN; `phasegate token` makes one."

T = TypeVar("T")


class ControlClient:
    """The calls of the control API. Every one may raise ``Unreachable`` or ``ApiRefused``."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, migration: str = DEFAULT_MIGRATION) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ApiError(
                f"{url!r} is not an address of a control plane", "Expected something like http://127.0.0.1:9090"
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.migration = migration
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._token = token

    @property
    def base(self) -> str:
        """The path of this client's migration."""
        return f"/api/migration/{quote(self.migration, safe='')}"

    def named(self, migration: str) -> ControlClient:
        """A client of another migration of the same control plane."""
        return ControlClient(self.url, self._token, migration)

    def migrations(self) -> Migrations:
        """Every migration of the control plane, in short."""
        return self._call("GET", "/api/migration", Migrations)

    def status(self, timeout_s: float = TIMEOUT_S) -> Status:
        """The migration's status now."""
        return self._call("GET", self.base, Status, timeout_s=timeout_s)

    def act(self, action: Action, **fields: Any) -> Status:
        """Carry out an action, return the status after it. ``fields`` are ``ActionBody``'s; None leaves one out."""
        body = ActionBody(action, **{name: value for name, value in fields.items() if value is not None})
        return self._call("POST", self.base, Status, body, timeout_s=ACTION_TIMEOUT_S)

    def data(self) -> DataDocument:
        """What is known of the migration's data."""
        document = self._call("GET", f"{self.base}/data", DataDocument | None)  # type: ignore[arg-type] # a union
        if document is None:
            raise ApiError(f"{self.migration} is not between document stores: there is no data to copy or to compare")
        return document

    def act_on_data(self, body: DataBody) -> DataAnswer:
        """Begin a task on the migration's data, or stop the one under way."""
        return self._call("POST", f"{self.base}/data", DataAnswer, body)

    def data_task(self, task: str) -> EndedTask:
        """A task on the migration's data, under way or ended."""
        return self._call("GET", f"{self.base}/data/tasks/{quote(task, safe='')}", EndedTask)

    def differences(self, limit: int, cursor: str | None = None) -> DifferencesPage:
        """A page of what the newest compare left different."""
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return self._call("GET", f"{self.base}/data/differences?{urlencode(query)}", DifferencesPage)

    def reset(self, reason: str | None = None) -> Status:
        """Emergency reset: weight 0, state idle."""
        query = f"?{urlencode({'reason': reason})}" if reason else ""
        return self._call("DELETE", f"{self.base}{query}", Status, timeout_s=ACTION_TIMEOUT_S)

    def audit(self, limit: int, cursor: str | None = None) -> AuditPage:
        """A page of the audit trail."""
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return self._call("GET", f"{self.base}/audit?{urlencode(query)}", AuditPage)

    def verify(self) -> VerifiedTrail:
        """Whether the audit trail's chain is whole."""
        return self._call("GET", f"{self.base}/audit/verify", VerifiedTrail)

    def metrics(self) -> Figures:
        """Every operation's figures of the migration."""
        return self._call("GET", f"{self.base}/metrics", Figures)

    def report(self) -> Report:
        """The report of the run so far."""
        return self._call("GET", f"{self.base}/report", Report, timeout_s=ACTION_TIMEOUT_S)

    def ready(self) -> bool:
        """Whether the control plane answers and says that it is ready."""
        try:
            status, _, _ = self._exchange("GET", "/readyz", None, READY_TIMEOUT_S)
        except Unreachable:
            return False
        return status == 200

    def events(self) -> Iterator[EventDocument]:
        """Events as they arrive, on one connection. Raises ``Unreachable`` when the stream ends."""
        connection = self._connect(EVENTS_TIMEOUT_S)
        try:
            connection.request(
                "GET", f"{self.base}/events", headers={**self._headers(), "accept": "text/event-stream"}
            )
            response = connection.getresponse()
            if response.status != 200:
                data = response.read(_BODY_MAX)
                raise self._failed(response.status, response.getheader("content-type", ""), data)
            for name, text in _parse_events(response):
                if name in EVENTS:  # a later version of the control plane may send others
                    yield self._read(response.status, text, EVENTS[name])
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the connection to {self.url} broke: {_why(error)}") from error
        finally:
            connection.close()
        raise Unreachable(f"{self.url} ended the stream of events")

    def _call(
        self, method: str, path: str, kind: type[T], body: Struct | None = None, timeout_s: float = TIMEOUT_S
    ) -> T:
        """Send one request and return its answer, decoded as a ``kind``."""
        status, content_type, data = self._exchange(method, path, body, timeout_s)
        if status >= 400 or "json" not in content_type:
            raise self._failed(status, content_type, data)
        return self._read(status, data, kind)

    def _read(self, status: int, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreachable(
                f"{self.url} answered {status}, but not as a control plane of this version does: {error}", _WHERE
            ) from error

    def _failed(self, status: int, content_type: str, data: bytes) -> ApiError:
        """The error for an answer that is not the expected document: a refusal, or an answer of something else."""
        if status < 400 or (data and "json" not in content_type):
            return Unreachable(f"{self.url} answered {status}, but not as a control plane does", _WHERE)
        try:
            error = msgspec.json.decode(data, type=ErrorDocument).error
        except (msgspec.DecodeError, RecursionError):
            error = ErrorDetail(str(status), f"error {status}", "")
        hint = _CREDENTIALS if status == 401 else error.hint
        return ApiRefused(status, error.code, error.message, hint)

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout_s, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise Unreachable(
                f"no control plane answers at {self.url}: {_why(error)}",
                "Start it with `phasegate serve`, or name another address in PHASEGATE_URL.",
            ) from error
        return connection

    def _exchange(self, method: str, path: str, body: Struct | None, timeout_s: float) -> tuple[int, str, bytes]:
        headers = self._headers()
        payload = None
        if body is not None:
            payload = msgspec.json.encode(body)
            headers["content-type"] = "application/json"
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            return response.status, response.getheader("content-type", ""), response.read(_BODY_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"the control plane at {self.url} gave no answer: {_why(error)}",
                "Traffic goes on without it. Look at its log, or ask again with `phasegate status`.",
            ) from error
        finally:
            connection.close()


def _parse_events(lines: http.client.HTTPResponse) -> Iterator[tuple[str, bytes]]:
    """Parse server-sent events: each event's name and data."""
    name = "message"
    data: list[bytes] = []
    while line := lines.readline(_LINE_MAX):
        text = line.rstrip(b"\r\n")
        if not text:
            if data:
                yield name, b"\n".join(data)
            name, data = "message", []
        elif text.startswith(b"event:"):
            name = text[6:].strip().decode("utf-8", "replace")
        elif text.startswith(b"data:"):
            data.append(text[5:].removeprefix(b" "))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return said_by(error)
