"""The client of the control API: what it takes for an answer, and what it makes of everything else."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import convert

from control.api.client import ControlClient, _parse_events
from control.api.documents import AuditPage, VerifiedTrail
from control.api.unanswered import ApiError, ApiRefused, Unreachable
from control.cli import verify
from control.figures.documents import Figures, Sample, SampledArm
from control.lead.commands import ActionBody
from control.lead.documents import Status
from control.report.documents import Report
from control.store.entry import AuditEntry
from control.terminal.picture import picture
from control.terminal.tables import print_audit
from tests.support.documents import arm, current, planned, status, status_json, verdict
from tests.support.patience import WITHIN_S

Answering = Callable[..., ControlClient]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """A client of a server that sends these bytes to each connection in turn, after a request's head, and closes."""
    opened: list[socket.socket] = []

    def serve(*answers: bytes) -> ControlClient:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.settimeout(WITHIN_S)
        opened.append(listening)

        def run() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return ControlClient(f"http://127.0.0.1:{listening.getsockname()[1]}", "token")

    yield serve
    for listening in opened:
        listening.close()


def answer(status: str, body: object, content_type: str = "application/json") -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


def test_an_answer_is_its_json(answering: Answering) -> None:
    assert answering(answer("200 OK", status_json(state="idle"))).status() == status(state="idle")


def test_what_a_later_version_has_added_is_passed_over(answering: Answering) -> None:
    assert answering(answer("200 OK", status_json() | {"mood": "fine"})).status() == status()


def test_an_action_is_sent_with_what_was_asked_for_and_nothing_else() -> None:
    assert msgspec.to_builtins(ActionBody("rollback", to="start")) == {"action": "rollback", "to": "start"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("running", Status),
        ("dry run", Status),
        ("rolled back /audit", AuditPage),
        ("rolled back /audit/verify", VerifiedTrail),
        ("rolled back /metrics", Figures),
        ("rolled back /report", Report),
    ],
)
def test_what_is_read_is_the_whole_document(name: str, kind: Any) -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "documents.json").read_text(encoding="utf-8"))
    document = golden[name]["document"]
    assert json.loads(msgspec.json.encode(convert(document, kind))) == document


def test_a_refusal_has_status_code_message_and_hint(answering: Answering) -> None:
    error = {"error": {"code": "not_allowed", "message": "pause is not possible", "hint": "start it"}}
    with pytest.raises(ApiRefused) as refused:
        answering(answer("409 Conflict", error)).act("pause")
    found = refused.value
    assert (found.status, found.code, str(found)) == (409, "not_allowed", "pause is not possible\nstart it")


@pytest.mark.parametrize(
    "data",
    [
        answer("200 OK", {"fine": True}, "text/html"),
        answer("200 OK", ["a", "list"]),
        b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\nbroken off",
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
)
def test_what_no_control_plane_says_is_no_answer(answering: Answering, data: bytes) -> None:
    with pytest.raises(Unreachable):
        answering(data).status()


def test_an_action_is_sent_once_though_its_answer_is_lost(answering: Answering) -> None:
    client = answering(b"", answer("200 OK", status_json(state="aborted")))
    with pytest.raises(Unreachable):
        client.act("abort")
    assert client.status().state == "aborted", "the second answer was still to be had"


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://host:0"])
def test_a_url_that_names_no_control_plane_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="not an address"):
        ControlClient(url)


def test_an_address_may_leave_out_its_scheme() -> None:
    assert ControlClient("127.0.0.1:9090").url == "http://127.0.0.1:9090"


def test_events_are_parsed_with_ids_comments_and_data_over_lines() -> None:
    lines = io.BytesIO(
        b': hello\n\nid: 7\nevent: audit\ndata: {"seq":\ndata: 7}\n\n\ndata: {"a": 1}\r\n\r\nevent: lost\n\n'
        b'event: cut\ndata: {"whole": false}'
    )
    events = list(_parse_events(lines))
    assert [(name, json.loads(data)) for name, data in events] == [("audit", {"seq": 7}), ("message", {"a": 1})]


def test_the_end_of_the_events_is_said(answering: Answering) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    data = json.dumps(status_json(state="idle")).encode()
    events = answering(head + b"event: later\ndata: {}\n\nevent: status\ndata: " + data + b"\n\n").events()
    assert next(events) == status(state="idle"), "an event that is not known here is passed over"
    with pytest.raises(Unreachable, match="ended"):
        next(events)


def test_a_picture_can_be_drawn_of_the_barest_status() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(console, status(state="idle", weight=0.0, phase=None), [], "keys"))
    assert "phase6" in console.export_text()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (110, 40), (60, 20)])
def test_a_picture_never_hides_its_keys(width: int, height: int) -> None:
    from rich.console import Console

    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    figures = arm(1000, 1, p95=2.0)
    names = ("error_rate", "p95_ms", "p99_ms", "memory_mb", "cpu")
    rule = {"value": 0.001, "limit": 0.05, "samples": 1000, "outcome": "hold", "proof": 0.4}
    now = status(
        phase=current(1, "early", 25.0, soaked_s=4.0, min_soak_s=600.0),
        phases=[planned(name, weight) for name, weight in (("initial", 5.0), ("early", 25.0), ("half", 50.0))],
        verdict=verdict("hold", "soaking", rules=[rule | {"rule": name} for name in names]),
        arms={name: figures | {"backend": name, "inflight": 0} for name in ("source", "target")},
        workers=[{"slot": 0, "pid": 7, "generation": 1, "inflight_target": 0, "heartbeat_age_ms": 3.0}],
    )
    lines = [f"line {i}" for i in range(6)]
    sampled = convert(figures | {"fallbacks": 0, "heat": []}, SampledArm)
    samples = [Sample(1.0, 1.0, 25.0, sampled, sampled)] * 9
    console.print(picture(console, now, lines, "d detach", samples))
    drawn = console.export_text().splitlines()
    assert len(drawn) < height
    assert drawn[-1] == "d detach"
    assert any("early 25 %" in line for line in drawn), "where it stands is never left out"


class OfAnEarlierName:
    """A client that is asked for the trail of a migration that was renamed."""

    migration = "shop"

    def verify(self) -> VerifiedTrail:
        return VerifiedTrail(True, 2, "a hash", (), "store")


def test_a_trail_of_an_earlier_name_says_which_name_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    entry = AuditEntry(2, "2026-05-04T03:02:01.000Z", "renamed", "phasegate", {"to": "store"}, "", "")
    print_audit(AuditPage((entry,), "2", "store"), "shop")
    told = capsys.readouterr().out
    assert "More: phasegate audit --migration shop --cursor 2" in told
    assert "shop was renamed: `phasegate audit --migration store` goes on with it." in told
    assert verify.tell(verify.asked(OfAnEarlierName())) == 0  # type: ignore[arg-type]
    assert "shop was renamed, and goes on as store" in capsys.readouterr().out
    print_audit(AuditPage((entry,), "2"), "store")
    assert "--migration" not in capsys.readouterr().out
