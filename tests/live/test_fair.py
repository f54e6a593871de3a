"""Fair shares for tenants, with policies that know nothing of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.live.fair import FairQueue
from balanceroute.live.group import LiveGroup
from balanceroute.live.reading import read_config
from balanceroute.live.ticket import Ticket
from balanceroute.policies.base import Binding, Plan, Policy
from balanceroute.policies.classic import Fcfs
from balanceroute.policies.registry import make_policy
from tests.live.fake_engine import FakeEngine, routing, run, serving, three_tokens, until
from tests.live.test_trouble import error_of, hang

NUM_RANKS, NUM_SLOTS = 2, 8
MAX_PROMPT, MAX_OUTPUT = 100, 50


class Biased:
    """A policy that prefers long prompts, or short ones, for ever."""

    binding: ClassVar[Binding] = "pooled"

    def __init__(self, sign: int) -> None:
        self._sign = sign

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill the slots with what it likes best."""
        free = np.repeat(np.arange(view.num_ranks), view.num_free_slots)
        order = np.argsort(self._sign * pool.prompt_tokens, kind="stable")[: len(free)]
        return Plan(order.astype(np.int64), free[: len(order)].astype(np.int64))


class Load:
    """Tenants that send to a group through a fair queue."""

    def __init__(self, policy: Policy, weights: dict[str, float], seed: int) -> None:
        self.group = LiveGroup(num_ranks=NUM_RANKS, policy=policy, num_slots=NUM_SLOTS)
        self.queue = FairQueue(self.group, weight_of=weights.__getitem__)
        self.rng = np.random.default_rng(seed)
        self.weights = weights
        self.tenant_of: dict[Ticket, str] = {}
        self.running: list[Ticket] = []
        self.tokens: Counter[str] = Counter()
        self.window = 0.0
        self.num_sent = 0
        self.sent_at: dict[Ticket, int] = {}

    def enter(self, tenant: str, prompt_tokens: int | None = None) -> Ticket:
        ticket = Ticket(prompt_tokens=prompt_tokens or int(self.rng.integers(1, MAX_PROMPT)))
        self.tenant_of[ticket] = tenant
        self.queue.enter(ticket, tenant)
        return ticket

    def plan(self) -> None:
        """Plan until nothing more can be sent; then slots are free only if nobody waits."""
        while placed := self.group.plan():
            self.running += placed
            for ticket in placed:
                self.num_sent += 1
                self.sent_at[ticket] = self.num_sent
                self.tokens[self.tenant_of[ticket]] += ticket.prompt_tokens
        self.window = max(self.window, self.queue.window_tokens)
        num_waiting = self.group.num_waiting + self.queue.num_staged
        num_free = NUM_RANKS * NUM_SLOTS - len(self.running)
        assert num_free == 0 or num_waiting == 0

    def finish_some(self) -> None:
        """End a few requests, at random."""
        for _ in range(int(self.rng.integers(0, 6))):
            if self.running:
                ticket = self.running.pop(int(self.rng.integers(len(self.running))))
                self.group.grow(ticket, int(self.rng.integers(1, MAX_OUTPUT)))
                self.tokens[self.tenant_of[ticket]] += ticket.output_tokens
                self.group.close(ticket, has_completed=True)
                self.queue.end(ticket)

    def shares(self) -> dict[str, float]:
        """Return the tokens of each tenant by its weight."""
        return {name: self.tokens[name] / weight for name, weight in self.weights.items()}


POLICIES: dict[str, Callable[[], Policy]] = {
    "fcfs": Fcfs,
    "longest": lambda: Biased(-1),
    "shortest": lambda: Biased(1),
    "br_0": lambda: make_policy("br_0", rng=np.random.default_rng(0)),
    "br_auto": lambda: make_policy("br_auto", rng=np.random.default_rng(0)),
}


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=10, deadline=None)
@given(
    weights=st.lists(st.sampled_from([1.0, 0.5, 0.25]), min_size=2, max_size=4),
    num_waiting=st.integers(50, 200),
    seed=st.integers(0, 1000),
)
def test_shares(name: str, weights: list[float], num_waiting: int, seed: int) -> None:
    """Tenants that always wait get tokens by their weights, up to the window, at any time.

    Outputs count when they end, so what runs may be on top of the window, for both of two tenants.
    """
    by_name = {f"t{n}": weight / max(weights) for n, weight in enumerate(weights)}
    load = Load(POLICIES[name](), by_name, seed)
    slack = (MAX_PROMPT + NUM_RANKS * NUM_SLOTS * MAX_OUTPUT) / min(by_name.values())
    for _ in range(300):
        for tenant in by_name:
            while load.queue.num_waiting(tenant) < num_waiting:
                load.enter(tenant)
        load.plan()
        load.finish_some()
        shares = load.shares().values()
        assert max(shares) - min(shares) <= load.window + 2 * slack
    load.group.check()


