"""When the policy is asked: at once for one that comes alone, once for those that come together."""

from __future__ import annotations

import asyncio

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.live.group import LiveGroup
from balanceroute.live.planner import LEAST_GAP_S, Planner
from balanceroute.live.ticket import Ticket
from balanceroute.policies.base import Plan
from balanceroute.policies.classic import RoundRobin
from tests.live.fake_engine import run, until


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
