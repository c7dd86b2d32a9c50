"""The control API: who may, what is refused and how, streams, and that it is what its document says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from control.api.app import EARLIER_MAX
from control.api.endpoints import ENDPOINTS
from control.api.openapi import document
from control.lead import events
from control.lead.documents import MESSAGES
from control.rollout.model import Entry
from control.store.entry import AuditEntry
from control.store.sqlite import Store
from tests.support.patience import WITHIN_S

Make = Callable[..., Any]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


OPERATOR, VIEWER = bearer("op-secret"), bearer("view-secret")
TOKENS = {
    "control": {
        "tokens": [
            {"name": "ci", "sha256": hashlib.sha256(b"op-secret").hexdigest(), "role": "operator"},
            {"name": "wall", "sha256": hashlib.sha256(b"view-secret").hexdigest(), "role": "viewer"},
        ]
    }
}

CHANGES = [
    ("POST", "", {"action": "start"}),
    ("DELETE", "", None),
    *[("POST", "", {"action": action}) for action in ("advance", "pause", "resume", "rollback", "abort")],
]


def code(found: Any) -> str:
    return str(found["error"]["code"])


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: f"{e.method} {e.path}")
async def test_every_call_but_the_open_ones_needs_credentials(control_plane: Make, endpoint: Any) -> None:
    plane = await control_plane(TOKENS)
    path = endpoint.path.replace("{name}", "phase6").replace("{task}", "copy-1")
    before = (await plane.call("GET", headers=OPERATOR))[1]["revision"]
    for headers in (None, bearer("wrong"), {"Authorization": "Basic b3A6c2VjcmV0"}, {"Authorization": "Bearer"}):
        status, found = await plane.call(endpoint.method.upper(), path, headers=headers)
        if endpoint.role is None:
            assert status == 200
        else:
            assert (status, code(found)) == (401, "unauthorized")
    assert (await plane.call("GET", headers=OPERATOR))[1]["revision"] == before


async def test_a_viewer_looks_and_changes_nothing(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    assert (await plane.call("GET", headers=VIEWER))[0] == 200
    for method, path, body in CHANGES:
        status, found = await plane.call(method, path, body, VIEWER)
        assert (status, code(found)) == (403, "forbidden")
    assert (await plane.call("GET", headers=VIEWER))[1]["state"] == "idle"


async def test_an_operator_acts_under_its_own_name(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    status, _ = await plane.call("POST", "", {"action": "start", "reason": "go"}, OPERATOR)
    assert status == 200
    entries = (await plane.call("GET", "audit", headers=VIEWER))[1]["entries"]
    assert ("ci", "start") in [(entry["actor"], entry["kind"]) for entry in entries]


async def test_wrong_credentials_are_slowed_down_and_keep_nobody_out(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    async with plane.http.post("/api/session", headers=OPERATOR) as response:
        csrf, cookie = (await response.json())["csrf"], response.cookies["phasegate_session"].value
    session = {"Cookie": f"phasegate_session={cookie}", "X-CSRF-Token": csrf}
    await plane.act_as(OPERATOR, "start")
    answers = [(await plane.call("GET", headers=bearer(f"guess {i}")))[0] for i in range(12)]
    assert answers == [401] * 10 + [429] * 2
    for wrong in (bearer("guess"), {"Cookie": "phasegate_session=guess"}, {"Authorization": "Basic b3A6c2VjcmV0"}):
        assert (await plane.call("GET", headers=wrong))[0] == 429
    # Who guesses sits behind the same address as who must abort.
    assert (await plane.call("GET", headers=session))[0] == 200
    assert (await plane.act_as(session, "pause"))["state"] == "paused"
    assert (await plane.act_as(OPERATOR, "abort"))["state"] == "aborted"
    assert (await plane.call("GET", headers=bearer("guess")))[0] == 429


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "", {"action": "explode"}, 400, "malformed"),
        ("POST", "", [], 400, "malformed"),
        ("POST", "", {"action": "advance"}, 409, "not_allowed"),
        ("POST", "", {"action": "pause", "expected_revision": 99}, 409, "stale_revision"),
        ("POST", "", {"action": "start", "reason": "x" * 70_000}, 413, "too_large"),
        ("GET", "/api/migration/other", None, 404, "no_such_migration"),
        ("POST", "/api/migration/other", {"action": "start"}, 404, "no_such_migration"),
        ("GET", "/nowhere", None, 404, "not_found"),
        ("PUT", "", None, 405, "method_not_allowed"),
        ("GET", "audit?limit=0", None, 400, "malformed"),
        ("GET", "audit?limit=ten", None, 400, "malformed"),
        ("GET", "audit?cursor=-1", None, 400, "malformed"),
        ("GET", "/admin/static/../api.py", None, 404, "not_found"),
        ("GET", "/admin/static/%2e%2e/api.py", None, 404, "not_found"),
    ],
)
async def test_errors_have_one_form(
    control_plane: Make, method: str, path: str, body: object, status: int, said: str
) -> None:
    plane = await control_plane()
    found = await plane.call(method, path, body)
    assert (found[0], code(found[1])) == (status, said)
    assert set(found[1]["error"]) == {"code", "message", "hint"}


async def test_a_body_that_is_no_json_is_told_so(control_plane: Make) -> None:
    plane = await control_plane()
    for body in (b"", b"{", b"\xff\xfe", b"[" * 60_000):
        async with plane.http.post("/api/migration/phase6", data=body) as response:
            assert response.status == 400
            assert code(await response.json()) == "malformed"


async def test_a_revision_is_good_for_one_change(control_plane: Make) -> None:
    plane = await control_plane()
    revision = (await plane.status())["revision"]
    assert (await plane.call("POST", "", {"action": "start", "expected_revision": revision}))[0] == 200
    status, found = await plane.call("POST", "", {"action": "pause", "expected_revision": revision})
    assert (status, code(found)) == (409, "stale_revision")


async def test_reset_takes_everything_back_to_idle(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    status, found = await plane.call("DELETE")
    assert (status, found["state"], found["weight"], found["phase"]) == (200, "idle", 0.0, None)
    assert found["last_rollback"]["trigger"] == "reset"


async def test_a_page_of_another_origin_changes_nothing(control_plane: Make) -> None:
    plane = await control_plane()
    body = {"action": "start"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ):
        status, found = await plane.call("POST", "", body, headers)
        assert (status, code(found)) == (403, "cross_origin")
    assert (await plane.call("POST", "", body, {"Origin": plane.url, "Sec-Fetch-Site": "same-origin"}))[0] == 200


async def test_a_session_changes_things_with_its_own_token_only(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    async with plane.http.post("/api/session", headers=OPERATOR) as response:
        session = await response.json()
        cookie = response.cookies["phasegate_session"]
    assert (session["name"], session["role"]) == ("ci", "operator")
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    held = {"Cookie": f"phasegate_session={cookie.value}"}
    assert (await plane.call("GET", headers=held))[0] == 200
    status, found = await plane.call("POST", "", {"action": "start"}, held)
    assert (status, code(found)) == (403, "csrf")
    for other in ("x", "é", session["csrf"] + "é"):
        status, found = await plane.call("POST", "", {"action": "start"}, held | {"X-CSRF-Token": other})
        assert (status, code(found)) == (403, "csrf")
    right = held | {"X-CSRF-Token": session["csrf"]}
    assert (await plane.call("POST", "", {"action": "start"}, right))[0] == 200
    assert (await plane.call("DELETE", "/api/session", headers=right))[0] == 200
    assert (await plane.call("GET", headers=held))[0] == 401


async def test_pages_of_the_audit_trail_join_up_and_its_chain_is_whole(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    for _ in range(4):
        await plane.act("pause")
        await plane.act("resume")
    seen, cursor = [], ""
    while cursor is not None:
        page = (await plane.call("GET", f"audit?limit=3{cursor and f'&cursor={cursor}'}"))[1]
        seen += [entry["seq"] for entry in page["entries"]]
        cursor = page["next_cursor"]
    assert seen == list(range(seen[0], 0, -1))
    assert len(seen) >= 9
    newest = (await plane.call("GET", "audit?limit=1"))[1]["entries"][0]
    expected = {"whole": True, "problems": [], "entries": newest["seq"], "hash": newest["hash"], "renamed_to": None}
    assert (await plane.call("GET", "audit/verify"))[1] == expected


async def test_the_trail_of_an_earlier_name_is_read_and_says_which_name_goes_on(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    store = Store(plane.folder / "control.db")
    idle = '{"rollout": {}}'
    for name, kind in (("shop", "start"), ("given-up", "abandoned")):
        store.save(name, idle, [(1.0, Entry(kind, "ci", {}))], 1.0)
    store.rename("shop", "store", idle, {}, 2.0)
    store.rename("store", "phase6", idle, {}, 3.0)
    store.close()
    status, page = await plane.call("GET", "/api/migration/shop/audit?limit=1", headers=VIEWER)
    assert (status, page["renamed_to"], page["next_cursor"]) == (200, "phase6", "2")
    assert page["entries"][0]["detail"] == {"to": "store"}
    _, verified = await plane.call("GET", "/api/migration/shop/audit/verify", headers=VIEWER)
    assert (verified["whole"], verified["entries"], verified["renamed_to"]) == (True, 2, "phase6")
    _, page = await plane.call("GET", "/api/migration/given-up/audit", headers=VIEWER)
    assert ([entry["kind"] for entry in page["entries"]], page["renamed_to"]) == (["abandoned"], None)
    _, page = await plane.call("GET", "audit", headers=VIEWER)
    assert page["renamed_to"] is None
    for path in ("/api/migration/odd/audit", "/api/migration/odd", "/api/migration/odd/audit/verify"):
        status, found = await plane.call("GET", path, headers=VIEWER)
        assert (status, code(found)) == (404, "no_such_migration")
        assert "Known migrations: phase6." in found["error"]["hint"]
        assert "given-up, shop, store" in found["error"]["hint"]
    status, found = await plane.call("GET", "/api/migration/shop", headers=VIEWER)
    assert (status, found["error"]["message"]) == (404, "there is no such migration any more: it goes on as phase6")
    assert (await plane.call("GET", "/api/migration/shop/audit", headers=bearer("wrong")))[0] == 401


async def test_an_error_lists_a_bounded_number_of_earlier_names(control_plane: Make) -> None:
    plane = await control_plane()
    store = Store(plane.folder / "control.db")
    for number in range(EARLIER_MAX + 5):
        store.save(f"old-{number:03}", "{}", [(1.0, Entry("start", "ci", {}))], 1.0)
    store.close()
    _, found = await plane.call("GET", "/api/migration/odd")
    assert found["error"]["hint"].count("old-") == EARLIER_MAX
    assert found["error"]["hint"].endswith("and more")


async def read_events(response: Any, count: int) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count:
            kind, data = "", ""
            while line := (await response.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                kind, data = (value, data) if name == "event" else (kind, value) if name == "data" else (kind, data)
            found.append((kind, json.loads(data)))
    return found


async def test_events_carry_every_audit_entry_and_a_status_each_second(control_plane: Make) -> None:
    plane = await control_plane({"migrations": {"phase6": {"validate_every": "60s", "min_samples": 10**6}}})
    async with plane.http.get("/api/migration/phase6/events") as response:
        assert response.content_type == "text/event-stream"
        assert (await read_events(response, 1))[0][0] == "status"
        await plane.act("start")
        found = await read_events(response, 6)
    assert "start" in [data["kind"] for kind, data in found if kind == "audit"]
    assert [data["state"] for kind, data in found if kind == "status"][-1] == "running"


async def test_a_reader_that_comes_back_gets_the_entries_it_missed(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    last = (await plane.call("GET", "audit?limit=1"))[1]["entries"][0]["seq"]
    await plane.act("pause")
    headers = {"Last-Event-ID": str(last)}
    async with plane.http.get("/api/migration/phase6/events", headers=headers) as response:
        kind, data = (await read_events(response, 1))[0]
    assert (kind, data["kind"], data["seq"]) == ("audit", "pause", last + 1)


async def test_a_reader_that_comes_back_gets_nothing_twice(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    asked, answer = asyncio.Event(), asyncio.Event()
    audit = plane.store.audit

    async def slow(*args: Any) -> Any:
        asked.set()
        await answer.wait()
        return await audit(*args)

    plane.store.audit = slow
    get = plane.http.get("/api/migration/phase6/events", headers={"Last-Event-ID": "0"})
    connecting = asyncio.create_task(get.__aenter__())
    await asked.wait()
    await plane.act("pause")  # while the trail is read: it is in the trail and among what waits for the reader
    answer.set()
    response = await connecting
    await plane.act("resume")
    seen: list[int] = []
    while not seen or seen[-1] < await newest(plane):
        seen += [data["seq"] for kind, data in await read_events(response, 1) if kind == "audit"]
    assert seen == list(range(1, len(seen) + 1))
    response.close()


async def test_a_reader_of_a_trail_that_began_anew_gets_the_new_one(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    headers = {"Last-Event-ID": str(await newest(plane) + 100)}
    async with plane.http.get("/api/migration/phase6/events", headers=headers) as response:
        kind, data = (await read_events(response, 1))[0]
        assert (kind, data["seq"]) == ("audit", 1)
        await plane.act("pause")
        kinds: list[str] = []
        while "pause" not in kinds:
            kinds += [data["kind"] for kind, data in await read_events(response, 1) if kind == "audit"]


async def test_a_store_that_breaks_in_use_is_noted_and_has_the_checkpoint_again(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    await plane.act("pause")
    async with plane.http.get("/api/migration/phase6/events") as response:
        path, db = plane.folder / "control.db", plane.store._store._db
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        path.write_bytes(b"\xff" * path.stat().st_size)
        db.execute("PRAGMA shrink_memory")  # what it has in memory is still good
        seen: list[str] = []
        while "note" not in seen:
            await plane.call("GET", "audit")  # finds it, if nobody else does
            seen += [data["kind"] for kind, data in await read_events(response, 1) if kind == "audit"]
    entries = (await plane.call("GET", "audit"))[1]["entries"]
    assert (entries[-1]["seq"], entries[-1]["kind"]) == (1, "note")
    assert "the store was broken" in entries[-1]["detail"]["note"]
    # Nothing had to happen for the new store to know where the migration is.
    assert '"state":"paused"' in (await plane.store.checkpoint("phase6")).document
    assert (await plane.status())["checkpoint"]["ok"]


async def test_a_reader_whose_process_ends_while_the_trail_is_read_is_told_no_mistake(control_plane: Make) -> None:
    plane = await control_plane()
    asked = asyncio.Event()

    async def never(*args: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    plane.store.audit = never
    get = plane.http.get("/api/migration/phase6/events", headers={"Last-Event-ID": "0"})
    connecting = asyncio.create_task(get.__aenter__())
    await asked.wait()
    await plane._runner.shutdown()
    assert (await connecting).status == 200
    (await connecting).close()


async def newest(plane: Any) -> int:
    return int((await plane.call("GET", "audit?limit=1"))[1]["entries"][0]["seq"])


async def test_a_reader_that_does_not_read_holds_nothing_up(control_plane: Make) -> None:
    hub = events.Hub()
    subscription = hub.subscribe()
    plane = await control_plane()
    for i in range(1000):
        hub.publish(AuditEntry(i, "2026-05-04T03:02:01.000Z", "pause", "ci", {}, "", ""))
        hub.publish(replace(plane.coordinator.status(), revision=i))
    assert subscription.lagged
    found = await subscription.get()
    assert len(found) == events.QUEUE_MAX + 1
    assert found[-1].name == "status"
    assert json.loads(found[-1].json)["revision"] == 999


def test_only_so_many_readers_are_let_in() -> None:
    hub = events.Hub()
    taken = [hub.subscribe() for _ in range(events.SUBSCRIBERS_MAX)]
    with pytest.raises(events.TooMany):
        hub.subscribe()
    hub.leave(taken[0])
    hub.subscribe()


async def test_metrics_have_the_weight_the_requests_and_the_sources_gauges(control_plane: Make) -> None:
    plane = await control_plane()
    plane.workers.rate = 500
    await plane.act("start")
    await plane.until(lambda s: s["arms"]["target"]["requests"] > 3)
    text = (await plane.call("GET", "/metrics"))[1]
    for line in (
        'phasegate_weight_ratio{migration="phase6"}',
        'phasegate_state{migration="phase6",state="running"} 1.0',
        'phasegate_request_duration_seconds_bucket{arm="target",le="+Inf",migration="phase6",operation="',
        'phasegate_source_breaker_state{migration="phase6"}',
        'phasegate_source_attempts_total{migration="phase6"}',
        'phasegate_source_view_age_ms{migration="phase6"}',
        'phasegate_board_age_seconds{who="control"}',
        'phasegate_worker_memory_bytes{slot="0"}',
    ):
        assert line in text


async def test_readiness_and_health_need_nobody(control_plane: Make) -> None:
    plane = await control_plane(TOKENS)
    assert (await plane.call("GET", "/healthz"))[0] == 200
    await asyncio.sleep(0.1)
    assert (await plane.call("GET", "/readyz"))[1] == {"ok": True, "migrations": {"phase6": "idle"}}


# The document against the code.

DOCUMENT = json.loads(json.dumps(document("1")))
SCHEMAS = DOCUMENT["components"]["schemas"]


def mismatch(schema: Any, value: Any, path: str = "$") -> str | None:
    """Where a value is not what a schema of ours says; the keywords that ours use and no others."""
    if "$ref" in schema:
        return mismatch(SCHEMAS[schema["$ref"].rpartition("/")[2]], value, path)
    if "anyOf" in schema:
        tried = [mismatch(option, value, path) for option in schema["anyOf"]]
        return None if None in tried else tried[0]
    if "enum" in schema:
        return None if value in schema["enum"] else f"{path}: {value!r}"
    kinds: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    if "type" in schema and (
        not isinstance(value, kinds[schema["type"]])
        or (isinstance(value, bool) and schema["type"] in ("integer", "number"))
    ):
        return f"{path}: {value!r} is no {schema['type']}"
    if isinstance(value, list):
        return next((m for i, v in enumerate(value) if (m := mismatch(schema["items"], v, f"{path}[{i}]"))), None)
    if isinstance(value, dict) and "additionalProperties" in schema and "properties" not in schema:
        each = schema["additionalProperties"]
        return next((m for n, v in value.items() if (m := mismatch(each, v, f"{path}.{n}"))), None)
    if isinstance(value, dict) and "properties" in schema:
        properties = schema["properties"]
        missing = [name for name in schema["required"] if name not in value]
        strange = [name for name in value if name not in properties]
        if missing or strange:
            return f"{path}: missing {missing}, strange {strange}"
        return next((m for n, v in value.items() if (m := mismatch(properties[n], v, f"{path}.{n}"))), None)
    return None


def test_the_schema_check_can_fail() -> None:
    assert mismatch(SCHEMAS["Check"], {"name": "a", "ok": None, "found": "", "mend": ""}) is None
    assert mismatch(SCHEMAS["Check"], {"name": 1, "ok": None, "found": "", "mend": ""}) is not None
    assert mismatch(SCHEMAS["Check"], {"name": "a", "ok": None, "found": ""}) is not None


def answer_schema(endpoint: Any, status: int) -> Any:
    known = DOCUMENT["paths"][endpoint.path][endpoint.method]["responses"]
    assert str(status) in known, f"{endpoint.method} {endpoint.path} answered {status}, which is not in the document"
    (content,) = known[str(status)]["content"].values()
    return content.get("schema", {})


def some_json(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON value, with a liking for what an action's body has."""
    words = ["start", "advance", "pause", "resume", "rollback", "abort", "reset", "previous", "", "ü", "x" * 600]
    plain = [None, True, False, 0, -1, 1.5, 2**70, chance.choice(words)]
    if depth > 2 or chance.random() < 0.4:
        return chance.choice(plain)
    if chance.random() < 0.2:
        return [some_json(chance, depth + 1) for _ in range(chance.randrange(3))]
    keys = ["action", "reason", "expected_revision", "dry_run", "resume", "to", "force", "odd"]
    found = {key: some_json(chance, depth + 1) for key in chance.sample(keys, chance.randrange(5))}
    if depth == 0 and chance.random() < 0.8:
        found["action"] = chance.choice(words)
        found = {k: v for k, v in found.items() if k in ("action", "to") or chance.random() < 0.4}
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_no_call_gets_an_answer_that_the_document_does_not_have(control_plane: Make, seed: int) -> None:
    plane = await control_plane()
    plane.workers.rate = 300
    chance = random.Random(seed)
    answered: set[tuple[str, int]] = set()
    for _ in range(150):
        endpoint = chance.choice([e for e in ENDPOINTS if e.name not in ("events", "act")] + [ENDPOINTS[2]] * 8)
        name = chance.choice(["phase6"] * 9 + ["other", "%00", "..%2f"])
        query = chance.choice(["", "", "?limit=1", "?limit=x", "?cursor=5", "?cursor=-", "?limit=9999999999"])
        body = json.dumps(some_json(chance)) if endpoint.body else None
        path = endpoint.path.replace("{name}", name) + query
        async with plane.http.request(endpoint.method, path, data=body) as response:
            answered.add((endpoint.name, response.status))
            schema = answer_schema(endpoint, response.status)
            if response.content_type == "application/json":
                assert mismatch(schema, await response.json()) is None
    assert {status for _, status in answered} >= {200, 400}


