"""An engine that gives tokens at a steady rate, as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

from balanceroute.ray_serve.gang import TellsGang
from balanceroute.ray_serve.router import request_router_config
from tests_ray.looking import desk_of


class Server(TellsGang):
    """Answers requests like OpenAI's, a token a step."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._num_served = step_s, 0

    def _whoami(self) -> str:
        return str(serve.get_replica_context().replica_id.unique_id)

    async def stream(self, request: dict[str, Any]) -> AsyncIterator[str]:
        """Give tokens one by one, with the replica's name in each."""
        self._num_served += 1
        for number in range(request["max_tokens"]):
            await asyncio.sleep(self._step_s)
            event = {"choices": [{"text": str(number)}], "replica": self._whoami()}
            yield f"data: {json.dumps(event)}\n\n"
        usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": number + 1}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    async def __call__(self, request: dict[str, Any]) -> str:
        """Answer at once; return the replica's name."""
        await asyncio.sleep(self._step_s * request["max_tokens"])
        return self._whoami()

    async def die(self, request: dict[str, Any]) -> None:
        """End the process, as the kernel does when memory is short."""
        os._exit(1)


class Gateway:
    """Passes requests on, as Serve's LLM ingress does: it is its handle that routes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        """Stream the engine's answer to an HTTP client."""
        answer = self._engine.stream.remote(await request.json())
        return StreamingResponse(answer, media_type="text/event-stream")

    async def look(self) -> list[int]:
        """Return the load of each rank and the requests in flight, as this process knows them."""
        group = desk_of(self._engine).group
        return [*group.ledger.ranks["load_tokens"].tolist(), group.ledger.num_in_flight]


Engine: Any = serve.deployment(max_ongoing_requests=64, ray_actor_options={"num_cpus": 0.1})(Server)
Ingress: Any = serve.deployment(max_ongoing_requests=64)(Gateway)

# What `serve deploy` is given, and changes the number of replicas of.
app = Engine.options(request_router_config=request_router_config(slots=8)).bind(0.01)
