"""The published description of the data requests covers the table of operations, and holds together."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from backends.adapters.openapi import document
from backends.adapters.registry import operations, specs

DOCUMENT = document("1.2.3")


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.name)
def test_every_operation_is_described_with_its_parameters_and_answers(operation: Any) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    assert described["operationId"] == operation.name
    in_path = {parameter["name"] for parameter in described["parameters"] if parameter["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", operation.path))
    spec = specs()[operation.name]
    assert set(described["responses"]) == {str(spec.status), "400", "503", *map(str, spec.refuses)}
    content = "application/json" if spec.answer is not None else "text/event-stream"
    assert set(described["responses"][str(spec.status)]["content"]) == {content}
    assert ("requestBody" in described) == (operation.kind == "write")


def test_a_users_name_is_described_with_the_length_that_is_taken() -> None:
    (uid, *_) = DOCUMENT["paths"]["/api/analytics/users/{uid}"]["get"]["parameters"]
    assert uid["schema"] == {"type": "string", "minLength": 1, "maxLength": 128}
    assert DOCUMENT["components"]["schemas"]["Event"]["properties"]["user"]["maxLength"] == 128


def test_it_describes_nothing_else() -> None:
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(operation.method.lower(), operation.path) for operation in operations()}


def test_every_reference_leads_somewhere_and_it_is_json() -> None:
    text = json.dumps(DOCUMENT)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names == set(DOCUMENT["components"]["schemas"])
