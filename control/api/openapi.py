"""The OpenAPI document of the control API, generated from the table of calls and their types. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from control.api.endpoints import ENDPOINTS, EVENT_STREAM, ApiEndpoint, ApiParameter
from control.lead.documents import MESSAGES

Json = dict[str, Any]

_REFS: Final = "#/components/schemas/{name}"
_MEANING: Final = {
    200: "Success",
    400: "The request is malformed",
    401: "Credentials are missing or wrong",
    403: "The caller may not do this",
    404: "No such migration",
    409: "Not allowed in this state, a check failed, or the revision is stale",
    413: "The body is too large",
    429: "Too many wrong credentials from this address",
    503: "The store or the process cannot serve this now",
}


def document(version: str, *, open_to_all: bool = False) -> Json:
    """The OpenAPI 3.1 document."""
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "phasegate control API", "version": version},
        "paths": paths,
        "webhooks": {_event(message): {"post": _webhook(message)} for message in MESSAGES},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "phasegate_session"},
            },
        },
        "security": [] if open_to_all else [{"token": []}, {"session": []}],
    }


def _schemas() -> Json:
    written = _components([*(kind for e in ENDPOINTS for kind in e.answers.values()), *MESSAGES])
    read = _components(endpoint.body for endpoint in ENDPOINTS if endpoint.body is not None)
    return {name: _closed(schema) for name, schema in written.items()} | read


def _components(types: Iterable[Any]) -> dict[str, Json]:
    _, components = msgspec.json.schema_components(list(types), ref_template=_REFS)
    return components


def _closed(schema: Json) -> Json:
    """The schema of a document that phasegate writes: a field is required unless its type allows it to be unset."""
    properties: dict[str, Json] | None = schema.get("properties")
    if properties is None:
        return schema
    # msgspec marks a field with a default as optional, which is right for reading. Writing always includes the field.
    required = [name for name, field in properties.items() if name in schema["required"] or "default" in field]
    plain = {name: {key: x for key, x in field.items() if key != "default"} for name, field in properties.items()}
    return schema | {"properties": plain, "required": required, "additionalProperties": False}


def _schema(kind: Any) -> Json:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFS)
    return schema


def _operation(endpoint: ApiEndpoint) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.words,
        "responses": {
            str(status): {"description": _MEANING[status], "content": _content(endpoint, status)}
            for status in endpoint.answers
        },
    }
    if endpoint.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in endpoint.parameters]
    if endpoint.body is not None:
        operation["requestBody"] = _body(endpoint.body)
    if endpoint.role is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs the role {endpoint.role}."
    return operation


def _content(endpoint: ApiEndpoint, status: int) -> Json:
    kind = endpoint.content if status == 200 else "application/json"
    # OpenAPI does not settle whether an event stream's schema describes its events or its text, so it has none.
    return {kind: {} if kind == EVENT_STREAM else {"schema": _schema(endpoint.answers[status])}}


def _body(kind: type) -> Json:
    return {"required": True, "content": {"application/json": {"schema": _schema(kind)}}}


def _parameter(parameter: ApiParameter) -> Json:
    schema = _schema(parameter.type)
    if parameter.default is not None:
        schema["default"] = parameter.default
    described: Json = {"name": parameter.name, "in": parameter.where, "schema": schema}
    if parameter.where == "path":
        described["required"] = True
    if parameter.words:
        described["description"] = parameter.words
    return described


def _event(message: type[msgspec.Struct]) -> str:
    return str(message.__struct_config__.tag)


def _webhook(message: type[msgspec.Struct]) -> Json:
    responses = {"2XX": {"description": "Received; after any other answer the message is sent again"}}
    return {"operationId": f"webhook_{_event(message)}", "requestBody": _body(message), "responses": responses}
