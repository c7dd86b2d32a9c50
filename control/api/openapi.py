"""The control API as a table, and the OpenAPI document that is drawn from it. Pure.

The router is built from the same table, so a call that is not in the document does not exist.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

Json = dict[str, Any]


class Endpoint(NamedTuple):
    """One call. ``role`` None: no credentials needed."""

    method: Literal["get", "post", "delete"]
    path: str
    name: str
    summary: str
    role: Literal["viewer", "operator"] | None
    answers: tuple[tuple[int, str], ...]  # status, and the name of its schema ("" for none)
    parameters: tuple[str, ...] = ()
    body: str = ""
    content: str = "application/json"


_READ: Final = ((400, "Error"), (401, "Error"), (403, "Error"), (404, "Error"), (429, "Error"))
_ACT: Final = (*_READ, (409, "Error"), (413, "Error"), (503, "Error"))
_BASE: Final = "/api/migration/{name}"

ENDPOINTS: Final = (
    Endpoint(
        "get", "/api/migration", "migrations", "Every migration, in short", "viewer", ((200, "Migrations"), *_READ)
    ),
    Endpoint("get", _BASE, "status", "Where a migration stands", "viewer", ((200, "Status"), *_READ), ("name",)),
    Endpoint(
        "post",
        _BASE,
        "act",
        "Carry out an action; answers when it has taken effect",
        "operator",
        ((200, "Status"), *_ACT),
        ("name",),
        "Action",
    ),
    Endpoint(
        "delete",
        _BASE,
        "reset",
        "Emergency reset: weight 0, state idle",
        "operator",
        ((200, "Status"), *_ACT),
        ("name", "reason"),
    ),
    Endpoint(
        "get",
        _BASE + "/events",
        "events",
        "Server-sent events: status and a sample of the history every second, and every audit entry",
        "viewer",
        ((200, "Events"), *_READ, (503, "Error")),
        ("name", "Last-Event-ID"),
        content="text/event-stream",
    ),
    Endpoint(
        "get",
        _BASE + "/audit",
        "audit",
        "The audit trail, newest first",
        "viewer",
        ((200, "Audit"), *_READ, (503, "Error")),
        ("name", "limit", "cursor"),
    ),
    Endpoint(
        "get",
        _BASE + "/audit/verify",
        "verify",
        "Whether the audit trail's chain is whole",
        "viewer",
        ((200, "Verified"), *_READ, (503, "Error")),
        ("name",),
    ),
    Endpoint(
        "get",
        _BASE + "/metrics",
        "figures",
        "Every operation since boot, and the data sources' gauges",
        "viewer",
        ((200, "Figures"), *_READ),
        ("name",),
    ),
    Endpoint(
        "get",
        _BASE + "/history",
        "history",
        "Both arms over time, oldest first: requests, errors, percentiles, and counts by latency",
        "viewer",
        ((200, "History"), *_READ),
        ("name", "step"),
    ),
    Endpoint(
        "get",
        _BASE + "/report",
        "report",
        "The report of the run",
        "viewer",
        ((200, "Report"), *_READ, (503, "Error")),
        ("name",),
    ),
    Endpoint(
        "get",
        "/metrics",
        "prometheus",
        "All figures for Prometheus",
        "viewer",
        ((200, "Text"), *_READ),
        content="text/plain",
    ),
    Endpoint("get", "/api/session", "session", "Who I am", "viewer", ((200, "Session"), *_READ)),
    Endpoint(
        "post",
        "/api/session",
        "login",
        "Trade a token for a session (a cookie)",
        "viewer",
        ((200, "Session"), *_READ),
    ),
    Endpoint("delete", "/api/session", "logout", "End the session", "viewer", ((200, "Done"), *_READ)),
    Endpoint("get", "/healthz", "healthz", "Whether the control process answers", None, ((200, "Done"),)),
    Endpoint("get", "/readyz", "readyz", "Whether it leads every migration", None, ((200, "Ready"), (503, "Ready"))),
    Endpoint("get", "/openapi.json", "openapi", "This document", None, ((200, "Any"),)),
    Endpoint("get", "/openapi-data.json", "openapi_data", "The same for data requests", None, ((200, "Any"),)),
)

_PARAMETERS: Final[dict[str, Json]] = {
    "name": {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
    "limit": {
        "name": "limit",
        "in": "query",
        "description": "How many entries at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    },
    "cursor": {
        "name": "cursor",
        "in": "query",
        "description": "`next_cursor` of the page before",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    },
    "reason": {
        "name": "reason",
        "in": "query",
        "description": "Why, for the audit trail",
        "schema": {"type": "string", "maxLength": 500},
    },
    "step": {
        "name": "step",
        "in": "query",
        "description": "Seconds a sample: 1 for the last 15 minutes, 10 for the last hour, 60 for the last 6 hours",
        "schema": {"type": "integer", "enum": [1, 10, 60], "default": 1},
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Begin with the audit entries after this one",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
    },
}

_MEANING: Final = {
    200: "As asked",
    400: "Malformed",
    401: "No credentials, or wrong ones",
    403: "Not allowed to this one",
    404: "No such migration",
    409: "Not allowed in this state, a check failed, or the revision is stale",
    413: "The body is too large",
    429: "Too many wrong credentials from this address",
    503: "The store or the process cannot serve this now",
}


def _object(optional: tuple[str, ...] = (), /, **properties: Json) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "number"}
_WHOLE: Final[Json] = {"type": "integer"}
_BOOL: Final[Json] = {"type": "boolean"}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_ANY: Final[Json] = {}
_MAP: Final[Json] = {"type": "object"}
_STATE: Final[Json] = {"enum": ["idle", "running", "paused", "rolling_back", "rolled_back", "completed", "aborted"]}
_OUTCOME: Final[Json] = {"enum": ["promote", "hold", "roll_back", "no_data"]}
_FIGURES: Final[Json] = {
    "requests": _WHOLE,
    "errors": _WHOLE,
    "error_rate": _NUMBER,
    "p50_ms": _or_null(_NUMBER),
    "p95_ms": _or_null(_NUMBER),
    "p99_ms": _or_null(_NUMBER),
}
_BOTH: Final[Json] = _object(source=_ref("Summary"), target=_ref("Summary"))

SCHEMAS: Final[dict[str, Json]] = {
    "Error": _object(error=_object(code=_TEXT, message=_TEXT, hint=_TEXT)),
    "Action": _object(
        ("reason", "expected_revision", "dry_run", "resume", "to", "force"),
        action={"enum": ["start", "advance", "pause", "resume", "rollback", "abort"]},
        reason={"type": "string", "maxLength": 500},
        expected_revision=_or_null(_WHOLE),
        dry_run=_BOOL,
        resume=_BOOL,
        to={"enum": ["previous", "start"]},
        force=_BOOL,
    ),
    "Summary": _object(**_FIGURES),
    "Arm": _object(backend=_TEXT, **_FIGURES, inflight=_WHOLE),
    "Rule": _object(
        rule=_TEXT,
        value=_or_null(_NUMBER),
        limit=_NUMBER,
        samples=_WHOLE,
        outcome=_OUTCOME,
        proof=_or_null(_NUMBER),
        label=_TEXT,
        unit={"enum": ["share", "ms", "MB"]},
        evidence=_or_null(_NUMBER),
        reason=_TEXT,
    ),
    "Verdict": _object(
        outcome=_OUTCOME,
        reasons=_list(_TEXT),
        checked_at=_or_null(_TIME),
        rules=_list(_ref("Rule")),
        summary=_list(_TEXT),
    ),
    "Phase": _object(name=_TEXT, weight=_NUMBER, min_soak_s=_NUMBER, rollback_within_s=_NUMBER, approval=_BOOL),
    "CurrentPhase": _object(
        index=_WHOLE,
        name=_TEXT,
        weight=_NUMBER,
        entered_at=_or_null(_TIME),
        soaked_s=_NUMBER,
        min_soak_s=_NUMBER,
        rollback_within_s=_NUMBER,
    ),
    "Rollback": _object(
        trigger=_TEXT,
        reason=_TEXT,
        from_weight=_NUMBER,
        to_weight=_NUMBER,
        decided_ms=_NUMBER,
        seen_ms=_NUMBER,
        drained_ms=_NUMBER,
        total_ms=_NUMBER,
        within_deadline=_BOOL,
    ),
    "Checkpoint": _object(
        revision=_or_null(_WHOLE),
        saved_at=_or_null(_TIME),
        ok=_BOOL,
        error=_or_null(_TEXT),
        unsaved_entries=_WHOLE,
        lost_entries=_WHOLE,
        resume_phase=_or_null(_TEXT),
    ),
    "Worker": _object(slot=_WHOLE, pid=_WHOLE, generation=_WHOLE, inflight_target=_WHOLE, heartbeat_age_ms=_NUMBER),
    "Check": _object(name=_TEXT, ok=_or_null(_BOOL), found=_TEXT, mend=_TEXT),
    "Status": _object(
        ("checks",),
        migration=_TEXT,
        state=_STATE,
        revision=_WHOLE,
        weight=_NUMBER,
        phase=_or_null(_ref("CurrentPhase")),
        phases=_list(_ref("Phase")),
        verdict=_ref("Verdict"),
        arms=_object(source=_ref("Arm"), target=_ref("Arm")),
        last_rollback=_or_null(_ref("Rollback")),
        checkpoint=_ref("Checkpoint"),
        workers=_list(_ref("Worker")),
        checks=_list(_ref("Check")),
    ),
    "Migrations": _object(
        migrations=_list(
            _object(
                name=_TEXT,
                state=_STATE,
                revision=_WHOLE,
                weight=_NUMBER,
                phase=_or_null(_TEXT),
                mode=_TEXT,
                source=_TEXT,
                target=_TEXT,
                routes=_list(_TEXT),
            )
        )
    ),
    "Entry": _object(seq=_WHOLE, at=_TIME, kind=_TEXT, actor=_TEXT, detail=_MAP, previous=_TEXT, hash=_TEXT),
    "Audit": _object(entries=_list(_ref("Entry")), next_cursor=_or_null(_TEXT)),
    "Verified": _object(whole=_BOOL, problems=_list(_TEXT), entries=_WHOLE, hash=_TEXT),
    "Figures": _object(
        migration=_TEXT,
        operations=_list(_object(operation=_TEXT, arms=_BOTH, faults=_MAP, fallbacks=_WHOLE, client_errors=_WHOLE)),
        gauges=_MAP,
    ),
    "SampledArm": _object(**_FIGURES, fallbacks=_WHOLE, heat=_list(_WHOLE)),
    "Sample": _object(
        at=_NUMBER, span_s=_NUMBER, weight=_NUMBER, source=_ref("SampledArm"), target=_ref("SampledArm")
    ),
    "History": _object(step_s=_WHOLE, heat_bounds_ms=_list(_NUMBER), samples=_list(_ref("Sample"))),
    "Report": _object(
        migration=_TEXT,
        outcome=_STATE,
        started_at=_or_null(_TIME),
        ended_at=_or_null(_TIME),
        phases=_list(
            _object(
                name=_TEXT,
                weight=_NUMBER,
                entered_at=_or_null(_TIME),
                left_at=_or_null(_TIME),
                arms=_BOTH,
                target_share=_or_null(_NUMBER),
                verdict=_ref("Verdict"),
            )
        ),
        rollbacks=_list(_ref("Rollback")),
        criteria=_list(_object(name=_TEXT, passed=_BOOL, evidence=_TEXT)),
        audit=_object(entries=_WHOLE, hash=_or_null(_TEXT)),
    ),
    "Session": _object(name=_TEXT, role={"enum": ["viewer", "operator"]}, csrf=_or_null(_TEXT)),
    "Done": _object(ok=_BOOL),
    "Ready": _object(ok=_BOOL, migrations=_MAP),
    "Events": _TEXT,
    "Text": _TEXT,
    "Any": _MAP,
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
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "phasegate_session"},
            },
        },
        "security": [] if open_to_all else [{"token": []}, {"session": []}],
    }


def _content(kind: str, schema: str) -> Json:
    # What a schema says of an event stream, its events or its text, is not agreed upon.
    return {kind: {} if kind == "text/event-stream" else {"schema": _ref(schema)}}


def _operation(endpoint: Endpoint) -> Json:
    found: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": {
            str(status): {
                "description": _MEANING[status],
                "content": _content(endpoint.content if status == 200 else "application/json", schema),
            }
            for status, schema in endpoint.answers
        },
    }
    if endpoint.parameters:
        found["parameters"] = [_PARAMETERS[name] for name in endpoint.parameters]
    if endpoint.body:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(endpoint.body)}},
        }
    if endpoint.role is None:
        found["security"] = []
    else:
        found["description"] = f"Needs the role {endpoint.role}."
    return found
