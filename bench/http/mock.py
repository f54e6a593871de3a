"""An engine that answers at once, or token by token at a steady pace; nothing else.

``python -m bench.http.mock PORT [RANKS]``: prints a line when it serves.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

NUM_CHUNKS = 16
EVENT = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,'
    b'"model":"m","choices":[{"index":0,"text":" a","logprobs":null,"finish_reason":null,'
    b'"stop_reason":null}],"usage":null}\n\n'
)
BODY = (
    b'{"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"index":0,"text":" a",'
    b'"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
METRICS = "".join(
    f'vllm:{name}{{engine="{rank}",model_name="m"}} 0.0\n'
    for name in GAUGES
    for rank in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
)
MODELS = b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":100000}]}'
JSON = "application/json"


async def answer(request: web.BaseRequest) -> web.StreamResponse:
    """Answer any request."""
    if request.path == "/metrics":
        return web.Response(text=METRICS)
    if request.path == "/v1/models":
        return web.Response(body=MODELS, content_type=JSON)
    if request.method == "GET":
        return web.Response(text="{}", content_type=JSON)
    body = await request.read()
    if b'"stream":true' not in body:
        return web.Response(body=BODY, content_type=JSON)
    # The load says in the model's name at which pace, in milliseconds per token, and how many.
    model = body.split(b'"model":"', 1)[1].split(b'"', 1)[0]
    _, gap_ms, num_chunks = (*model.split(b"-"), b"0", str(NUM_CHUNKS).encode())[:3]
    return await stream(request, float(gap_ms) * 1e-3, int(num_chunks))


async def stream(request: web.BaseRequest, gap_s: float, num_chunks: int) -> web.StreamResponse:
    """Answer token by token."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for _ in range(num_chunks):
        await response.write(EVENT)
        due_s += gap_s
        await asyncio.sleep(max(0.0, due_s - loop.time()))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def main() -> None:
    """Serve until killed."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=2048).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
