"""Deadlines: those that pass, in order, and those that are cancelled before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from balanceroute.live.deadlines import Deadline, Deadlines
from tests.live.fake_engine import run


def test_they_pass_in_order_and_not_before_their_time() -> None:
    """Also those of other lengths, and those that begin while others wait."""

    async def test() -> None:
        loop, passed = asyncio.get_running_loop(), asyncio.Event()
        deadlines, late_s = Deadlines(), dict[str, float]()

        def note(name: str, due_s: float) -> Callable[[], None]:
            def passes() -> None:
                late_s[name] = loop.time() - due_s
                if len(late_s) == 4:
                    passed.set()

            return passes

        for name, limit_s in (("b", 0.05), ("d", 0.09), ("a", 0.02)):
            deadlines.expect(limit_s, note(name, loop.time() + limit_s))
        await asyncio.sleep(0.01)
        deadlines.expect(0.05, note("c", loop.time() + 0.05))
        await passed.wait()
        assert ["a", "b", "c", "d"] == list(late_s)
        assert min(late_s.values()) >= -0.002  # a clock of milliseconds

    run(test())


def test_a_timer_is_set_for_the_first_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come and go meanwhile."""

    async def test() -> None:
        deadlines, timers = Deadlines(), list[float]()
        monkeypatch.setattr(deadlines, "_loop", _Counted(asyncio.get_running_loop(), timers))
        for _ in range(1000):
            deadlines.expect(60.0, bool).cancel()
        assert [60.0] == timers

    run(test())


def test_what_goes_wrong_with_one_is_not_the_others_fault() -> None:
    """They pass all the same, and the next ones as well."""

    async def test() -> None:
        loop, deadlines, passed = asyncio.get_running_loop(), Deadlines(), asyncio.Event()
        said: list[object] = []
        loop.set_exception_handler(lambda _, context: said.append(context["exception"]))

        def fail() -> None:
            deadlines.expect(0.01, passed.set)
            raise ValueError("its own fault")

        deadlines.expect(0.01, fail)
        other = deadlines.expect(0.01, bool)
        await passed.wait()
        assert other.has_passed
        assert ["its own fault"] == [str(error) for error in said]

    run(test())


def test_one_that_is_cancelled_by_another_does_not_pass() -> None:
    """Though its time has come in the same moment."""

    async def test() -> None:
        deadlines, passed = Deadlines(), asyncio.Event()
        found: list[Deadline] = []

        def cancel_next() -> None:
            found[0].cancel()

        deadlines.expect(0.01, cancel_next)
        found.append(deadlines.expect(0.01, bool))
        deadlines.expect(0.01, passed.set)
        await passed.wait()
        assert not found[0].has_passed

    run(test())


class _Counted:
    """A loop of which the timers are counted."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: list[float]) -> None:
        self.time, self._loop, self._timers = loop.time, loop, timers

    def call_later(self, delay_s: float, call: Callable[..., object], *args: object) -> object:
        self._timers.append(delay_s)
        return self._loop.call_later(delay_s, call, *args)
