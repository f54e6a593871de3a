"""When ranks are closed and opened again."""

from __future__ import annotations

from balanceroute.live.health import MAX_HOLD_S, Health
from tests.live.fake_engine import FakeEngine, routing, run, serving, until
from tests.live.test_trouble import refuse


class Clock:
    """A clock that is set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def health(clock: Clock, *, shares_fate: bool = False) -> Health:
    """Return one that watches a rank, and holds it closed for two seconds to begin with."""
    return Health(
        ["a"],
        failure_threshold=2,
        success_threshold=1,
        hold_s=2.0,
        shares_fate=shares_fate,
        clock=clock,
    )


def test_what_a_rank_says_of_itself_opens_it_at_once() -> None:
    """If that is what has closed it."""
    it = health(Clock())
    for trouble, is_open in (("x", True), ("x", False), ("x", False), ("", True), ("x", True)):
        it.check(0, trouble)
        assert [is_open] == it.is_open


def test_failed_requests_hold_a_rank_closed() -> None:
    """For a while, and twice as long when it fails again; not beyond a minute."""
    clock = Clock()
    it = health(clock)
    it.fail(0, "x")
    it.fail(0, "x")
    for hold_s in (2.0, 4.0, 8.0, 16.0, 32.0, MAX_HOLD_S, MAX_HOLD_S):
        clock.now_s += hold_s - 0.1
        it.check(0, "")
        assert [False] == it.is_open
        clock.now_s += 0.1
        it.check(0, "")
        assert [True] == it.is_open
        it.check(0, "")  # which is no proof that requests succeed
        it.fail(0, "x")  # one is enough now
        assert [False] == it.is_open


def test_a_group_with_a_barrier_is_never_closed_for_long() -> None:
    """There is nobody else to ask."""
    clock = Clock()
    it = health(clock, shares_fate=True)
    for _ in range(10):
        it.fail(0, "x")
        it.fail(0, "x")
        assert [False] == it.is_open
        clock.now_s += 2.0
        it.check(0, "")
        assert [True] == it.is_open


def test_a_request_that_succeeds_is_trusted() -> None:
    """The rank may fail once again, and begins with the short hold."""
    clock = Clock()
    it = health(clock)
    for _ in range(3):
        it.fail(0, "x")
        it.fail(0, "x")
        clock.now_s += 100.0
        it.check(0, "")
    it.succeed(0)
    it.fail(0, "x")
    assert [True] == it.is_open
    it.fail(0, "x")
    assert [False] == it.is_open
    clock.now_s += 2.0
    it.check(0, "")
    assert [True] == it.is_open


def test_a_rank_that_says_it_is_well_and_fails_every_request() -> None:
    """Its requests go elsewhere, nearly all of them at once."""

    async def test() -> None:
        async with serving(FakeEngine(refuse)) as bad, serving(FakeEngine()) as good:
            terms = {"barrier": False, "health_check_interval_secs": 0.05}
            async with routing(bad, good, retry_max_attempts=5, **terms) as client:
                for _ in range(100):
                    assert 200 == (await client.post())[0]
                assert len(bad.bodies) <= 10
                bad.script = good.script
                await until(lambda: all(client.router.health.is_open))
                await client.post()
                client.expect_nothing_left()

    run(test())


def test_a_rank_that_fails_every_request_where_none_is_tried_again() -> None:
    """It is closed as well, or the least loaded rank would be the one that serves nobody."""

    async def test() -> None:
        async with serving(FakeEngine(refuse)) as bad, serving(FakeEngine()) as good:
            terms = {"barrier": False, "health_check_interval_secs": 60.0}
            async with routing(bad, good, retry_max_attempts=1, **terms) as client:
                statuses = [(await client.post())[0] for _ in range(20)]
                assert [False, True] == client.router.health.is_open
                assert 2 == len(bad.bodies) == statuses.count(500)
                assert 18 == statuses.count(200)
                client.expect_nothing_left()

    run(test())


def test_a_request_that_engines_choke_on_does_not_close_a_group() -> None:
    """Not by itself, with its retries; an engine that answers nothing else does."""
    for shares_fate, num_needed in ((False, 2), (True, 20)):
        health = Health(
            ["a", "b"],
            failure_threshold=2,
            success_threshold=1,
            hold_s=1.0,
            shares_fate=shares_fate,
        )
        for _ in range(num_needed - 1):
            health.fail(0, "HTTP 500", has_answered=True)
        assert health.is_well[0]
        health.fail(0, "HTTP 500", has_answered=True)
        assert not health.is_well[0]
