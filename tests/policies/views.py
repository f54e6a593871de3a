"""Views made by hand, for the tests of policies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.ledger import UNLIMITED_TOKENS
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import RecordArray
from balanceroute.policies import Policy, make_policy


def make_view(
    *,
    load: Sequence[int] | NDArray[np.int64],
    slots: int | Sequence[int] = 8,
    kv: int | Sequence[int] = UNLIMITED_TOKENS,
    due: int | Sequence[int] = 0,
    prompts: int | Sequence[int] | None = None,
    generated: int | Sequence[int] = 0,
    running: int | Sequence[int] = 0,
    waiting: int | Sequence[int] = 0,
    inflight: int | Sequence[int] | None = None,
    now_s: float = 0.0,
    is_immediate: bool = False,
    kappa0: float = 0.0,
    speeds: Sequence[float] | None = None,
) -> GroupView:
    """Return a view; one number stands for all ranks, and what is in flight runs or waits."""
    num_ranks = len(load)

    def column(value: int | Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        return np.broadcast_to(np.asarray(value, np.int64), num_ranks).copy()

    num_running, num_waiting = column(running), column(waiting)
    return GroupView(
        now_s=now_s,
        is_immediate=is_immediate,
        num_slots=column(slots),
        kv_capacity_tokens=column(kv),
        load_tokens=column(load),
        due_tokens=column(due),
        resident_prompt_tokens=column(load if prompts is None else prompts),
        generated_tokens=column(generated),
        num_running_reqs=num_running,
        num_waiting_reqs=num_waiting,
        num_inflight_reqs=num_running + num_waiting if inflight is None else column(inflight),
        kappa0_tokens=kappa0,
        speeds=None if speeds is None else np.array(speeds),
    )


def make_pool(prompts: Iterable[int], traits: RecordArray | None = None) -> PoolView:
    """Return a pool of requests with these prompts, oldest first."""
    prompt_tokens = np.fromiter(prompts, np.int64)
    positions = np.arange(len(prompt_tokens))
    return PoolView(
        ids=positions,
        prompt_tokens=prompt_tokens,
        arrival_s=positions.astype(np.float64),
        traits=traits,
    )


def build(spec: str, seed: int = 0) -> Policy:
    """Return a fresh policy."""
    return make_policy(spec, rng=np.random.default_rng(seed))


def placements(policy: Policy, view: GroupView, prompts: Iterable[int]) -> list[tuple[int, int]]:
    """Return a policy's plan as pairs of request and rank, in order of admission."""
    plan = policy.plan(view, make_pool(prompts))
    return list(zip(plan.requests.tolist(), plan.ranks.tolist(), strict=True))


def ranks_in_order(policy: Policy, view: GroupView, prompts: Iterable[int]) -> list[int]:
    """Return the ranks of the oldest requests, for a policy that takes them in order."""
    plan = policy.plan(view, make_pool(prompts))
    assert plan.requests.tolist() == list(range(len(plan)))
    ranks: list[int] = plan.ranks.tolist()
    return ranks
