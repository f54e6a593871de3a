"""A stand-in for vLLM's data-parallel client, in our own words, for tests without vLLM."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec


class SamplingParams(msgspec.Struct):
    """How to sample."""

    max_tokens: int | None = 16


class EngineCoreRequest(msgspec.Struct):
    """A request as the client gets it."""

    request_id: str
    prompt_token_ids: list[int] | None = None
    prompt_embeds: list[float] | None = None
    sampling_params: SamplingParams | None = msgspec.field(default_factory=SamplingParams)
    pooling_params: str | None = None
    data_parallel_rank: int | None = None
    priority: int = 0
    resumable: bool = False


class EngineCoreOutput(msgspec.Struct):
    """What a request has given in a step."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None


class EngineCoreOutputs(msgspec.Struct):
    """What a rank reports of a step."""

    engine_index: int = 0
    outputs: list[EngineCoreOutput] = []
    scheduler_stats: Any = None
    finished_requests: set[str] | None = None


def make_client_class() -> type[Any]:
    """Return a class of its own, for a test to take hold of."""

    class DPLBAsyncMPClient:
        """Sends each request to the rank with the fewest of its own."""

        first_index = 0  # which of the API servers the next one is

        def __init__(self, vllm_config: Any, executor_class: Any = None, log_stats: bool = True):
            self.vllm_config = vllm_config
            self.client_count, self.client_index = vllm_config.client_count, self.first_index
            num_ranks = vllm_config.num_ranks
            self.engine_ranks_managed = list(range(num_ranks))
            self.core_engines = [bytes([rank]) for rank in range(num_ranks)]
            self.reqs_in_flight: dict[str, bytes] = {}
            self.engine_inflight: Counter[bytes] = Counter()
            self.stats_update_address = "stand-in"
            self.resources = SimpleNamespace(engine_dead=False)
            self.outputs_queue: asyncio.Queue[Any] = asyncio.Queue()
            self.sent: list[tuple[str, int]] = []
            self.aborted: list[str] = []

        def ensure_alive(self) -> None:
            if self.resources.engine_dead:
                raise ConnectionError("dead")

        def get_core_engine_for_request(self, request: Any) -> bytes:
            if request.request_id in self.reqs_in_flight:
                return self.reqs_in_flight[request.request_id]
            rank = request.data_parallel_rank
            if rank is None:
                rank = min(
                    range(len(self.core_engines)),
                    key=lambda i: self.engine_inflight[self.core_engines[i]],
                )
            engine: bytes = self.core_engines[rank]
            self.reqs_in_flight[request.request_id] = engine
            self.engine_inflight[engine] += 1
            return engine

        async def add_request_async(self, request: Any) -> None:
            self.ensure_alive()
            engine = self.get_core_engine_for_request(request)
            self.sent.append((request.request_id, engine[0]))

        async def abort_requests_async(self, request_ids: list[str]) -> None:
            self.aborted += [one for one in request_ids if one in self.reqs_in_flight]

        @staticmethod
        async def process_engine_outputs(self: Any, outputs: Any) -> None:
            for request_id in outputs.finished_requests or ():
                engine = self.reqs_in_flight.pop(request_id, None)
                if engine is not None:
                    self.engine_inflight[engine] -= 1

        async def pause_scheduler_async(self) -> int:
            return len(self.sent)

    return DPLBAsyncMPClient


def make_config(*, num_ranks: int = 2, is_moe: bool = True, **scheduler: Any) -> Any:
    """Return what is read of vLLM's configuration."""
    return SimpleNamespace(
        num_ranks=num_ranks,
        client_count=1,
        model_config=SimpleNamespace(is_moe=is_moe),
        scheduler_config=SimpleNamespace(**({"max_num_seqs": 4, "policy": "fcfs"} | scheduler)),
        cache_config=SimpleNamespace(num_gpu_blocks=1000 * num_ranks, block_size=16),
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        kv_transfer_config=None,
    )


def make_modules() -> tuple[ModuleType, ModuleType]:
    """Return stand-ins for ``vllm.v1.engine.core_client`` and ``vllm.v1.engine``."""
    core_client, engine = ModuleType("core_client"), ModuleType("engine")
    core_client.DPLBAsyncMPClient = make_client_class()  # type: ignore[attr-defined]
    for struct in (EngineCoreRequest, EngineCoreOutput, EngineCoreOutputs):
        setattr(engine, struct.__name__, struct)
    return core_client, engine
