"""The rehearsals as a table: what is broken, how, for how long, and which effects are allowed. Pure.

A row means: set up a stage with ``setting`` and a migration at half of its traffic; do ``begin``; after ``lasts_s``,
or as soon as ``until`` is true, do ``end``; then only the effects in ``allowed`` and ``ends`` may have been seen. The
allowed number of failed requests is fixed here, before the run. It is 0 wherever the source or another worker can
answer.

``proof`` names the facts, recorded by the acts, that show that the fault happened: a rehearsal in which nothing broke
proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from loadtest.stage.setting import Setting

# The mixture of requests in a rehearsal: more writes than users make, because writes are what can be lost.
MIXTURE: Final[Mapping[str, int]] = {
    "dashboard.current": 18,
    "dashboard.history": 5,
    "dashboard.publish": 4,
    "scans.list": 5,
    "scans.create": 5,
    "scans.get": 16,
    "scans.update": 6,
    "scans.add_results": 3,
    "scans.results": 4,
    "scans.duplicates": 3,
    "analytics.ingest": 6,
    "analytics.user": 4,
    "analytics.system": 3,
    "analytics.trending": 3,
    "app.numbered": 11,
    "app.form": 4,
}

# Operations that one emulator and one app can serve at the full rate on a small machine.
FULL_LOAD: Final = frozenset({"dashboard.current", "scans.list", "scans.get", "app.numbered", "app.form"})
# Operations that make one call to the target each, so that the share of failing requests equals that of failing
# calls.
SINGLE: Final = frozenset(
    {"dashboard.current", "scans.get", "scans.list", "scans.create", "dashboard.publish", "analytics.ingest"}
)


@dataclass(frozen=True, slots=True)
class Act:
    """An action: a verb of ``acts``, and its arguments."""

    verb: str
    args: tuple[Any, ...] = ()


def act(verb: str, *args: Any) -> Act:
    """An act."""
    return Act(verb, args)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Failures that are allowed from the fault's begin to ``grace_s`` after its end."""

    most: int
    kinds: frozenset[str]
    why: str
    of: Literal["any", "app", "writes"] = "any"
    grace_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Ends:
    """The state that the migration must end in, and whether it must have rolled back in between."""

    states: frozenset[str]
    least: float  # weight, percent
    most: float
    rollback: Literal["must", "may", "never"]
    triggers: frozenset[str] = frozenset({"breach"})
    reason: str = ""  # text that the rollback's reason must contain


@dataclass(frozen=True, slots=True)
class RehearsalRow:
    """One row."""

    name: str
    title: str
    begin: tuple[Act, ...]
    end: tuple[Act, ...]
    ends: Ends
    lasts_s: float = 5.0
    until: str = ""  # a condition of ``acts`` that ends the fault sooner
    setting: Setting = field(default_factory=Setting)
    rate: float = 60.0  # requests per second that a small machine can serve beside the fault and the emulator's start
    only: frozenset[str] = frozenset()  # operations of the mixture; empty: all
    allowed: tuple[Allowed, ...] = ()
    proof: tuple[str, ...] = ()
    counters: bool = True  # whether phasegate's counters survive it and count this load only
    watches: frozenset[str] = field(default_factory=frozenset)  # the planted bugs that it must detect

    @property
    def mixture(self) -> Mapping[str, int]:
        """The frequency of each operation."""
        return {name: often for name, often in MIXTURE.items() if not self.only or name in self.only}


HELD: Final = Ends(frozenset({"running"}), 50, 50, "never")
BACK: Final = Ends(frozenset({"rolled_back"}), 0, 25, "must")
BACK_TO_0: Final = Ends(frozenset({"rolled_back"}), 0, 0, "must")

_DEAD: Final = Allowed(8, frozenset({"broken"}), "what the killed process had in flight")


def _failing(
    percent: int, ends: Ends, lasts_s: float, until: str = "", plan: Literal["held", "climbing"] = "held"
) -> RehearsalRow:
    """The target refuses this share of the calls with a status that is not retried."""
    return RehearsalRow(
        f"target-failing-{percent}",
        f"the target fails {percent} % of its calls",
        (act("trouble", {"status": "PERMISSION_DENIED", "share": percent / 100}),),
        (act("no_trouble"),),
        ends,
        lasts_s,
        until,
        Setting(hop="relay", plan=plan),
        only=SINGLE,
        proof=("calls_met",),
        watches=frozenset({"fallback-off"} if percent == 100 else ()),
    )


