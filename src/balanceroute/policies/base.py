"""The one method a policy has, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import Int64Array

Binding = Literal["pooled", "immediate"]


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
            The group. No more than ``view.max_sends[g]`` requests may go to rank g. Its prompts
            should fit ``view.free_kv_tokens[g]``, else they queue inside the rank.
        pool : PoolView
            Waiting requests, oldest first. Those left out of the plan go on waiting.

        Returns
        -------
        Plan
            May be empty only if something will call again: while no request runs and none is
            about to arrive, holding everything back is an error.
        """
        ...
