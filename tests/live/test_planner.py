"""When the policy is asked: at once for one that comes alone, once for those that come together."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.live.group import LiveGroup
from balanceroute.live.planner import IDLE_LOOK_S, LEAST_GAP_S, Planner
from balanceroute.live.ticket import Ticket
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import RoundRobin
from tests.live.fake_engine import run, until

NOBODY = np.zeros(0, np.int64)


def test_requests_that_come_one_after_the_other() -> None:
    """The first is placed in the same turn of the loop, those close behind it in one plan."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        group = LiveGroup(num_ranks=2, policy=RoundRobin(), num_slots=8)
        planner = Planner(group, settle_s=0.0, on_plan=bool)
        plans: list[tuple[float, int]] = []

        def note(view: GroupView, pool: PoolView, plan: Plan) -> None:
            plans.append((loop.time(), len(plan)))

        group.plan_watchers.append(note)
        group.enter(Ticket(prompt_tokens=10))
        planner.arrive()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [1] == [num_placed for _, num_placed in plans]
        for _ in range(3):
            group.enter(Ticket(prompt_tokens=10))
            planner.arrive()
            await asyncio.sleep(0)
        await until(lambda: group.num_waiting == 0)
        (first_s, _), (second_s, num_placed) = plans
        assert 3 == num_placed
        assert second_s - first_s >= LEAST_GAP_S - 1e-6
        planner.stop()

    run(test())


class Hesitant:
    """Sends the oldest request only when asked for the third time."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self) -> None:
        self.num_asked = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Hold everything back twice."""
        self.num_asked += 1
        return Plan.oldest(NOBODY if self.num_asked < 3 else np.zeros(1, np.int64))


def test_who_holds_back_is_asked_again_until_the_slots_are_full() -> None:
    """Nothing else has happened meanwhile; of those that have no slot nobody asks."""

    async def test() -> None:
        policy = Hesitant()
        group = LiveGroup(num_ranks=1, policy=policy, num_slots=1)
        planner = Planner(group, settle_s=0.0, on_plan=bool)
        tickets = [Ticket(prompt_tokens=10) for _ in range(2)]
        for ticket in tickets:
            group.enter(ticket)
        planner.arrive()
        await until(lambda: group.num_waiting == 1)
        assert (0, 3) == (tickets[0].rank, policy.num_asked)
        assert not group.holds_back
        await asyncio.sleep(3 * IDLE_LOOK_S)
        assert 3 == policy.num_asked
        group.close(tickets[0], has_completed=True)
        planner.free()
        await until(lambda: group.num_waiting == 0)
        planner.stop()

    run(test())
