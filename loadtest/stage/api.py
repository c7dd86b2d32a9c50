"""A client of phasegate's control API for load tests: status and actions. It needs only ``http.client``."""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import Any, Final
from urllib.parse import quote, urlsplit

TIMEOUT_S: Final = 10.0  # of a request; enough on a busy machine
ACTION_TIMEOUT_S: Final = 90.0  # of an action; a rollback is answered when it is complete
COPIED_WITHIN_S: Final = 120.0  # a copy of what a mock begins with; it takes seconds on an idle machine
LOOK_EVERY_S: Final = 0.1  # at a copy under way
_BODY_MAX: Final = 16 * 1024 * 1024  # bytes; a thousand entries of the audit trail take about 1 MB

Json = dict[str, Any]


class ControlApiError(Exception):
    """The control plane gave no usable answer, or refused; ``status`` is HTTP's, or 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ControlApi:
    """One migration of one control plane. Every call opens its own connection."""

    def __init__(self, url: str, token: str = "", migration: str = "phase6") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ControlApiError(f"{url!r} is not a control plane's address, expected such as http://127.0.0.1:9090")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.path = f"/api/migration/{quote(migration, safe='')}"
        self._netloc = parts.netloc
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    @classmethod
    def from_environment(cls) -> ControlApi:
        """From PHASEGATE_URL, PHASEGATE_TOKEN and PHASEGATE_MIGRATION."""
        variable = os.environ.get
        return cls(
            variable("PHASEGATE_URL", "http://127.0.0.1:9090"),
            variable("PHASEGATE_TOKEN", ""),
            variable("PHASEGATE_MIGRATION", "phase6"),
        )

    def status(self) -> Json:
        """The migration's status. Raises ``ControlApiError``."""
        return self.call("GET", self.path)

    def act(self, action: str, **fields: object) -> Json:
        """Carry out an action; returns the status after it has taken effect. Raises ``ControlApiError``."""
        return self.call("POST", self.path, {"action": action, **fields}, ACTION_TIMEOUT_S)

    def copy(self, within_s: float = COPIED_WITHIN_S) -> Json:
        """Copy the source's documents to the target, as ``phasegate copy`` does; returns the result.

        Without it no phase begins: the data's gate holds. Raises ``ControlApiError``.
        """
        begun = self.call("POST", f"{self.path}/data", {"action": "copy"})
        deadline = time.monotonic() + within_s
        while True:
            task = self.call("GET", f"{self.path}/data/tasks/{begun['task']}")
            if task["ended_at"] is not None:
                break
            if time.monotonic() > deadline:
                raise ControlApiError(f"the copy was not done within {within_s:g} s")
            time.sleep(LOOK_EVERY_S)
        if task["failure"] is not None:
            raise ControlApiError(f"the copy was not done ({task['failure']}): {task['message']}")
        return Json(task["result"])

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
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ControlApiError(
                f"{self.url} answered {response.status}, but not as a control plane does", response.status
            )
        if response.status >= 400:
            error_fields = document.get("error", {})
            hint = f"; {error_fields['hint']}" if error_fields.get("hint") else ""
            raise ControlApiError(f"{error_fields.get('message', response.reason)}{hint}", response.status)
        return document
