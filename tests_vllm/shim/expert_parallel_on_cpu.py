"""Expert parallelism on a CPU, for tests: what vLLM's CPU back end lacks, in plain PyTorch.

A general plug-in of vLLM, found because this folder is on PYTHONPATH. The communicator lacks
gathering and scattering of unequal parts, and the MoE kernel knows nothing of experts that are
elsewhere; and it wants AVX-512, which these loops do not. And processes that wait for one another
sleep instead of spinning, which on few cores is what the others then wait for.

With STEP_TIME="C,t_l,t_p" in the environment, each rank sleeps C + t_l L + t_p P seconds in every
step before it computes, where L are its resident tokens and P the prompt tokens that the step
computes: the step of a device, beside which few cores are no bottleneck.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

WAIT_S = 2e-4


def register() -> None:
    """Put the missing methods into vLLM's classes."""
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    CpuCommunicator.all_gatherv = all_gatherv
    CpuCommunicator.reduce_scatterv = reduce_scatterv
    CPUUnquantizedExperts.process_weights_after_loading = lambda self, layer: None
    CPUUnquantizedExperts.apply = apply
    shm_broadcast.sched_yield = give_way
    if "STEP_TIME" in os.environ:
        from vllm.v1.worker.cpu_model_runner import CPUModelRunner

        CPUModelRunner.execute_model = sleeping(
            CPUModelRunner.execute_model, *map(float, os.environ["STEP_TIME"].split(","))
        )


def give_way() -> None:
    """Let others work."""
    time.sleep(WAIT_S)


def sleeping(
    execute_model: Callable[..., Any],
    constant_s: float,
    s_per_token: float,
    prefill_s_per_token: float,
) -> Callable[..., Any]:
    """Return what computes a step and takes as long as a device would."""

    def execute(self: Any, scheduled: Any, *more: Any, **given: Any) -> Any:
        if scheduled.total_num_scheduled_tokens > 0:
            time.sleep(
                constant_s
                + s_per_token * resident_tokens(scheduled)
                + prefill_s_per_token * prompt_tokens(scheduled)
            )
        return execute_model(self, scheduled, *more, **given)

    return execute


def resident_tokens(scheduled: Any) -> int:
    """Return the tokens of the requests in a step, with those that it computes."""
    before = sum(scheduled.scheduled_cached_reqs.num_computed_tokens)
    before += sum(new.num_computed_tokens for new in scheduled.scheduled_new_reqs)
    return int(before + scheduled.total_num_scheduled_tokens)


def prompt_tokens(scheduled: Any) -> int:
    """Return the tokens that a step computes of prompts; a request that decodes has one."""
    return sum(tokens for tokens in scheduled.num_scheduled_tokens.values() if tokens > 1)


def all_gatherv(self: Any, input_: Any, dim: int = 0, sizes: list[int] | None = None) -> Any:
    """Gather parts of unequal length along the first dimension."""
    if isinstance(input_, list):
        return [all_gatherv(self, part, dim, sizes) for part in input_]
    sizes = sizes or [input_.shape[0]] * self.world_size
    padded = input_.new_zeros((max(sizes), *input_.shape[1:]))
    padded[: input_.shape[0]] = input_
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=self.device_group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def reduce_scatterv(
    self: Any, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None
) -> torch.Tensor:
    """Add up along the group, and keep one's own part of the first dimension."""
    summed = input_.clone()
    dist.all_reduce(summed, group=self.device_group)
    sizes = sizes or [len(summed) // self.world_size] * self.world_size
    begin = sum(sizes[: self.rank_in_group])
    return summed[begin : begin + sizes[self.rank_in_group]].contiguous()


def apply(self: Any, output: torch.Tensor, hidden_states: torch.Tensor, **given: Any) -> None:
    """Compute the experts that are here, one after the other."""
    w1, w2, expert_map = given["w1"], given["w2"], given["expert_map"]
    ids, weights = given["topk_ids"], given["topk_weights"]
    if expert_map is not None:
        ids = expert_map[ids.long()]
    result = torch.zeros_like(hidden_states)
    for expert in range(w1.shape[0]):
        rows, places = (ids == expert).nonzero(as_tuple=True)
        if len(rows) == 0:
            continue
        gate, up = (hidden_states[rows] @ w1[expert].T).chunk(2, dim=-1)
        part = (torch.nn.functional.silu(gate) * up) @ w2[expert].T
        result.index_add_(0, rows, part * weights[rows, places, None].to(part.dtype))
    output.copy_(result)
