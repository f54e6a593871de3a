"""Round robin as the public code of [B] has it, to tell its rule from its simulator."""

from __future__ import annotations

from typing import ClassVar

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies import Plan
from balanceroute.policies.base import Binding
from balanceroute.policies.classic import RoundRobin


class Restarting:
    """Ranks in turn, but from rank 0 anew at every plan."""

    binding: ClassVar[Binding] = "pooled"

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Send each request to the next rank that can take one, the oldest from rank 0 on."""
        return RoundRobin().plan(view, pool)
