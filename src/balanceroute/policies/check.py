"""`check_policy`: whether a policy keeps the contract of `Policy.plan`, whoever wrote it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable
from typing import get_args

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError, PlanError
from balanceroute.kernels.ledger import Int64Array
from balanceroute.policies.base import Binding, Plan, Policy, checked_plan, follows_requests
from balanceroute.policies.registry import make_policy
from balanceroute.policies.scenarios import SCENARIOS, Scenario, ToyGroup


def check_policy(policy: str | Callable[..., Policy], *, rounds: int = 30, seed: int = 0) -> None:
    """Put a policy through every scenario, pooled and immediate; raise at the first breach.

    Two fresh policies plan for each view. A plan

    - is the same, byte for byte, from both, and leaves the arrays it was made from as they were;
    - is a `Plan` of two integer arrays of one length;
    - names requests of the pool, each at most once, and ranks of the group;
    - sends no rank more than ``view.max_sends`` requests (none to a rank without slots), nor more
      prompt tokens than ``view.free_kv_tokens``;
    - places every request under immediate binding;
    - places at least one when no request is on any rank, so that the group cannot stand still for
      ever.

    The scenarios are `balanceroute.policies.scenarios.SCENARIOS`. Their arrays are columns of
    records, as a simulation hands them out: writable, and not contiguous.

    Parameters
    ----------
    policy : str or callable
        What `make_policy` takes (``"path/to/file.py:ClassName"`` too), or a class or function that
        returns a fresh policy and is given a generator if it has a parameter ``rng``.
    rounds : int
        Plans per scenario and binding, at least 1.
    seed : int
        Of the requests and of the policy's own generator.

    Raises
    ------
    PlanError
        One sentence: scenario, binding, round, and the rule that is broken.
    ConfigError
        If the policy cannot be built, or `rounds` is less than 1.

    Examples
    --------
    >>> check_policy("least_tokens")
    >>> class FirstRank:
    ...     binding = "pooled"
    ...     def plan(self, view, pool):
    ...         return Plan.oldest(np.zeros(len(pool), np.int64))
    >>> check_policy(FirstRank)
    Traceback (most recent call last):
        ...
    balanceroute.errors.PlanError: cold start, pooled binding, round 1: rank 0 gets more
    requests than view.max_sends allows (row 3 of the plan)
    """
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    for scenario, binding in itertools.product(SCENARIOS, get_args(Binding)):
        twins = (_build(policy, seed), _build(policy, seed))
        _play(scenario, binding, twins, rounds, seed)


def _build(policy: str | Callable[..., Policy], seed: int) -> Policy:
    rng = np.random.default_rng(seed)
    if isinstance(policy, str):
        built = make_policy(policy, rng=rng)
    else:
        built = policy(rng=rng) if "rng" in inspect.signature(policy).parameters else policy()
    binding = getattr(built, "binding", None)
    if binding not in get_args(Binding):
        raise ConfigError(f"a policy's binding must be 'pooled' or 'immediate', got {binding!r}")
    return built


def _play(
    scenario: Scenario, binding: Binding, twins: tuple[Policy, Policy], rounds: int, seed: int
) -> None:
    group = ToyGroup(
        scenario,
        rounds=rounds,
        is_immediate=binding == "immediate",
        rng=np.random.default_rng(seed),
        follows_requests=follows_requests(twins[0]),
    )
    for number in range(1, rounds + 1):
        group.receive()
        try:
            requests, ranks = _agreed_plan(twins, group.view(), group.pool.view())
        except PlanError as error:
            where = f"{scenario.name}, {binding} binding, round {number}"
            raise PlanError(f"{where}: {error}") from error.__cause__
        group.send(requests, ranks)
        group.step()


def _agreed_plan(
    twins: tuple[Policy, Policy], view: GroupView, pool: PoolView
) -> tuple[Int64Array, Int64Array]:
    """Return the plan of two equal policies if it keeps every rule."""
    plan, twin_plan = (_guarded_plan(policy, view, pool) for policy in twins)
    requests, ranks = checked_plan(plan, len(pool), view.max_sends)
    _check_kv_tokens(requests, ranks, view, pool)
    _check_progress(requests, view, pool)
    for name in ("requests", "ranks"):
        ours, theirs = getattr(plan, name), getattr(twin_plan, name)
        if ours.dtype != theirs.dtype or ours.tobytes() != theirs.tobytes():
            raise PlanError(
                f"two fresh policies with the same seed and inputs differ in {name}: "
                f"{ours.tolist()} and {theirs.tolist()}; take chance from the generator only, and "
                "keep state in the instance"
            )
    return requests, ranks


def _guarded_plan(policy: Policy, view: GroupView, pool: PoolView) -> Plan:
    """Let a policy plan, and see that it returns a plan and writes to none of its inputs."""
    before = _contents(view, pool)
    try:
        plan = policy.plan(view, pool)
    except Exception as error:
        raise PlanError(f"plan() raised {error!r}") from error
    for name, content in _contents(view, pool).items():
        if content != before[name]:
            raise PlanError(f"plan() changed {name}, which is for reading only")
    if not isinstance(plan, Plan):
        raise PlanError(f"plan() must return a Plan, got {plan!r}")
    return plan


def _contents(view: GroupView, pool: PoolView) -> dict[str, bytes]:
    """Return the bytes of every array that a policy is shown."""
    return {
        f"{owner}.{field.name}": np.asarray(getattr(record, field.name)).tobytes()
        for owner, record in (("view", view), ("pool", pool))
        for field in dataclasses.fields(record)
    }


def _check_kv_tokens(
    requests: Int64Array, ranks: Int64Array, view: GroupView, pool: PoolView
) -> None:
    sent_tokens = np.zeros(view.num_ranks, np.int64)
    np.add.at(sent_tokens, ranks, pool.prompt_tokens[requests])
    free_tokens = view.free_kv_tokens
    for rank in np.flatnonzero(sent_tokens > free_tokens)[:1]:
        raise PlanError(
            f"rank {rank} gets {sent_tokens[rank]} prompt tokens but has {free_tokens[rank]} free "
            "(view.free_kv_tokens)"
        )


def _check_progress(requests: Int64Array, view: GroupView, pool: PoolView) -> None:
    num_left_out = len(pool) - len(requests)
    if view.is_immediate and num_left_out > 0:
        raise PlanError(
            f"{num_left_out} of {len(pool)} requests are left out; immediate binding places every "
            "request"
        )
    num_on_ranks = (view.num_inflight_reqs + view.num_running_reqs + view.num_waiting_reqs).sum()
    if len(pool) > 0 and len(requests) == 0 and num_on_ranks == 0:
        raise PlanError(
            f"nothing is placed although no request is on any rank and {len(pool)} wait; the group "
            "would stand still for ever"
        )
