"""A plain reverse proxy on aiohttp: what phasegate's data plane would cost if it were written with aiohttp.

``python -m loadtest.bench.aiohttp_proxy PORT_A PORT_B`` forwards to two origins, half to each by the cookie or the
x-user-id, and counts latencies; prints its port as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final
from zlib import crc32

import aiohttp
import uvloop
from aiohttp import web
from multidict import CIMultiDict

_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "content-length")
)


def _kept(fields: Mapping[str, str]) -> CIMultiDict[str]:
    """The fields to pass on to the next hop."""
    return CIMultiDict((name, value) for name, value in fields.items() if name.lower() not in _HOP_BY_HOP)


class AiohttpProxy:
    """One process's proxy."""

    def __init__(self, ports: list[int]) -> None:
        self._origins = [f"http://127.0.0.1:{port}" for port in ports]
        self.latencies: Counter[int] = Counter()
        self._http: aiohttp.ClientSession

    async def start(self) -> None:
        """Open the session to the origins."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._http = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward one request."""
        began = time.perf_counter_ns()
        key = request.headers.get("x-user-id") or request.cookies.get("phasegate") or request.remote or ""
        headers = _kept(request.headers)
        headers["x-forwarded-for"] = request.remote or ""
        headers["x-forwarded-proto"] = "http"
        headers["x-forwarded-host"] = request.headers.get("host", "")
        headers["via"] = "1.1 bench"
        headers["forwarded"] = f"for={request.remote};proto=http"
        data = None
        if request.can_read_body:
            data = request.content.iter_any()
            if request.content_length is not None:
                headers["content-length"] = str(request.content_length)
        url = self._origins[crc32(key.encode()) & 1] + request.raw_path
        async with self._http.request(
            request.method, url, headers=headers, data=data, allow_redirects=False
        ) as answer:
            fields = _kept(answer.headers)
            length = answer.content_length
            if length is not None and length <= 65536:
                body = await answer.read()
                self.latencies[(time.perf_counter_ns() - began).bit_length()] += 1
                return web.Response(status=answer.status, headers=fields, body=body)
            response = web.StreamResponse(status=answer.status, headers=fields)
            response.content_length = length
            await response.prepare(request)
            async for block in answer.content.iter_any():
                await response.write(block)
            await response.write_eof()
            return response


async def _serve(ports: list[int]) -> None:
    proxy = AiohttpProxy(ports)
    await proxy.start()
    runner = web.ServerRunner(web.Server(proxy.handle, access_log=None, keepalive_timeout=3600))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    sys.stdout.write(json.dumps({"port": runner.addresses[0][1]}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve([int(port) for port in sys.argv[1:]]))