@pytest.mark.parametrize("name", POLICIES)
def test_long_run_shares(name: str) -> None:
    """Four to one, within a twentieth, whatever the sizes are that the policy prefers."""
    weights = {"short": 1.0, "long": 0.25}
    load = Load(POLICIES[name](), weights, 7)
    for _ in range(4000):
        while load.queue.num_waiting("short") < 100:
            load.enter("short", 10)
        while load.queue.num_waiting("long") < 100:
            load.enter("long", 90)
        load.plan()
        load.finish_some()
    assert 1.0 == pytest.approx(load.shares()["short"] / load.shares()["long"], rel=0.05)


@pytest.mark.parametrize("name", POLICIES)
def test_a_flood_does_not_bury_others(name: str) -> None:
    """A request of a tenant that has nothing else is sent soon, however many wait for another."""
    load = Load(POLICIES[name](), {"flood": 1.0, "drop": 1.0}, 3)
    for _ in range(3000):
        load.enter("flood")
    for _ in range(100):
        load.plan()
        load.finish_some()
    drop, num_before = load.enter("drop", 50), load.num_sent
    while drop not in load.sent_at:
        load.plan()
        load.finish_some()
    # What the window shows of the flood may go before, and what is as large as the request itself.
    assert load.sent_at[drop] - num_before <= 2 * load.window / 25


