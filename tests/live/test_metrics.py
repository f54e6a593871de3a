"""What `/metrics` tells, and that the dashboard and alerts that are shipped ask for no more."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live.fake_engine import Client, FakeEngine, metrics_of, routing, run, serving, until

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bbalanceroute_[a-z_]+\b")
SHIPPED = ("grafana/balanceroute.json", "prometheus/balanceroute.rules.yml")
UNITS = ("_tokens", "_seconds", "_ratio", "_requests", "_total", "_info", "_bucket", "_created")
STATES = (  # gauges of what is or is not the case, and counts of things
    "balanceroute_load_signals_up",
    "balanceroute_group_open",
    "balanceroute_rank_open",
    "balanceroute_rank_well",
    "balanceroute_rank_draining",
    "balanceroute_rank_slots",
    "balanceroute_barrier_basis",
)


async def samples(client: Client) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return what is exported: labels and value of each sample, by name."""
    status, page = await client.get("/metrics")
    assert 200 == status
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_everything_that_is_shipped_asks_for_metrics_that_there_are() -> None:
    """Of a router that has served; a name that is mistyped would show nothing, for ever."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two, tenants={"a": {}}, tenant_header="X-Tenant") as client:
                for _ in range(20):
                    await client.post({"prompt": [1] * 10, "stream": True})
                barrier = client.router.parts.barrier  # the fake engines make no steps of a group
                barrier.sums.rank_s["costs"] = barrier.sums.idle_s["costs"] = 1.0
                barrier.sums.lost_tokens["costs"] = 1.0
                client.router.group.ledger.ranks["load_tokens"][0] = 1
                await client.post(b"not JSON")
                found = await samples(client)
        for name in SHIPPED:
            asked = set(NAME.findall((DEPLOY / name).read_text("utf-8")))
            assert len(asked) > 5
            assert set() == asked - set(found) - {"balanceroute"}, name

    run(test())


def test_names_tell_their_unit() -> None:
    """Base units, one prefix, `_total` for what only grows."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as client:
            await client.post()
            for name in await samples(client):
                assert name.startswith("balanceroute_")
                bare = name.removesuffix("_sum").removesuffix("_count")
                assert bare.endswith(UNITS) or bare in STATES, name

    run(test())


def test_labels_are_not_the_clients_to_make() -> None:
    """Whatever clients send, the number of series stays what it is."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            async with routing(engine, tenant_header="X-Tenant", tenants={"a": {}}) as client:
                await client.post()
                before = sum(len(rows) for rows in (await samples(client)).values())
                for n in range(50):
                    body = {"prompt": [n], "model": f"m{n}", "user": f"u{n}"}
                    headers = {"X-Tenant": f"t{n}", "X-Request-Id": f"r{n}"}
                    await client.post(body, headers=headers)
                    await client.get(f"/v1/models/{n}")
                rows = await samples(client)
                codes = len(rows["balanceroute_requests_total"])
                assert codes <= 3
                assert before + 2 * codes >= sum(len(each) for each in rows.values())

    run(test())


def test_loads_margins_and_the_pool_are_the_ledgers() -> None:
    """The design's example: loads 100, 90, 70, 60 give these margins and an imbalance of 80."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            engine.metrics = metrics_of([(0, 0)] * 4)
            async with routing(engine, intra_node_data_parallel_size=4) as client:
                ranks = client.router.group.ledger.ranks
                assert "balanceroute_balance_ratio" not in await samples(client)  # of nothing
                ranks["load_tokens"] = [100, 90, 70, 60]
                rows = await samples(client)
                margins = [value for _, value in rows["balanceroute_rank_margin_tokens"]]
                assert [0.0, 10.0, 30.0, 40.0] == margins
                assert 80.0 == rows["balanceroute_imbalance_tokens"][0][1]
                assert 0.8 == rows["balanceroute_balance_ratio"][0][1]
                assert 0.0 == rows["balanceroute_pool_oldest_wait_seconds"][0][1]
                ranks["load_tokens"] = 0

    run(test())


@pytest.mark.parametrize("barrier", [True, False])
def test_independent_ranks_have_no_barrier_to_tell_of(barrier: bool) -> None:
    """Not even a zero."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine, barrier=barrier) as client:
            found = await samples(client)
            assert barrier == any(name.startswith("balanceroute_barrier") for name in found)

    run(test())


def test_a_rank_that_is_away_shows() -> None:
    """Its circuit, and that the group is closed with it."""

    async def test() -> None:
        async with serving(FakeEngine()) as one, serving(FakeEngine()) as two:
            async with routing(one, two) as client:
                one.is_healthy = False
                await until(lambda: not any(client.router.health.is_open))
                rows = await samples(client)
                assert [0.0, 1.0] == [value for _, value in rows["balanceroute_rank_well"]]
                assert 0.0 == rows["balanceroute_group_open"][0][1]

    run(test())


def test_alerts_say_what_they_mean() -> None:
    """Each has an expression, a severity, and words; each is spoken of in the operators' page."""
    rules = msgspec.yaml.decode((DEPLOY / "prometheus/balanceroute.rules.yml").read_bytes())
    page = (DEPLOY.parent / "docs" / "operating.md").read_text("utf-8")
    for rule in rules["groups"][0]["rules"]:
        assert {"summary", "description"} == set(rule["annotations"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["alert"] in page
