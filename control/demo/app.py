"""The demo's small app behind the proxy. It knows nothing of phasegate. ``python -m control.demo.app``.

It prints one JSON line with the port it listens on, and ends when its parent process ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from proxy.process.child import die_with_parent

DOWNLOAD_MAX: Final = 1 << 30  # bytes: 1 GiB

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Storage at a glance</title><link rel="stylesheet" href="/static/app.css">
<h1>Storage at a glance</h1>
<p>This page is the demo app's. Its figures come through phasegate, from the backend named below;
every request counts as a new visitor, so reloading shows the phase's split.</p>
<p><output id="source">…</output></p>
<ol id="seen" reversed></ol>
<pre id="figures"></pre>
<script src="/static/app.js"></script></html>
"""
_CSS: Final = """body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark } pre { overflow-x: auto } output { font-size: 2rem; font-weight: 600 }
"""
_JS: Final = """const show = async () => {
  const answer = await fetch("/api/dashboard/metrics", { headers: { "x-user-id": `visitor-${Math.random()}` } });
  const source = answer.headers.get("x-data-source");
  document.querySelector("#source").textContent = source;
  const line = document.createElement("li");
  line.textContent = `${new Date().toLocaleTimeString()} ${source}`;
  document.querySelector("#seen").prepend(line);
  document.querySelectorAll("#seen li:nth-child(n+13)").forEach((old) => old.remove());
  document.querySelector("#figures").textContent = JSON.stringify(await answer.json(), null, 2);
};
show(); setInterval(show, 1000);
"""


async def page(request: web.Request) -> web.Response:
    """The front page."""
    return web.Response(text=_PAGE, content_type="text/html")


async def css(request: web.Request) -> web.Response:
    """The page's style."""
    return web.Response(text=_CSS, content_type="text/css", headers={"cache-control": "max-age=60"})


async def js(request: web.Request) -> web.Response:
    """The page's script."""
    return web.Response(text=_JS, content_type="text/javascript", headers={"cache-control": "max-age=60"})


async def clock(request: web.Request) -> web.Response:
    """The app's clock: a request that belongs to no migration and always goes to the app."""
    return web.json_response({"now": datetime.now(UTC).isoformat()}, headers={"cache-control": "no-store"})


async def digest(request: web.Request) -> web.Response:
    """An upload: answers the length and SHA-256 of the request's body, read in pieces."""
    length, sha = 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        length += len(chunk)
        sha.update(chunk)
    return web.json_response({"bytes": length, "sha256": sha.hexdigest()})


async def download(request: web.Request) -> web.StreamResponse:
    """A download of ``?bytes=`` bytes, at most 1 GiB, sent without Content-Length."""
    size = request.query.get("bytes", "1048576")
    if not size.isascii() or not size.isdigit() or int(size) > DOWNLOAD_MAX:
        raise web.HTTPBadRequest(text=f"bytes must be a number up to {DOWNLOAD_MAX}")
    response = web.StreamResponse(headers={"content-type": "application/octet-stream"})
    await response.prepare(request)
    left, block = int(size), bytes(64 * 1024)
    while left:
        part = block[: min(left, len(block))]
        await response.write(part)
        left -= len(part)
    await response.write_eof()
    return response


def application() -> web.Application:
    """The app's routes."""
    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/static/app.css", css)
    app.router.add_get("/static/app.js", js)
    app.router.add_get("/app/clock", clock)
    app.router.add_post("/app/digest", digest)
    app.router.add_get("/app/download", download)
    return app


async def serve(port: int) -> None:
    """Serve on loopback until SIGTERM or SIGINT. ``port`` 0 takes any free port."""
    runner = web.AppRunner(application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
