"""The control API's answers: JSON documents, errors in one form, and the reading of request parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import inspect

from control.api.documents import ErrorDetail, ErrorDocument
from control.api.endpoints import ApiParameter
from control.plan.mistakes import problems

DIGITS_MAX: Final = 19  # a longer number is refused unread: parsing thousands of digits costs time


class ApiProblem(Exception):  # noqa: N818 - an expected answer to the client, not a fault of phasegate
    """An error answer to the client."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        self.status = status
        self.document = ErrorDocument(ErrorDetail(code, message, hint))
        self.headers = headers

    def answer(self) -> web.Response:
        """The error as an HTTP response."""
        return document(self.document, self.status, self.headers)


def document(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with ``value`` as its JSON body."""
    return written(msgspec.json.encode(value), status, headers)


def written(json: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response with a body that is JSON already."""
    return web.Response(body=json, status=status, headers=headers, content_type="application/json")


def given(request: web.Request, parameter: ApiParameter) -> Any:
    """The value of a request's parameter, or the parameter's default. Raises ``ApiProblem``."""
    text = (request.headers if parameter.where == "header" else request.query).get(parameter.name)
    if text is None:
        return parameter.default
    value = text if _is_text(parameter.type) else _number(text)
    mistakes = problems(parameter.type, value, parameter.name)
    if mistakes:
        raise ApiProblem(400, "malformed", "; ".join(mistakes))
    return value


def _is_text(kind: Any) -> bool:
    info = inspect.type_info(kind)
    return isinstance(info.type if isinstance(info, inspect.Metadata) else info, inspect.StrType)


def _number(text: str) -> int | str:
    whole = text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
    return int(text) if whole else text