async def test_every_answer_about_a_migration_that_runs_is_as_documented(control_plane: Make) -> None:
    plane = await control_plane()
    plane.workers.rate, plane.workers.target_faults = 2000, 0.02
    await plane.act("start")
    await plane.until(lambda s: s["phase"] and s["phase"]["index"] > 0 and s["verdict"]["rules"])
    await plane.act("rollback")
    for endpoint in ENDPOINTS:
        if endpoint.method == "get" and endpoint.content == "application/json":
            status, found = await plane.call("GET", endpoint.path.replace("{name}", "phase6"))
            assert mismatch(answer_schema(endpoint, status), found) is None, endpoint.path
    await plane.act("start", resume=True)
    running = await plane.until(lambda s: s["verdict"]["rules"])
    assert mismatch(SCHEMAS["Status"], running) is None


async def test_the_document_and_the_router_are_one_table(control_plane: Make) -> None:
    plane = await control_plane()
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    routes = {(r.method.lower(), r.resource.canonical) for r in plane.application.router.routes()}
    page = {(method, path) for method, path in routes if path.startswith("/admin/")}
    assert routes - page - {("head", path) for _, path in routes} == described
    assert len(described) == len(ENDPOINTS) > 10


def test_every_reference_of_the_document_leads_somewhere_and_nothing_is_left_over() -> None:
    used = {part.split('"')[0] for part in json.dumps(DOCUMENT).split("#/components/schemas/")[1:]}
    assert used == set(SCHEMAS)


def test_every_message_of_a_webhook_is_described_by_its_event() -> None:
    assert list(DOCUMENT["webhooks"]) == [
        *("phase_change", "rollback", "rollback_complete"),
        *("approval_needed", "held", "lease_lost", "data_differs"),
    ]
    for kind in MESSAGES:
        schema = SCHEMAS[kind.__name__]
        assert schema["properties"]["event"]["enum"] == [kind.__struct_config__.tag]
        always = [name for name in kind.__struct_fields__ if name != "was"]
        assert sorted(schema["required"]) == sorted(["event", *always])
