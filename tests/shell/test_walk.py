"""A migration from start to completion and back, over the API, with workers that are played on a real board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Make = Callable[..., Any]


async def test_a_healthy_target_is_led_through_every_phase(control_plane: Make) -> None:
    plane = await control_plane()
    plane.workers.rate = 2000
    started = await plane.act("start", reason="release 7")
    assert (started["state"], started["weight"], started["phase"]["name"]) == ("running", 5.0, "initial")
    done = await plane.until(lambda s: s["state"] == "completed")
    assert done["weight"] == 100.0
    report = (await plane.call("GET", "report"))[1]
    assert [phase["name"] for phase in report["phases"]] == ["initial", "early", "half", "majority", "complete"]
    for phase in report["phases"]:
        assert abs(phase["target_share"] - phase["weight"] / 100) < 0.1, phase
        assert phase["arms"]["target"]["requests"] >= 5
    assert report["outcome"] == "completed"
    assert report["rollbacks"] == []
    assert [c["name"] for c in report["criteria"] if not c["passed"]] == []


async def test_a_target_that_dies_is_taken_back_to_the_phase_before(control_plane: Make) -> None:
    plane = await control_plane({"migrations": {"phase6": {"validate_every": "10s", "max_soak": "60s"}}})
    plane.workers.rate = 400
    await plane.act("start")
    await plane.act("advance")
    assert (await plane.status())["weight"] == 25.0
    plane.workers.target_faults = 1.0
    back = await plane.until(lambda s: s["state"] == "rolled_back")
    rollback = back["last_rollback"]
    assert rollback["trigger"] == "breach"
    assert "error_rate" in rollback["reason"]
    assert rollback["within_deadline"]
    # What it was taken back to is judged as well: there it fails again, and nothing is left on it.
    end = await plane.until(lambda s: s["state"] == "rolled_back" and s["weight"] == 0)
    assert end["phase"] is None


async def test_the_status_is_the_documented_one(control_plane: Make) -> None:
    plane = await control_plane()
    plane.workers.rate = 500
    await plane.act("start")
    status = await plane.act("rollback", to="start")
    assert status.pop("message"), "where it is now, in the answer to a rollback alone"
    assert set(status) == {
        *("migration", "state", "revision", "weight", "phase", "phases", "verdict", "arms"),
        *("last_rollback", "checkpoint", "workers", "waits", "opens", "data"),
    }
    figures = {"backend", "requests", "errors", "error_rate", "p50_ms", "p95_ms", "p99_ms", "inflight"}
    assert set(status["arms"]) == {"source", "target"}
    assert set(status["arms"]["target"]) == figures
    assert set(status["verdict"]) == {"outcome", "reasons", "checked_at", "rules", "summary"}
    assert set(status["last_rollback"]) == {
        *("trigger", "reason", "reasons", "from_weight", "to_weight"),
        *("decided_ms", "seen_ms", "drained_ms", "total_ms", "within_deadline"),
    }
    assert set(status["workers"][0]) == {"slot", "pid", "generation", "inflight_target", "heartbeat_age_ms"}
    running = await plane.act("start")
    assert set(running["phase"]) == {
        *("index", "name", "weight", "entered_at", "soaked_s", "min_soak_s", "rollback_within_s"),
    }


async def test_a_rollback_is_complete_only_when_open_target_requests_are_gone(control_plane: Make) -> None:
    plane = await control_plane()
    plane.workers.held = 3
    await plane.act("start")
    assert (await plane.status())["arms"]["target"]["inflight"] == 6
    status = await plane.act("rollback", reason="they hang")
    assert status["state"] == "rolled_back"
    assert status["arms"]["target"]["inflight"] == 0
    # They are cut over at half the phase's second.
    assert status["last_rollback"]["drained_ms"] >= 400
    assert status["last_rollback"]["within_deadline"]


async def test_a_worker_that_hangs_is_not_waited_for_forever(control_plane: Make) -> None:
    plane = await control_plane()
    await plane.act("start")
    plane.workers.deaf = {1}
    status = await plane.act("rollback")
    assert status["state"] == "rolled_back"
    entry = (await plane.call("GET", "audit?limit=1"))[1]["entries"][0]
    assert entry["kind"] == "rollback_complete"
    assert entry["detail"]["unheard_workers"] == [1]
