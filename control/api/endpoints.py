"""Every call of the control API as one table: its role, parameters, body and answers. Pure.

The router and the OpenAPI document are both made from this table, so no call lacks a description and no description
lacks a call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Meta

from control.api.documents import (
    AuditPage,
    Done,
    ErrorDocument,
    Migrations,
    Ready,
    SessionDocument,
    VerifiedTrail,
)
from control.api.sessions import Role
from control.data.documents import DataAnswer, DataBody, DataDocument, DifferencesPage, EndedTask
from control.figures.documents import Figures, HistoryDocument
from control.figures.history import STEPS
from control.lead.commands import ActionBody, Reason
from control.lead.documents import Status
from control.report.documents import Report

Number = Annotated[str, Meta(pattern="^[0-9]{1,18}$", description='the number of an audit entry, such as "42"')]
EVENT_STREAM: Final = "text/event-stream"
OpenApi = dict[str, Any]


class ApiParameter(NamedTuple):
    """A parameter in path, query or header. msgspec validates its value against ``type``."""

    name: str
    where: Literal["path", "query", "header"]
    type: Any
    words: str = ""
    default: object = None  # None: no default


NAME: Final = ApiParameter("name", "path", str)
LIMIT: Final = ApiParameter("limit", "query", Annotated[int, Meta(ge=1, le=1000)], "How many entries at most", 100)
DIFFERENCE: Final = ApiParameter(
    "cursor",
    "query",
    Annotated[
        str,
        Meta(pattern="^[0-9]{1,20}-[0-9]{1,20}-[0-9]{1,18}$", description="a `next_cursor` as it was answered"),
    ],
    "`next_cursor` of the page before; of no use once another compare has listed its own",
)
TASK: Final = ApiParameter("task", "path", Annotated[str, Meta(max_length=64)])
CURSOR: Final = ApiParameter("cursor", "query", Number, "`next_cursor` of the page before")
REASON: Final = ApiParameter("reason", "query", Reason, "Why, for the audit trail", "")
STEP: Final = ApiParameter(
    "step",
    "query",
    Literal[STEPS],
    "Seconds a sample: 1 for the last 15 minutes, 10 for the last hour, 60 for the last 6 hours",
    STEPS[0],
)
LAST_EVENT: Final = ApiParameter("Last-Event-ID", "header", Number, "Begin with the audit entries after this one")


class ApiEndpoint(NamedTuple):
    """One call. ``Api._NAME`` handles it; ``role`` None needs no credentials; ``answers`` has one type per status."""

    method: Literal["get", "post", "delete"]
    path: str
    name: str
    words: str
    role: Role | None
    answers: Mapping[int, Any]
    parameters: tuple[ApiParameter, ...] = ()
    body: type | None = None
    content: str = "application/json"  # of the answer 200


# Errors of every call that needs credentials; of those that read the store; of those that change something.
_ASKING: Final = dict.fromkeys((400, 401, 403, 404, 429), ErrorDocument)
_STORED: Final = _ASKING | {503: ErrorDocument}
_ACTING: Final = _STORED | {409: ErrorDocument, 413: ErrorDocument}
_MIGRATION: Final = "/api/migration/{name}"

# fmt: off
ENDPOINTS: Final = (
    ApiEndpoint("get", "/api/migration", "migrations", "Every migration, in short", "viewer",
             {200: Migrations} | _ASKING),
    ApiEndpoint("get", _MIGRATION, "status", "Where a migration stands", "viewer",
             {200: Status} | _ASKING, (NAME,)),
    ApiEndpoint("post", _MIGRATION, "act", "Carry out an action; answers when it has taken effect", "operator",
             {200: Status} | _ACTING, (NAME,), body=ActionBody),
    ApiEndpoint("delete", _MIGRATION, "reset", "Emergency reset: weight 0, state idle", "operator",
             {200: Status} | _ACTING, (NAME, REASON)),
    ApiEndpoint("get", f"{_MIGRATION}/events", "events",
             "Server-sent events: status and a sample of the history every second, and every audit entry", "viewer",
             {200: str} | _STORED, (NAME, LAST_EVENT), content=EVENT_STREAM),
    ApiEndpoint("get", f"{_MIGRATION}/audit", "audit", "The audit trail, newest first", "viewer",
             {200: AuditPage} | _STORED, (NAME, LIMIT, CURSOR)),
    ApiEndpoint("get", f"{_MIGRATION}/audit/verify", "verify", "Whether the audit trail's chain is whole", "viewer",
             {200: VerifiedTrail} | _STORED, (NAME,)),
    ApiEndpoint("get", f"{_MIGRATION}/metrics", "figures",
             "Every operation since boot, and the data sources' gauges", "viewer",
             {200: Figures} | _ASKING, (NAME,)),
    ApiEndpoint("get", f"{_MIGRATION}/history", "history",
             "Both arms over time, oldest first: requests, errors, percentiles, and counts by latency", "viewer",
             {200: HistoryDocument} | _ASKING, (NAME, STEP)),
    ApiEndpoint("get", f"{_MIGRATION}/report", "report", "The report of the run", "viewer",
             {200: Report} | _STORED, (NAME,)),
    ApiEndpoint("get", f"{_MIGRATION}/data", "data",
             "Whether the target has the source's documents; null where the arms are no document stores", "viewer",
             {200: DataDocument | None} | _ASKING, (NAME,)),
    ApiEndpoint("post", f"{_MIGRATION}/data", "act_on_data",
             "Begin a copy, a compare or a repair, or stop the one under way; answers at once", "operator",
             {200: DataAnswer} | _ACTING, (NAME,), body=DataBody),
    ApiEndpoint("get", f"{_MIGRATION}/data/differences", "differences",
             "What the newest compare or repair left different", "viewer",
             {200: DifferencesPage} | _STORED | {409: ErrorDocument}, (NAME, LIMIT, DIFFERENCE)),
    ApiEndpoint("get", f"{_MIGRATION}/data/tasks/{{task}}", "data_task",
             "A task, and what came of it; the last 16 of this control process are known", "viewer",
             {200: EndedTask} | _ASKING, (NAME, TASK)),
    ApiEndpoint("get", "/metrics", "prometheus", "All figures for Prometheus", "viewer",
             {200: str} | _ASKING, content="text/plain"),
    ApiEndpoint("get", "/api/session", "session", "The caller's name and role", "viewer",
             {200: SessionDocument} | _ASKING),
    ApiEndpoint("post", "/api/session", "login", "Trade a token for a session (a cookie)", "viewer",
             {200: SessionDocument} | _ASKING),
    ApiEndpoint("delete", "/api/session", "logout", "End the session", "viewer",
             {200: Done} | _ASKING),
    ApiEndpoint("get", "/healthz", "healthz", "Whether the control process answers", None,
             {200: Done}),
    ApiEndpoint("get", "/readyz", "readyz", "Whether this process controls every migration", None,
             {200: Ready, 503: Ready}),
    ApiEndpoint("get", "/openapi.json", "openapi", "This document", None,
             {200: OpenApi}),
    ApiEndpoint("get", "/openapi-data.json", "openapi_data", "The OpenAPI document of the data requests", None,
             {200: OpenApi}),
)
# fmt: on
