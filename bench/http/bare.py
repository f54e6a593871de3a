"""A proxy of aiohttp's server and client and nothing else: what a router built on them cannot beat.

``python -m bench.http.bare PORT URL``
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

from balanceroute.live.upstream import open_session


async def serve(port: int, engine: str) -> None:
    """Pass every request on to one engine, and its answer back."""
    async with open_session() as session:

        async def forward(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read() if request.can_read_body else None
            headers = {"Content-Type": request.content_type}
            url = engine + request.path_qs
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                kind = {"Content-Type": answer.headers["Content-Type"]}
                if answer.content_type != "text/event-stream":
                    return web.Response(
                        body=await answer.read(), status=answer.status, headers=kind
                    )
                stream = web.StreamResponse(headers=kind)
                await stream.prepare(request)
                while data := await answer.content.readany():
                    await stream.write(data)
                await stream.write_eof()
                return stream

        runner = web.ServerRunner(web.Server(forward), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
