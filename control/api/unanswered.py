"""Why a call of the control API gave no document: nothing usable answered, or the answer was an error. Pure."""

from __future__ import annotations


class ApiError(Exception):
    """The control plane could not be asked, or said no. ``message`` and ``hint`` are for a person."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n{hint}" if hint else message)
        self.message = message
        self.hint = hint


class Unreachable(ApiError):  # noqa: N818 - what is so, as the message says it
    """Nothing usable answered at the address."""


class ApiRefused(ApiError):  # noqa: N818 - likewise
    """The control plane answered with an error: ``status`` is HTTP's, ``code`` the API's own."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
