"""The OpenAPI document of the data requests, drawn from the table of adapters. Pure.

A client may rely on the shapes: a test decodes every answer of both stores with them.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from backends.adapters.adapter import Spec
from backends.adapters.registry import operations, specs
from backends.adapters.shapes import Error
from backends.kinds.registry import KINDS
from backends.operations import Operation

_REFUSALS: Final = {
    400: "The request is malformed; the message says where, what was found and what was expected.",
    404: "Not found.",
    409: "Not allowed in the current state.",
    503: "The backend failed; with `write_uncertain`, the write may be stored.",
}


def document(version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document, as plain values."""
    table = specs()
    answers = [spec.answer for spec in table.values() if spec.answer is not None]
    bodies = [spec.body for spec in table.values() if spec.body is not None]
    wanted = [Error, *answers, *bodies]
    schemas, components = msgspec.json.schema_components(wanted, ref_template="#/components/schemas/{name}")
    by_shape = dict(zip(map(repr, wanted), schemas, strict=True))  # a shape may be a union, which has no hash
    headers = _headers()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations():
        described = _described(operation, table[operation.name], by_shape, headers)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "phasegate: data requests", "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _headers() -> dict[str, Any]:
    """What every answer says of itself. The operations are answered from the kinds that keep documents."""
    kinds = [name for name, kind in KINDS.items() if kind.open_store is not None]
    return {
        "x-data-source": {
            "description": "The kind of backend that answered.",
            "schema": {"type": "string", "enum": kinds},
        },
        "x-data-fallback": {
            "description": "Why the source answered for the target.",
            "schema": {"type": "string"},
        },
    }


def _described(operation: Operation, spec: Spec, schemas: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    if spec.answer is None:
        content: dict[str, Any] = {"text/event-stream": {}}
    else:
        content = {"application/json": {"schema": schemas[repr(spec.answer)]}}
    responses: dict[str, Any] = {str(spec.status): {"description": "Done.", "headers": headers, "content": content}}
    for code in sorted({400, *spec.refuses, 503}):
        responses[str(code)] = {
            "description": _REFUSALS.get(code) or f"{HTTPStatus(code).phrase}.",
            "headers": headers,
            "content": {"application/json": {"schema": schemas[repr(Error)]}},
        }
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.adapter],
        "parameters": [
            *(
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1, **spec.in_path.get(name, {})},
                }
                for name in spec.placeholders
            ),
            *(
                {"name": parameter.name, "in": "query", "required": False, "schema": parameter.schema}
                for parameter in spec.parameters
            ),
        ],
        "responses": responses,
    }
    if spec.body is not None:
        entry["requestBody"] = {
            "required": not spec.body_optional,
            "content": {"application/json": {"schema": schemas[repr(spec.body)]}},
        }
    return entry