REHEARSALS: Final[tuple[RehearsalRow, ...]] = (
    RehearsalRow(
        "nothing",
        "nothing is broken: the whole way to 100 %",
        (),
        (),
        Ends(frozenset({"completed"}), 100, 100, "never"),
        40,
        "completed",
        Setting(plan="walk"),
        watches=frozenset({"counter-off-by-one", "stickiness-broken", "mirror-forgets"}),
    ),
    RehearsalRow(
        "target-killed",
        "the target is killed",
        (act("kill", "target"),),
        (act("start", "target"),),
        BACK_TO_0,
        20,
        "at_0",
        proof=("target_killed",),
        watches=frozenset({"fallback-off", "rollback-forgets-worker"}),
    ),
    RehearsalRow(
        "target-hung",
        "the target hangs",
        (act("stop", "target"),),
        (act("cont", "target"),),
        BACK_TO_0,
        20,
        "at_0",
        proof=("target_stopped",),
    ),
    RehearsalRow(
        "target-slow",
        "the target is slow by 1.5 s",
        (act("trouble", {"delay_s": 1.5}),),
        (act("no_trouble"),),
        BACK_TO_0,
        20,
        "at_0",
        Setting(hop="relay", deadline_s=1.0),
        proof=("calls_met",),
    ),
    _failing(2, Ends(frozenset({"running", "completed"}), 100, 100, "never"), 45, "at_100", "climbing"),
    _failing(6, Ends(frozenset({"running", "rolled_back"}), 0, 50, "may"), 12, "", "climbing"),
    _failing(20, BACK, 25, "back"),
    _failing(50, BACK_TO_0, 25, "at_0"),
    _failing(100, BACK_TO_0, 20, "at_0"),
    RehearsalRow(
        "target-corrupt",
        "the target answers with corrupt bytes",
        (act("trouble", {"corrupt": True}),),
        (act("no_trouble"),),
        BACK_TO_0,
        20,
        "at_0",
        Setting(hop="relay"),
        proof=("calls_met",),
    ),
    RehearsalRow(
        "target-exhausted",
        "the target answers RESOURCE_EXHAUSTED",
        (act("trouble", {"status": "RESOURCE_EXHAUSTED"}),),
        (act("no_trouble"),),
        BACK_TO_0,
        20,
        "at_0",
        Setting(hop="relay"),
        proof=("calls_met",),
    ),
    RehearsalRow(
        "target-aborted",
        "the target answers ABORTED",
        (act("trouble", {"status": "ABORTED"}),),
        (act("no_trouble"),),
        BACK_TO_0,
        20,
        "at_0",
        Setting(hop="relay"),
        proof=("calls_met",),
    ),
    RehearsalRow(
        "network-cut",
        "the network between proxy and target is cut, both ways",
        (act("cut"),),
        (act("mend"),),
        BACK_TO_0,
        20,
        "at_0",
        Setting(hop="cable"),
        proof=("pieces_held",),
        watches=frozenset({"own-writes-forgotten"}),
    ),
    RehearsalRow(
        "app-killed",
        "the app is killed and started again",
        (act("kill", "app"),),
        (act("start", "app"),),
        HELD,
        3,
        allowed=(
            Allowed(
                200, frozenset({"status", "broken"}), "the app's own requests, which nobody else can answer", "app"
            ),
        ),
        proof=("app_killed",),
    ),
    RehearsalRow(
        "workers-killed",
        "each worker is killed, one after the other",
        (act("kill_workers"),),
        (),
        HELD,
        3,
        allowed=(Allowed(2 * _DEAD.most, _DEAD.kinds, "what the two killed workers had in flight"),),
        proof=("workers_killed", "workers_replaced"),
    ),
    RehearsalRow(
        "control-killed",
        "the control process is killed",
        (act("kill_control"),),
        (),
        HELD,
        4,
        "control_ready",
        proof=("control_killed", "control_replaced"),
    ),
    RehearsalRow(
        "control-stopped",
        "the control process hangs for longer than its lease",
        (act("stop_control"),),
        (act("cont_control"),),
        Ends(frozenset({"rolled_back"}), 0, 0, "must", frozenset({"lease_lost"})),
        6,
        "",
        Setting(lease_s=3.0),
        proof=("control_stopped", "left_at"),
        watches=frozenset({"lease-ignored"}),
    ),
    RehearsalRow(
        "supervisor-killed",
        "the supervisor is killed and phasegate started again",
        (act("kill", "supervisor"), act("start", "phasegate")),
        (),
        Ends(frozenset({"running", "rolled_back", "paused"}), 0, 50, "may", frozenset({"lease_lost", "breach"})),
        3,
        allowed=(
            Allowed(360, frozenset({"refused", "broken"}), "requests while nobody listens, six seconds at most"),
        ),
        proof=("supervisor_killed",),
        counters=False,
    ),
    RehearsalRow(
        "disk-full",
        "the disk of the run directory is full, and an operator rolls back",
        (act("fill_disk"), act("wait", 2.0), act("command", "rollback", "start")),
        (act("free_disk"),),
        Ends(frozenset({"rolled_back"}), 0, 0, "must", frozenset({"command", "breach"})),
        2,
        "",
        Setting(disk_mb=24),
        allowed=(
            Allowed(400, frozenset({"status"}), "writes on the source, which has nowhere to put them", "writes"),
        ),
        proof=("disk_filled", "store_failed", "store_well_again"),
    ),
    RehearsalRow(
        "clock-set",
        "the wall clock is set one hour forward and then two hours back",
        (act("set_clock", 3600), act("wait", 3.0), act("set_clock", -7200)),
        (act("set_clock", 0),),
        HELD,
        3,
        "",
        Setting(clock=True),
        proof=("clock_forth", "clock_back"),
    ),
    RehearsalRow(
        "descriptors-exhausted",
        "every file descriptor of the workers is in use",
        (act("crowd", "idle", 400),),
        (act("disperse"),),
        HELD,
        5,
        "",
        Setting(descriptors=128),
        allowed=(
            Allowed(20, frozenset({"status"}), "requests of the app's that need a new connection to it", "app"),
            Allowed(32, frozenset({"broken"}), "new connections that no worker has a descriptor for"),
        ),
        proof=("crowd_turned_away",),
    ),
    RehearsalRow(
        "slow-clients",
        "2,000 clients send a byte now and then",
        (act("crowd", "slow", 2000),),
        (act("disperse"),),
        HELD,
        6,
        proof=("crowd_came",),
    ),
    RehearsalRow(
        "flood",
        "one address floods with requests",
        (act("flood", 32),),
        (act("end_flood"),),
        HELD,
        5,
        proof=("flood_answered",),
        counters=False,
    ),
    RehearsalRow(
        "reload-bad",
        "a config with mistakes is reloaded",
        (act("reload", "bad"),),
        (),
        HELD,
        4,
        proof=("reload_refused",),
    ),
    RehearsalRow(
        "reload-good",
        "a new config is reloaded",
        (act("reload", "good"),),
        (),
        HELD,
        8,
        "workers_new",
        proof=("workers_replaced", "threshold_new"),
    ),
    RehearsalRow(
        "rolling-restart",
        "every worker is replaced at full load",
        (act("reload", "same"),),
        (),
        HELD,
        10,
        "workers_new",
        rate=200,
        only=FULL_LOAD,
        proof=("workers_replaced",),
    ),
    RehearsalRow(
        "store-corrupted",
        "the store is overwritten and control killed",
        (act("corrupt_store"), act("kill_control")),
        (),
        Ends(frozenset({"rolled_back"}), 0, 0, "may"),
        5,
        "at_0",
        proof=("store_corrupted", "control_replaced", "store_set_aside"),
    ),
    RehearsalRow(
        "memory-high",
        "a worker takes more memory than allowed",
        (act("hoard", 1000),),
        (act("disperse"),),
        Ends(frozenset({"rolled_back"}), 0, 0, "must", reason="memory_mb"),
        40,
        "at_0",
        Setting(thresholds=(("memory_mb", 130),)),
        proof=("memory_was_below",),
        counters=False,
    ),
    RehearsalRow(
        "cpu-high",
        "phasegate takes more of the processors than allowed",
        (act("flood", 32),),
        (act("end_flood"),),
        Ends(frozenset({"rolled_back"}), 0, 0, "must", reason="cpu"),
        25,
        "at_0",
        Setting(thresholds=(("cpu", 0.25),)),
        proof=("cpu_was_below", "flood_answered"),
        counters=False,
    ),
)

BY_NAME: Final = {rehearsal.name: rehearsal for rehearsal in REHEARSALS}
