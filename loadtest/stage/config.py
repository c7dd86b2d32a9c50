"""The configuration of a rehearsal's phasegate. Pure."""

from __future__ import annotations

from typing import Final

from loadtest.stage.setting import Setting

WORKERS: Final = 2

_PHASES: Final = {
    # No phase is promoted by itself: only the fault can change the weight.
    "held": (("early", 25, "1h", "1h"), ("half", 50, "1h", "1h"), ("complete", 100, "1h", "1h")),
    # Phases that pass are promoted.
    "climbing": (("half", 50, "2s", "1h"), ("complete", 100, "2s", "1h")),
    "walk": (
        *(("initial", 5, "2s", "2s"), ("early", 25, "2s", "2s"), ("half", 50, "2s", "2s")),
        *(("majority", 75, "2s", "2s"), ("complete", 100, "2s", "2s")),
    ),
}

_CONFIG: Final = """\
[app]
origin = "http://127.0.0.1:{app}"

[proxy]
listen = ["{listen}"]
workers = {workers}
run_dir = "{run_dir}"
drain_timeout = "5s"

[backends.mock]
kind = "mock"

[backends.firestore]
kind = "firestore"
project = "{project}"
deadline = "{deadline}s"

[migrations.phase6]
source = "mock"
target = "firestore"
routes = ["/api/dashboard/*", "/api/scans/*", "/api/analytics/*"]
validate_every = "1s"
lease = "{lease}s"
min_samples = 5
on_low_traffic = "{low}"
phases = [
{phases}
]

[migrations.phase6.thresholds]
{thresholds}

[control]
listen = "{control}"
tokens = [{{ name = "rehearsal", sha256 = "{sha256}", role = "operator" }}]
"""


def config(
    setting: Setting,
    *,
    app: int,
    listen: str,
    control: str,
    run_dir: str,
    project: str,
    sha256: str,
    thresholds: tuple[tuple[str, float], ...] = (),
) -> str:
    """The file's text; ``thresholds`` override the setting's."""
    # High enough for a busy machine; deliberately slow answers are slower than this.
    limits = {"p95_ms": 4000, "p99_ms": 5000, "memory_mb": 2048, "cpu": 1.0}
    limits |= dict(setting.thresholds) | dict(thresholds)
    return _CONFIG.format(
        app=app,
        listen=listen,
        workers=WORKERS,
        run_dir=run_dir,
        project=project,
        lease=setting.lease_s,
        deadline=setting.deadline_s,
        low="promote" if setting.plan == "walk" else "hold",
        phases="\n".join(
            f'  {{ name = "{name}", weight = {weight}, min_soak = "{least}", max_soak = "{most}",'
            ' rollback_within = "10s" },'
            for name, weight, least, most in _PHASES[setting.plan]
        ),
        thresholds="\n".join(f"{name} = {value}" for name, value in limits.items()),
        control=control,
        sha256=sha256,
    )
