"""The access log: a line of JSON a request, sampled, in a file that may be moved away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.http1.accesslog import AccessEntry
from proxy.http1.logfile import LogFile
from proxy.settings import AccessLog

GET = b"GET /x?y=1 HTTP/1.1\r\nHost: a\r\ntraceparent: 00-aa-bb-01\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_where_it_is_off_a_connection_notes_nothing(rig: Any) -> None:
    here = await rig()
    assert here.gateway.client()._log is None


async def test_each_request_has_its_line(rig: Any, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    here = await rig(proxy={"access_log": AccessLog(str(path))})
    assert type(here.gateway.client()._log) is AccessEntry
    here.origin.script = [OK, LONG + b"0\r\n\r\n", b"nonsense\r\n\r\n"]
    await here.talk(GET * 3, "GET", "GET", "GET")
    await here.refusal(b"nonsense\r\n\r\n")
    here.gateway.sweep()
    whole, chunked, bad, refused = lines(path)
    assert {key: whole[key] for key in ("client", "method", "target", "host", "status", "bytes", "source")} == {
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/x?y=1",
        "host": "a",
        "status": 200,
        "bytes": 2,
        "source": "app",
    }
    assert whole["traceparent"] == "00-aa-bb-01"
    assert whole["ms"] > 0
    assert whole["time"].endswith("+00:00")
    assert (chunked["status"], chunked["bytes"]) == (200, 5)
    assert bad["status"] == 502
    assert (refused["status"], refused["note"]) == (400, "unreadable")
    assert "method" not in refused


async def test_a_client_that_left_has_its_line_too(rig: Any, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    here = await rig(proxy={"access_log": AccessLog(str(path))})
    here.origin.script = [LONG]
    client = await here.connect()
    client.send(GET)
    await client.until(lambda: b"hello" in client.received)
    client.transport.abort()
    await here.until(lambda: not here.gateway.clients)
    here.gateway.sweep()
    (line,) = lines(path)
    assert (line["note"], line["status"], line["bytes"]) == ("client gone", 200, 5)


async def test_errors_are_always_logged_and_the_rest_by_the_sample(rig: Any, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    here = await rig(proxy={"access_log": AccessLog(str(path), sample=0.0)})
    here.origin.script = [OK, OK, b"nonsense\r\n\r\n"]
    await here.talk(GET * 3, "GET", "GET", "GET")
    here.gateway.sweep()
    assert [line["status"] for line in lines(path)] == [502]


async def test_a_file_that_was_moved_is_begun_anew(rig: Any, tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    here = await rig(proxy={"access_log": AccessLog(str(path))})
    here.origin.script = [OK, OK]
    await here.talk(GET, "GET")
    here.gateway.sweep()
    path.rename(old)
    await here.talk(GET, "GET")
    here.gateway.sweep()
    assert (len(lines(old)), len(lines(path))) == (1, 1)


def test_a_line_that_is_taken_in_parts_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr("os.write", lambda fd, data: whole(fd, data[:3]))
    log = LogFile(str(tmp_path / "access.log"))
    log.add(b"a line\n")
    log.close()
    assert (tmp_path / "access.log").read_bytes() == b"a line\n"


async def test_a_disk_that_takes_nothing_costs_lines_and_no_request(rig: Any, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    here = await rig(proxy={"access_log": AccessLog(str(folder / "access.log"))})
    folder.rmdir()
    here.origin.script = [OK, OK]
    assert (await here.talk(GET, "GET"))[0].status == 200
    here.gateway.sweep()
    folder.mkdir()
    assert (await here.talk(GET, "GET"))[0].status == 200
    here.gateway.sweep()
    assert len(lines(folder / "access.log")) == 1
