"""Runs wrk (https://github.com/wg/wrk), a closed loop: its command, the script of its requests, and its report."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.stage.leash import leashed

# What a browser sends: nine fields.
BROWSER: Final[Mapping[str, str]] = {
    "Host": "bench.example",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/130.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-US,en;q=0.9",
    "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "Connection": "keep-alive",
    "Cache-Control": "max-age=0",
    "Upgrade-Insecure-Requests": "1",
}

_UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Report(NamedTuple):
    """What wrk measured; latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class WrkError(Exception):
    """The run failed, or its figures cannot be used."""


def script(fields: Mapping[str, str], varied: Mapping[str, str], variants: int, path: str = "") -> str:
    """A Lua script whose requests carry ``fields``, and ``varied`` with %d as a number from 0 to ``variants`` - 1.

    With ``variants`` 0 the number never repeats; without ``varied`` every request has the same bytes. ``path``, also
    with a %d, replaces the address's path.
    """
    lines = [f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in fields.items()]
    if not varied and not path:
        return "\n".join(lines) + "\n"
    each = [f"  wrk.headers[{_lua(name)}] = string.format({_lua(value)}, n)" for name, value in varied.items()]
    request = f"wrk.format(nil, string.format({_lua(path)}, n))" if path else "wrk.format()"
    if variants:
        lines += ["local made = {}", "local last = 0", f"function init(args) for n = 0, {variants - 1} do", *each]
        lines += [f"  made[n] = {request} end end"]
        lines += [f"function request() last = (last + 1) % {variants} return made[last] end"]
    else:
        lines += ["local n = 0", "function request() n = n + 1", *each, f"  return {request} end"]
    return "\n".join(lines) + "\n"


def _lua(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse(text: str) -> Report:
    """Parse wrk's report. Raises ``WrkError`` if requests failed, were refused, or there were none."""
    counted = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m),", text)
    quantiles = {
        line[1]: float(line[2]) * _UNITS[line[3]]
        for line in re.finditer(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    }
    if counted is None or "50" not in quantiles or "99" not in quantiles:
        raise WrkError(f"wrk's report cannot be read:\n{text}")
    bad = re.search(r"^\s*(Socket errors: .*|Non-2xx or 3xx responses: \d+)$", text, re.MULTILINE)
    requests = int(counted[1])
    if bad is not None or not requests:
        raise WrkError(f"the run cannot be used: {bad[1] if bad else 'no request was answered'}")
    return Report(requests, float(counted[2]) * _UNITS[counted[3]] / 1000, quantiles["50"], quantiles["99"])


def command(url: str, lua: Path, connections: int, seconds: float) -> list[str]:
    """wrk's command line: one thread, for one core."""
    return ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(lua), "--latency", "--timeout", "10s", url]


def run(prefix: list[str], url: str, lua: Path, connections: int, seconds: float) -> Report:
    """Run it with the command ``prefix``, which pins it to processors. Raises ``WrkError``."""
    arguments = [*prefix, *command(url, lua, connections, seconds)]
    done = subprocess.run(leashed(arguments), capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise WrkError(f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)
