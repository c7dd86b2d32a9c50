"""phasegate's control API as a load test needs it: the status read, an action taken. On ``http.client`` alone."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any, Final
from urllib.parse import quote, urlsplit

TIMEOUT_S: Final = 10.0  # of a question: control on a busy machine has answered by then
ACTION_TIMEOUT_S: Final = 90.0  # a rollback answers when it is complete
_BODY_MAX: Final = 16 * 1024 * 1024  # bytes: a thousand entries of the audit trail are one

Json = dict[str, Any]


class ControlApiError(Exception):
    """The control plane gave no usable answer, or refused; ``status`` is HTTP's, or 0 where none came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ControlApi:
    """One migration of one control plane. Every call has a connection of its own."""

    def __init__(self, url: str, token: str = "", migration: str = "phase6") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ControlApiError(f"{url!r} is no address of a control plane, expected such as http://127.0.0.1:9090")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.path = f"/api/migration/{quote(migration, safe='')}"
        self._netloc = parts.netloc
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    @classmethod
    def from_environment(cls) -> ControlApi:
        """By PHASEGATE_URL, PHASEGATE_TOKEN and PHASEGATE_MIGRATION."""
        found = os.environ.get
        return cls(
            found("PHASEGATE_URL", "http://127.0.0.1:9090"),
            found("PHASEGATE_TOKEN", ""),
            found("PHASEGATE_MIGRATION", "phase6"),
        )

    def status(self) -> Json:
        """The migration's status. Raises ``ControlApiError``."""
        return self.call("GET", self.path)

    def act(self, action: str, **fields: object) -> Json:
        """Carry out an action; the status when it has taken effect. Raises ``ControlApiError``."""
        return self.call("POST", self.path, {"action": action, **fields}, ACTION_TIMEOUT_S)

    def call(self, method: str, path: str, body: Json | None = None, timeout_s: float = TIMEOUT_S) -> Json:
        """One call. Raises ``ControlApiError``."""
        connection = self._connection(self._netloc, timeout=timeout_s)
        try:
            headers = self._headers if body is None else {**self._headers, "content-type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            data = response.read(_BODY_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise ControlApiError(f"the control plane at {self.url} does not answer: {error}") from error
        finally:
            connection.close()
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ControlApiError(
                f"{self.url} answered {response.status}, but not as a control plane does", response.status
            )
        if response.status >= 400:
            said = found.get("error", {})
            hint = f"; {said['hint']}" if said.get("hint") else ""
            raise ControlApiError(f"{said.get('message', response.reason)}{hint}", response.status)
        return found
