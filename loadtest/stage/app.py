"""The app behind phasegate in a rehearsal: returns the page's number, or the size of a form.

``python -m loadtest.stage.app PORT`` serves on loopback until SIGTERM; port 0 takes a free one. It prints its port as
one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from aiohttp import web

from loadtest.stage.leash import end_with_parent


async def page(request: web.Request) -> web.Response:
    """The page's own number, so that an answer to the wrong visitor is noticed."""
    return web.json_response({"number": int(request.match_info["number"])})


async def form(request: web.Request) -> web.Response:
    """The number of bytes received."""
    return web.json_response({"bytes": len(await request.read())})


async def hold(request: web.Request) -> web.Response:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.router.add_get(r"/page/{number:\d+}", page)
    app.router.add_post("/form", form)
    app.router.add_get("/hold", hold)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(serve(int(sys.argv[1])))
