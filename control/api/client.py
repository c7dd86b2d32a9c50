"""The control API as Python calls: what the command line speaks, and all it speaks.

On ``http.client`` alone: it starts in milliseconds, and a person who has to take traffic back at night needs
nothing else to work. Every call has a connection of its own, so threads may share a client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

DEFAULT_URL: Final = "http://127.0.0.1:9090"
DEFAULT_MIGRATION: Final = "phase6"
TIMEOUT_S: Final = 10.0
ACTION_TIMEOUT_S: Final = 90.0  # a rollback answers when it is complete; the longest deadline by default is 38 s
EVENTS_TIMEOUT_S: Final = 15.0  # a status comes at least once a second
_BODY_MAX: Final = 64 * 1024 * 1024
_LINE_MAX: Final = 4 * 1024 * 1024

Json = dict[str, Any]


class ApiError(Exception):
    """The control plane could not be asked, or said no. ``message`` and ``hint`` are for a person."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


class Unreachable(ApiError):  # noqa: N818 - what is so, as the message says it
    """Nothing usable answered at the address."""


class Refused(ApiError):  # noqa: N818 - likewise
    """The control plane answered with an error: ``status`` is HTTP's, ``code`` the API's own."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", details: Json | None = None) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.details = details or {}


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: ``name`` is ``status`` or ``audit``."""

    name: str
    data: Json


class Client:
    """The calls of the control API. Every one may raise ``Unreachable`` or ``Refused``."""

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, migration: str = DEFAULT_MIGRATION) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ApiError(
                f"{url!r} is no address of a control plane", "Expected something like http://127.0.0.1:9090"
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

    def status(self, timeout_s: float = TIMEOUT_S) -> Json:
        """The migration's status now."""
        return self.call("GET", self.base, timeout_s=timeout_s)

    def act(self, action: str, **fields: object) -> Json:
        """Carry out an action and give the status after it; fields that are None are left out."""
        body = {"action": action} | {name: value for name, value in fields.items() if value is not None}
        return self.call("POST", self.base, body, timeout_s=ACTION_TIMEOUT_S)

    def reset(self) -> Json:
        """Emergency reset: weight 0, state idle."""
        return self.call("DELETE", self.base, timeout_s=ACTION_TIMEOUT_S)

    def audit(self, limit: int, cursor: str | None = None) -> Json:
        """A page of the audit trail."""
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        return self.call("GET", f"{self.base}/audit?{urlencode(query)}")

    def verify(self) -> Json:
        """Whether the audit trail's chain is whole."""
        return self.call("GET", f"{self.base}/audit/verify")

    def metrics(self) -> Json:
        """The migration's figures in full."""
        return self.call("GET", f"{self.base}/metrics")

    def report(self) -> Json:
        """The report of the run so far."""
        return self.call("GET", f"{self.base}/report", timeout_s=ACTION_TIMEOUT_S)

    def migrations(self) -> Json:
        """Every migration, in short."""
        return self.call("GET", "/api/migration")

    def ready(self) -> bool:
        """Whether the control plane answers and says that it is ready."""
        try:
            status, _, _ = self._exchange("GET", "/readyz", None, 2.0)
        except Unreachable:
            return False
        return status == 200

    def call(self, method: str, path: str, body: Json | None = None, timeout_s: float = TIMEOUT_S) -> Json:
        """Send one request and give its JSON answer."""
        status, content_type, data = self._exchange(method, path, body, timeout_s)
        try:
            value = json.loads(data) if data else {}
        except ValueError:
            value = None
        if not isinstance(value, dict) or (data and "json" not in content_type):
            raise Unreachable(
                f"{self.url} answered {status}, but not as a control plane does",
                "Is PHASEGATE_URL the control port (by default 9090), not the proxy's?",
            )
        if status >= 400:
            raise self._refused(status, value)
        return value

    def events(self) -> Iterator[Event]:
        """Statuses and audit entries as they happen, on one connection; raises ``Unreachable`` when it ends."""
        connection = self._connect(EVENTS_TIMEOUT_S)
        try:
            connection.request(
                "GET", f"{self.base}/events", headers={**self._headers(), "accept": "text/event-stream"}
            )
            response = connection.getresponse()
            if response.status != 200:
                data = response.read(_BODY_MAX)
                with contextlib.suppress(ValueError):
                    value = json.loads(data)
                    if isinstance(value, dict):
                        raise self._refused(response.status, value)
                raise Unreachable(f"{self.url} answered {response.status} to a request for events")
            yield from _parse_events(response)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the connection to {self.url} broke: {_why(error)}") from error
        finally:
            connection.close()
        raise Unreachable(f"{self.url} ended the stream of events")

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

    def _exchange(self, method: str, path: str, body: Json | None, timeout_s: float) -> tuple[int, str, bytes]:
        headers = self._headers()
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
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

    def _refused(self, status: int, value: Json) -> Refused:
        found = value.get("error")
        error: Json = found if isinstance(found, dict) else {}
        hint = str(error.get("hint") or "")
        if status == 401:
            hint = "Put a token that control.tokens knows into PHASEGATE_TOKEN; `phasegate token` makes one."
        return Refused(
            status, str(error.get("code", status)), str(error.get("message", f"error {status}")), hint, error
        )


def _parse_events(lines: http.client.HTTPResponse) -> Iterator[Event]:
    name = "message"
    data: list[str] = []
    while line := lines.readline(_LINE_MAX):
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            if data:
                value = json.loads("\n".join(data))
                if isinstance(value, dict):
                    yield Event(name, value)
            name, data = "message", []
        elif text.startswith("event:"):
            name = text[6:].strip()
        elif text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host's name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    return str(error) or type(error).__name__
