"""Fixtures: JSON files by collection, and the app's own requests; what is wrong is told with file and place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backends.adapters.adapter import ANCHOR
from backends.copy.fixtures import fixture_documents, fixtures_digest, initial
from backends.copy.folder import FixtureError
from backends.copy.marker import MARKER, read_marker
from backends.documents.port import DOCUMENT_BYTES, ID_BYTES
from backends.kinds.firestore.settings import Firestore
from backends.kinds.http.settings import Http
from backends.kinds.mock.memory import MemoryStore
from backends.kinds.mock.settings import Mock

FINE = "2026-01-01T00:00:59.9999999Z"
CUT = datetime(2026, 1, 1, 0, 0, 59, 999_999, tzinfo=UTC)
SCAN = {"method": "POST", "path": "/api/scans", "body": {"root": "/home"}, "id": "weekly"}
FILES = [{"path": f"/{n}", "size": 10, "hash": "ab" if n < 3 else f"{n}"} for n in range(5)]
RESULTS = {"method": "POST", "path": "/api/scans/weekly/results", "body": {"files": FILES}}
OLD_SCAN = {  # a whole document, which requests may go on from
    "root": "/",
    "name": "",
    "status": "queued",
    "progress": 0.0,
    "message": "",
    "revision": 1,
    "change": "c",
    **dict.fromkeys(("created_at", "updated_at"), "2026-01-01T00:00:00Z"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "fixtures"
    made.mkdir()
    return made


def lines(*requests: object) -> str:
    return "".join(f"{json.dumps(request)}\n" for request in requests)


def stored(folder: Path) -> dict[str, Any]:
    """The fields of the documents, by path."""
    return {each.path: each.fields for each in fixture_documents(Mock(fixtures=str(folder)))()}


# ------------------------------------------------------------------------------------------------------- requests


def test_requests_are_answered_in_order_so_counters_and_groups_are_right(folder: Path) -> None:
    update = {"method": "PATCH", "path": "/api/scans/weekly", "body": {"status": "running", "progress": 40}}
    events = {
        "method": "POST",
        "path": "/api/analytics/events",
        "body": [{"user": "u", "type": "view", "item": "tea", "id": str(n)} for n in range(3)],
    }
    folder.joinpath("requests.jsonl").write_text(lines(SCAN, update, RESULTS, events))
    documents = stored(folder)
    scan = documents["scans/weekly"]
    assert (scan["status"], scan["progress"], scan["files"], scan["bytes"]) == ("running", 40, 5, 50)
    assert scan["created_at"] == ANCHOR
    assert scan["updated_at"].timestamp() - ANCHOR.timestamp() == 1  # one second after the line before
    groups = [fields for path, fields in documents.items() if path.startswith("scans/weekly/groups/")]
    assert sorted(group["copies"] for group in groups) == [1, 1, 3]
    totals = [fields for path, fields in documents.items() if path.startswith("analytics_totals/")]
    assert [total["events"] for total in totals] == [3]
    assert len([path for path in documents if path.startswith("analytics_events/")]) == 3


def test_requests_go_on_from_what_the_json_files_hold(folder: Path) -> None:
    folder.joinpath("scans.json").write_text(json.dumps({"old": OLD_SCAN}))
    update = {"method": "PATCH", "path": "/api/scans/old", "body": {"status": "cancelled"}}
    folder.joinpath("requests.jsonl").write_text(lines(update))
    assert stored(folder)["scans/old"]["status"] == "cancelled"
    assert list(stored(folder)) == ["scans/old"]


def test_the_same_lines_give_the_same_documents_every_time(folder: Path) -> None:
    unnamed = {"method": "POST", "path": "/api/scans", "body": {"root": "/srv"}}
    file = folder / "requests.jsonl"
    file.write_text(lines(unnamed, unnamed, SCAN))
    mock = Mock(fixtures=str(folder))
    first, digest = stored(folder), fixtures_digest(mock)
    assert len(first) == 3  # two equal requests are two scans
    assert stored(folder) == first
    assert fixtures_digest(mock) == digest
    published = {"method": "PUT", "path": "/api/dashboard/metrics", "body": {"metrics": {"n": 1}}}
    file.write_text(lines(published, unnamed, unnamed, SCAN))
    assert set(first) < set(stored(folder))  # another line changes no other line's id
    assert fixtures_digest(mock) != digest


def test_a_line_may_say_its_time_and_id_and_the_next_one_follows(folder: Path) -> None:
    publish = {"method": "PUT", "path": "/api/dashboard/metrics", "body": {"metrics": {"n": 1}}}
    named = publish | {"id": "a", "at": FINE}
    folder.joinpath("requests.jsonl").write_text(lines(named, publish | {"id": "b"}))
    documents = stored(folder)
    assert documents["dashboard_snapshots/a"]["published_at"] == CUT
    assert documents["dashboard_snapshots/b"]["published_at"] == CUT.replace(minute=1, second=0)


def test_reads_and_empty_lines_are_passed_over(folder: Path) -> None:
    read = {"method": "GET", "path": "/api/scans/nobody?limit=1"}
    stream = {"method": "GET", "path": "/api/dashboard/metrics/stream"}
    text = "\ufeff\n" + lines(read, stream) + "\r\n" + lines(SCAN).replace("\n", "\r\n")
    folder.joinpath("requests.jsonl").write_text(text, newline="")
    assert list(stored(folder)) == ["scans/weekly"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{", ":3: Input data was truncated"),
        ("[]", ":3: Expected `object`, got `array`"),
        ('{"method": "POST"}', ":3: Object missing required field `path`"),
        ('{"method": "POST", "path": "/api/scans", "when": 1}', ":3: Object contains unknown field `when`"),
        (SCAN | {"id": "a/b"}, ":3: id: expected 1 to 1500 bytes that can be a document's id, found 'a/b'"),
        (SCAN | {"at": "noon"}, ":3: at: expected a time such as 2026-01-31T12:00:00Z, found 'noon'"),
        (SCAN, ":3: id: 'weekly' is that of line 1 already"),
        (SCAN | {"id": "old"}, ":3: id: scans/old is in the JSON file of its collection already"),
        (SCAN | {"path": "/api/scan"}, ":3: path: no request of an adapter has '/api/scan'; what can be written: "),
        (SCAN | {"method": "PUT"}, ":3: method: /api/scans takes GET, POST, found 'PUT'"),
        (
            SCAN | {"id": "b", "body": {"root": 5}},
            ":3: POST /api/scans is refused by scans.create: invalid_body: Expected `str`, got `int` - at `$.root`",
        ),
        (
            {"method": "PATCH", "path": "/api/scans/nobody", "body": {"progress": 1}},
            ":3: PATCH /api/scans/nobody is refused by scans.update: not_found: there is no scan 'nobody'",
        ),
        (
            {
                "method": "PUT",
                "path": "/api/dashboard/metrics",
                "body": {"metrics": {"a": "x" * DOCUMENT_BYTES}},
                "id": "big",
            },
            ":3: PUT /api/dashboard/metrics is refused by dashboard.publish: dashboard_snapshots/big has a string",
        ),
        (b'{"method": "POST", "path": "/api/scans", "id": "\xff"}', ":3: "),
    ],
)
def test_a_line_that_cannot_be_used_is_told_with_file_and_line(folder: Path, wrong: Any, told: str) -> None:
    folder.joinpath("scans.json").write_text(json.dumps({"old": OLD_SCAN}))
    text = wrong if isinstance(wrong, bytes) else (wrong if isinstance(wrong, str) else json.dumps(wrong)).encode()
    folder.joinpath("requests.jsonl").write_bytes(lines(SCAN).encode() + b"\n" + text + b"\n")
    with pytest.raises(FixtureError) as refused:
        stored(folder)
    assert f"{folder / 'requests.jsonl'}{told}" in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_an_unknown_route_names_those_that_exist(folder: Path) -> None:
    folder.joinpath("requests.jsonl").write_text(lines(SCAN | {"path": "/api/orders"}))
    with pytest.raises(FixtureError, match=r"POST /api/scans, PATCH /api/scans/\{id\}, POST"):
        stored(folder)


# ------------------------------------------------------------------------------------------------------- JSON files


def long_id(folder: Path) -> None:
    (folder / "things.json").write_text(json.dumps({"x" * (ID_BYTES + 1): {}}))


def large(folder: Path) -> None:
    (folder / "things.json").write_text(json.dumps({"small": {}, "big": {"a": ["x" * 600_000, "x" * 600_000]}}))


def text(content: str, name: str = "things.json") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


EXPECTED = 'expected {"<id>": {"field": value, …}, …}'


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (text("{"), "things.json: it is no JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        (text('{\n "a": {}\n "b": {}}'), "things.json: it is no JSON: Expecting ',' delimiter: line 3 column 2"),
        (text('{"a": {"n": NaN}}'), "things.json: NaN is no number that a document can hold"),
        (text('{"a": {"n": 1e999}}'), "things.json: things/a has a number that is not finite"),
        (lambda folder: (folder / "things.json").write_bytes(b'{"a\xff": {}}'), "it is not UTF-8, at byte 3"),
        (text("[]"), f"things.json: it holds []; {EXPECTED}"),
        (text('{"a": 1}'), f'things.json: the document "a" is 1; {EXPECTED}'),
        (text('{"a": {}, "b": {}, "a": {}}'), 'things.json: the id "a" is there twice'),
        (text('{"a": {"b": {"c": 1, "c": 2}}}'), "things.json: the document \"a\" has the field 'b.c' twice"),
        (text('{"a/b": {}}'), 'things.json: "a/b" cannot be a document\'s id; expected 1 to 1500 bytes without /'),
        (text('{"": {}}'), 'things.json: "" cannot be a document\'s id'),
        (text('{"__a__": {}}'), 'things.json: "__a__" cannot be a document\'s id'),
        (text('{"\\ud800": {}}'), "cannot be a document's id"),
        (long_id, "cannot be a document's id; expected 1 to 1500 bytes without /"),
        (text('{"a": {"": 1}}'), "things.json: things/a has a field without a name"),
        (large, "things.json: things/big is 12"),
        (text(f'{{"a": {"[" * 100_000}{"]" * 100_000}}}'), "things.json: its values nest too deep"),
        (text('{"a": {"made_at": "noon"}}'), 'the document "a": made_at is "noon", expected a time such as 2026-01-'),
        (text('{"a": {"at": 5}}'), 'things.json: the document "a": at is 5, expected a time such as'),
        (text('{"a": {"start": "x"}}', "analytics_days.json"), 'analytics_days.json: the document "a": start is "x"'),
        (text("{}", "scans.a.json"), "scans.a.json: the file's name stands for 'scans/a', which is no collection"),
        (text("{}", "phasegate.json"), "phasegate.json: the collection phasegate is phasegate's own"),
        (lambda folder: (folder / "things.json").mkdir(), "things.json: it cannot be read: Is a directory"),
        (lambda folder: (folder / "README.md").touch(), "fixtures: found none; expected a folder of JSON files"),
        (lambda folder: folder.rmdir(), "fixtures does not exist; expected a folder of JSON files, one a collection"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_file_and_place(
    folder: Path, write: Callable[[Path], object], told: str
) -> None:
    write(folder)
    with pytest.raises(FixtureError) as refused:
        stored(folder)
    assert told in str(refused.value)
    assert str(folder) in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FixtureError, match="file cannot be listed: Not a directory; expected a folder"):
        stored(tmp_path / "file")


def test_times_are_read_where_a_field_is_one_and_cut(folder: Path) -> None:
    fields = {"made_at": FINE, "gone_at": None, "note": FINE, "more": {"at": FINE, "seen_at": "noon"}}
    folder.joinpath("things.json").write_text(json.dumps({"a": fields}))
    more = {"at": CUT, "seen_at": "noon"}
    assert stored(folder) == {"things/a": {"made_at": CUT, "gone_at": None, "note": FINE, "more": more}}


def test_the_times_inside_a_request_are_cut(folder: Path) -> None:
    event = {"user": "u", "type": "view", "id": "1", "at": FINE}
    folder.joinpath("requests.jsonl").write_text(
        lines({"method": "POST", "path": "/api/analytics/events", "body": event})
    )
    (fields,) = [fields for path, fields in stored(folder).items() if path.startswith("analytics_events/")]
    assert fields["at"] == CUT


# ------------------------------------------------------------------------------------------------------- the digest


def digest(folder: Path, documents: object) -> str | None:
    (folder / "things.json").write_text(json.dumps(documents))
    return fixtures_digest(Mock(fixtures=str(folder)))


def test_the_digest_follows_the_documents_and_not_their_order(folder: Path) -> None:
    one = digest(folder, {"a": {"n": 1, "m": {"x": 1, "y": 2}}, "b": {}})
    assert one == digest(folder, {"b": {}, "a": {"m": {"y": 2, "x": 1}, "n": 1}})
    values: Iterable[object] = (1, 1.0, "1", True, None, [1], {"x": 1}, "2026-01-01T00:00:00Z", 1767225600000000)
    others = [digest(folder, {"a": {"at_all": value}}) for value in values]
    moment = digest(folder, {"a": {"at_all": "x", "at": "2026-01-01T00:00:00Z"}})
    assert len({one, moment, *others}) == 2 + len(others)


def test_made_up_data_has_a_digest_and_what_begins_with_nothing_has_none() -> None:
    assert fixtures_digest(Mock()) == fixtures_digest(Mock(seed=0))
    assert fixtures_digest(Mock()) != fixtures_digest(Mock(seed=1))
    assert fixtures_digest(Firestore(project="p")) is None
    assert fixtures_digest(Http(origin="http://127.0.0.1:1")) is None


async def test_a_mock_begins_with_a_marker_that_bears_its_fixtures(folder: Path) -> None:
    folder.joinpath("requests.jsonl").write_text(lines(SCAN))
    mock = Mock(fixtures=str(folder))
    store = MemoryStore(initial(mock))
    assert await read_marker(store) is None
    await store.start()
    marker = await read_marker(store)
    assert marker is not None
    assert (marker.documents, marker.digest, marker.whole) == (1, fixtures_digest(mock), True)
    assert {document.path for document in store.documents()} == {"scans/weekly", MARKER}


def test_what_the_page_shows_is_as_it_says(folder: Path, repository: Path) -> None:
    page = (repository / "docs/fixtures.md").read_text()
    snapshots, requests = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (told,) = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
    folder.joinpath("dashboard_snapshots.json").write_text(snapshots)
    folder.joinpath("requests.jsonl").write_text(requests)
    documents = stored(folder)
    assert documents["scans/weekly"]["status"] == "running"
    assert {path.split("/")[0] for path in documents} >= {"dashboard_snapshots", "analytics_totals"}
    folder.joinpath("requests.jsonl").write_text(requests.replace("scans/weekly", "scans/weakly"))
    with pytest.raises(FixtureError, match=re.escape(told)):
        stored(folder)