def test_idleness_earns_no_credit() -> None:
    """Who comes late begins level with the others."""
    load = Load(Fcfs(), {"early": 1.0, "late": 1.0}, 1)
    for turn in range(600):
        for tenant in ("early", "late")[: 1 + (turn >= 300)]:
            while load.queue.num_waiting(tenant) < 50:
                load.enter(tenant)
        if turn == 300:
            before = load.shares()
        load.plan()
        load.finish_some()
    gained = {name: share - before[name] for name, share in load.shares().items()}
    assert gained["late"] == pytest.approx(gained["early"], rel=0.1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_those_that_leave_leave_nothing_behind(seed: int) -> None:
    """From wherever they wait; the counts come out even."""
    load = Load(Fcfs(), {"a": 1.0, "b": 0.5}, seed)
    tickets = [load.enter("a" if load.rng.random() < 0.5 else "b") for _ in range(200)]
    for ticket in load.rng.permutation(np.array(tickets, object))[:150]:
        if load.rng.random() < 0.2:
            load.plan()
            load.finish_some()
        if ticket not in load.sent_at:
            load.queue.leave(ticket)
            load.queue.leave(ticket)  # and nothing happens
            load.sent_at[ticket] = 0
    while load.group.num_waiting + load.queue.num_staged > 0 or load.running:
        load.plan()
        load.finish_some()
    assert (0, 0) == (load.queue.num_waiting("a"), load.queue.num_waiting("b"))
    assert 0 == load.group.ledger.num_in_flight
    load.group.check()


@given(order=st.lists(st.sampled_from("abc"), min_size=1, max_size=400))
@settings(max_examples=50, deadline=None)
def test_nobody_fills_the_queue(order: list[str]) -> None:
    """There is always a place for a tenant that has none."""
    weights = {"a": 1.0, "b": 0.5, "c": 1.0, "new": 0.5}
    load = Load(Fcfs(), weights, 0)
    for tenant in order:
        if load.queue.has_room(tenant, 50):
            load.enter(tenant)
        assert load.queue.has_room("new", 50)
    assert load.queue.num_waiting("a") <= 25


def test_a_request_that_matters_more_goes_first_in_its_tenant() -> None:
    """As in vLLM, the lower number."""
    load = Load(Fcfs(), {"a": 1.0}, 0)
    for _ in range(100):
        load.enter("a", 10)
    urgent = Ticket(prompt_tokens=10, priority=-1)
    load.tenant_of[urgent] = "a"
    load.queue.enter(urgent, "a")
    while load.group.num_waiting + load.queue.num_staged > 0 or load.running:
        load.plan()
        load.finish_some()
    # Behind what had been shown before, and a request's worth of window.
    assert load.sent_at[urgent] <= 35


HANG_BODY: dict[str, Any] = {"prompt": [1], "stream": True}
TENANTS = {"a": {"keys": ["key-a"], "weight": 2.0}, "b": {"keys": ["key-b"]}}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_keys_name_tenants() -> None:
    """A tenant that fills its part of the queue leaves room for others; keys are asked for."""

    async def test() -> None:
        settings = {"slots": 1, "queue_size": 12, "tenants": TENANTS}
        async with serving(FakeEngine(hang)) as engine, routing(engine, **settings) as client:
            queue = client.router.parts.queue
            asked = [asyncio.create_task(client.post(HANG_BODY, headers=bearer("key-a")))]
            await until(lambda: len(engine.bodies) == 1)
            for n in range(6):
                asked.append(asyncio.create_task(client.post(HANG_BODY, headers=bearer("key-a"))))
                await until(lambda: queue.num_waiting("a") == n + 1)  # noqa: B023
            status, body, headers = await client.post(headers=bearer("key-a"))
            assert (429, "tenant_queue_full") == (status, headers["x-balanceroute-dropped-reason"])
            assert "6 requests of yours are waiting; try again later" == error_of(body)["message"]
            asked.append(asyncio.create_task(client.post(HANG_BODY, headers=bearer("key-b"))))
            await until(lambda: queue.num_waiting("b") == 1)
            for headers_ in (bearer("key-c"), bearer(""), {}):
                assert 401 == (await client.post(headers=headers_))[0]
            async with client.session.get(
                client.url + "/metrics", headers=bearer("key-a")
            ) as answer:
                text = await answer.text()
            assert 'balanceroute_tenant_waiting_requests{tenant="a"} 6.0' in text
            assert 'balanceroute_tenant_tokens_total{tenant="a"} 1.0' in text
            assert "Authorization" not in engine.headers[0]
            for task in asked:
                task.cancel()
            await until(lambda: client.router.group.ledger.num_in_flight == 0)
            client.expect_nothing_left()
            assert (0, 0) == (queue.num_waiting("a"), queue.num_waiting("b"))

    run(test())


def test_a_header_names_tenants() -> None:
    """Their requests take turns, whoever has come first."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            settings = {"slots": 1, "tenant_header": "X-Tenant", "queue_size": 1000}
            async with routing(engine, **settings) as client:
                first = asyncio.create_task(client.post(HANG_BODY))
                await until(lambda: len(engine.bodies) == 1)
                engine.script = three_tokens
                parts = client.router.parts
                asked = [
                    asyncio.create_task(
                        client.post({"prompt": [n] * 10}, headers={"X-Tenant": name})
                    )
                    for name, n, count in (("flood", 1, 80), ("drop", 2, 3))
                    for _ in range(count)
                ]
                await until(lambda: parts.num_waiting == 83)
                assert parts.queue.num_staged > 40
                first.cancel()
                answers = await asyncio.gather(*asked)
                assert {200} == {status for status, _, _ in answers}
                order = [msgspec.json.decode(body)["prompt"][0] for body in engine.bodies[1:]]
                assert max(n for n, which in enumerate(order) if which == 2) < 60
                client.expect_nothing_left()

    run(test())


def test_shares_of_a_running_router_change() -> None:
    """With the settings; what waits goes on waiting."""

    async def test() -> None:
        async with serving(FakeEngine(hang)) as engine:
            async with routing(engine, slots=1, tenants=TENANTS) as client:
                parts = client.router.parts
                asked = [
                    asyncio.create_task(client.post(HANG_BODY, headers=bearer("key-a")))
                    for _ in range(50)
                ]
                await until(lambda: parts.num_waiting == 49)
                parts.reload(msgspec.structs.replace(parts.config, tenants={}))
                assert 49 == parts.num_waiting
                for task in asked[::2]:
                    task.cancel()
                engine.script = three_tokens
                await until(lambda: parts.num_waiting == 0)
                for task in asked:
                    task.cancel()
                await until(lambda: client.router.group.ledger.num_in_flight == 0)
                client.expect_nothing_left()

    run(test())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tenants": {"a": {"keys": ["k"]}, "b": {"keys": ["k"]}}}, "stand twice"),
        ({"tenants": {"a": {"keys": ["k"]}}, "api_keys": ["k"]}, "stand twice"),
        ({"tenants": {"a": {"keys": [""]}}}, "must not be empty"),
        ({"tenants": {"a": {"weight": 0}}}, "> 0.0"),
        ({"tenant_header": "X Tenant"}, "must be a header's name"),
    ],
)
def test_settings_that_cannot_be(more: dict[str, Any], message: str) -> None:
    """They are refused, and no key is shown in that."""
    with pytest.raises(ConfigError, match=message) as failure:
        read_config(None, {"worker_urls": ["http://a:1"]} | more)
    assert "'k'" not in str(failure.value)
