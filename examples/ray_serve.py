"""The same requests to two replicas of Ray Serve, by its own router and by BalanceRoute's.

Run it with ``python examples/ray_serve.py``; it needs ``pip install 'balanceroute[ray]'``, and no
GPU. The replicas are engines that give a token a step to each request and write down how many
tokens they hold, as an engine's KV cache does. A deployment of your own takes the router as below,
by its ``request_router_config``; so do Serve's LLM deployments, in their ``deployment_config``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ray
from ray import serve

from balanceroute.ray_serve.router import request_router_config

NUM_REPLICAS, NUM_REQUESTS, SEED = 2, 120, 0
STEP_S, LOOK_S, APART_S = 0.05, 0.05, 1 / 12
FIRST_S = 2.0  # until there are as many requests as there will be on average


class Engine:
    """Holds a request's prompt and its tokens until the last one is given."""

    def __init__(self) -> None:
        self._load_tokens = 0
        self._loads: list[tuple[float, int]] = []
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while True:
            self._loads.append((time.time(), self._load_tokens))
            await asyncio.sleep(LOOK_S)

    async def generate(self, request: dict[str, Any]) -> AsyncIterator[str]:
        """Give an event for each token, as OpenAI's servers do."""
        held = len(request["prompt"])
        self._load_tokens += held
        try:
            for _ in range(request["max_tokens"]):
                await asyncio.sleep(STEP_S)
                held, self._load_tokens = held + 1, self._load_tokens + 1
                yield 'data: {"choices": [{"text": "a"}]}\n\n'
            yield "data: [DONE]\n\n"
        finally:
            self._load_tokens -= held

    async def loads(self) -> list[tuple[float, int]]:
        """Return the tokens held, and when."""
        return self._loads


def requests() -> list[dict[str, Any]]:
    """Return the requests: a few long prompts among many short ones."""
    rng = np.random.default_rng(SEED)
    prompts = np.where(rng.random(NUM_REQUESTS) < 0.2, 4000, 100)
    outputs = rng.integers(20, 60, NUM_REQUESTS)
    return [
        {"prompt": [1] * int(prompt), "max_tokens": int(output)}
        for prompt, output in zip(prompts, outputs, strict=True)
    ]


def read(handle: Any, request: dict[str, Any], after_s: float) -> int:
    """Send a request, and return how many events came."""
    time.sleep(after_s)
    return sum(1 for _ in handle.options(stream=True).generate.remote(request))


def run(name: str, **options: Any) -> float:
    """Serve all requests with a router; return the largest load by the mean load, on average."""
    engine: Any = serve.deployment(
        Engine,
        num_replicas=NUM_REPLICAS,
        max_ongoing_requests=NUM_REQUESTS,
        ray_actor_options={"num_cpus": 0.1},
        **options,
    )
    handle = serve.run(engine.bind(), name=name, route_prefix=f"/{name}")
    read(handle, {"prompt": [1], "max_tokens": 1}, 0.0)
    began_s = time.time()
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        done = [
            pool.submit(read, handle, its, number * APART_S)
            for number, its in enumerate(requests())
        ]
    assert [its["max_tokens"] + 1 for its in requests()] == [each.result() for each in done]
    spans = [dict(each) for each in handle.broadcast("loads").results()]
    serve.delete(name)
    return largest_by_mean(spans, began_s + FIRST_S, began_s + NUM_REQUESTS * APART_S)


def largest_by_mean(spans: list[dict[float, int]], since_s: float, until_s: float) -> float:
    """Return the largest load by the mean load, both averaged over the time while requests come."""
    times = np.arange(since_s, until_s, LOOK_S)
    loads = np.stack([np.interp(times, list(span), list(span.values())) for span in spans])
    return float(loads.max(axis=0).mean() / loads.mean())


def main() -> None:
    """Compare."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        config = request_router_config(policy="br_auto")
        print(f"Ray Serve's own router: largest load {run('own'):.2f} times the mean")
        ours = run("ours", request_router_config=config)
        print(f"BalanceRoute's:         largest load {ours:.2f} times the mean")
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
