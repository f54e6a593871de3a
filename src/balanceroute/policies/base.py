"""The one method a policy has, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import PlanError
from balanceroute.kernels import waiting
from balanceroute.kernels.ledger import Int64Array

Binding = Literal["pooled", "immediate"]
INT64 = np.dtype(np.int64)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which waiting requests go where, in order of admission.

    Attributes
    ----------
    requests : int64 array, shape (K,)
        Positions in the `PoolView` that was planned for, each at most once.
    ranks : int64 array, shape (K,)
        The rank of each.
    """

    requests: Int64Array
    ranks: Int64Array

    def __len__(self) -> int:
        return len(self.requests)

    @staticmethod
    def oldest(ranks: Int64Array) -> Plan:
        """Return the plan that sends the oldest requests to `ranks`.

        Examples
        --------
        >>> Plan.oldest(np.array([2, 0])).requests
        array([0, 1])
        """
        return Plan(np.arange(len(ranks)), ranks)


class Policy(Protocol):
    """Chooses which waiting request goes to which rank.

    A policy reads no clock and no network: time is ``view.now_s``. Chance comes from a
    `numpy.random.Generator` that the constructor takes as ``rng``; its other keyword arguments are
    the policy's settings. The same inputs give the same plan, byte for byte.

    A class may also have ``follows_requests: ClassVar[bool] = True``. Then each view shows the
    requests in flight (``view.entries``) and what has happened to requests since the last view
    (``view.events``). Without it a policy sees sums per rank, and nothing is noted.

    And it may have ``times_releases``, True while it decides when requests go as well as where.
    Else a live group may let a rank have a few beyond its slots, so that none is empty for long.
    """

    #: How the policy is used unless the operator says otherwise: ``"pooled"`` (late binding, the
    #: router holds requests until a slot is free) or ``"immediate"`` (a rank on arrival).
    binding: ClassVar[Binding]

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Choose ranks for some of the waiting requests.

        Called at every step boundary of the group at which a slot is free and a request waits
        (pooled), or at each arrival (immediate, then normally with one request).

        Parameters
        ----------
        view : GroupView
            The group. No more than ``view.max_sends[g]`` requests may go to rank g, and their
            prompts fit ``view.free_kv_tokens[g]``; what does not fit queues inside the rank.
        pool : PoolView
            Waiting requests, oldest first. Those left out of the plan go on waiting.

        Returns
        -------
        Plan
            Under immediate binding it places every request. Pooled, it may be empty only if
            something will call again: holding everything back while no request runs is an error.
        """
        ...


def follows_requests(policy: Policy) -> bool:
    """Tell whether a policy wants to see requests in flight and what happens to them.

    Examples
    --------
    >>> class Follower:
    ...     binding = "pooled"
    ...     follows_requests = True
    ...     def plan(self, view, pool):
    ...         return Plan.oldest(np.zeros(0, np.int64))
    >>> follows_requests(Follower())
    True
    """
    return bool(getattr(policy, "follows_requests", False))


def times_releases(policy: Policy) -> bool:
    """Tell whether a policy decides at present when requests go, beyond filling free slots.

    Examples
    --------
    >>> class Gate:
    ...     binding = "pooled"
    ...     times_releases = True
    ...     def plan(self, view, pool):
    ...         return Plan.oldest(np.zeros(0, np.int64))
    >>> times_releases(Gate())
    True
    """
    return bool(getattr(policy, "times_releases", False))


def checked_plan(
    plan: Plan, num_waiting: int, max_sends: Int64Array
) -> tuple[Int64Array, Int64Array]:
    """Return a plan's columns as contiguous int64 arrays; `PlanError` says which rule it breaks.

    Examples
    --------
    >>> plan = Plan(np.array([1, 1]), np.array([0, 1]))
    >>> checked_plan(plan, num_waiting=2, max_sends=np.array([3, 3]))
    Traceback (most recent call last):
        ...
    balanceroute.errors.PlanError: request 1 is placed twice (row 1 of the plan)
    """
    requests, ranks = _column("requests", plan.requests), _column("ranks", plan.ranks)
    fault, row = waiting.check_plan(requests, ranks, num_waiting, max_sends)
    if fault == waiting.OK:
        return requests, ranks
    if fault == waiting.UNEQUAL:
        raise PlanError(f"the plan names {len(requests)} requests but {len(ranks)} ranks")
    request, rank = requests[row], ranks[row]
    rules = {
        waiting.BAD_REQUEST: f"request {request} is not in 0..{num_waiting - 1}",
        waiting.TWICE: f"request {request} is placed twice",
        waiting.BAD_RANK: f"rank {rank} is not in 0..{len(max_sends) - 1}",
        waiting.RANK_FULL: f"rank {rank} gets more requests than view.max_sends allows",
    }
    raise PlanError(f"{rules[fault]} (row {row} of the plan)")


def _column(name: str, values: Int64Array) -> Int64Array:
    """Return one of a plan's columns as it should be, if it can be."""
    if type(values) is np.ndarray and values.dtype is INT64 and values.ndim == 1:
        return np.ascontiguousarray(values)
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise PlanError(
            f"{name} must be a one-dimensional array of integers, got {column.dtype} of shape "
            f"{column.shape}"
        )
    return np.ascontiguousarray(column, np.int64)
