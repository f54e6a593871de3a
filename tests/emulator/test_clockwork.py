"""Steps take the time they should, and lateness neither adds up nor is made up for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from balanceroute.emulator.clockwork import Clockwork
from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request
from tests.emulator.driving import engine_config

NUM_STEPS = 100
STEP_S = 0.002


class Pace:
    """Runs one request of `NUM_STEPS` tokens, and notes when they come."""

    def __init__(self, speedup: float = 1.0, hiccup_s: float = 0.0) -> None:
        self.ends_s: list[float] = []
        self.hiccup_s = hiccup_s
        self.engine = Engine(engine_config(constant_s=STEP_S * speedup))
        self.done = asyncio.Event()
        self.clockwork = Clockwork(
            self.engine,
            speedup=speedup,
            on_begin=lambda: None,
            on_outputs=self.note,
        )

    def note(self, outputs: Sequence[Request], now_s: float) -> None:
        self.ends_s.append(now_s)
        if len(self.ends_s) == NUM_STEPS // 2:
            time.sleep(self.hiccup_s)  # the whole process hangs
        if outputs[0].is_finished:
            self.done.set()

    async def run(self) -> None:
        self.engine.submit(Request(prompt_tokens=1, output_tokens=NUM_STEPS))
        self.clockwork.wake()
        self.clockwork.wake()  # once is enough
        async with asyncio.timeout(10):
            await self.done.wait()
        await asyncio.sleep(0)
        self.clockwork.stop()


@pytest.mark.parametrize("speedup", [1.0, 50.0])
def test_steps_keep_to_their_plan(speedup: float) -> None:
    """Each step begins when the last one should have ended, in emulated time divided by speed."""

    async def main() -> Pace:
        pace = Pace(speedup)
        await pace.run()
        return pace

    pace = asyncio.run(main())
    _, records = pace.engine.log.since(0)
    starts_s = records.start_s - records.start_s[0]
    planned_s = STEP_S * speedup
    if pace.clockwork.slipped_s == 0.0:  # unless the machine stood still
        assert [i * planned_s for i in range(NUM_STEPS)] == pytest.approx(starts_s.tolist())
    assert NUM_STEPS == len(pace.ends_s)


def test_a_short_hiccup_is_made_up_for() -> None:
    """Steps after a delay come at once until the plan is reached again."""

    async def main() -> Pace:
        pace = Pace(hiccup_s=0.05)
        await pace.run()
        return pace

    pace = asyncio.run(main())
    assert pace.clockwork.max_lag_s > 0.03
    took_s = pace.ends_s[-1] - pace.ends_s[0]
    if pace.clockwork.slipped_s == 0.0:
        assert took_s < NUM_STEPS * STEP_S + pace.clockwork.lag_s + 0.02


def test_a_long_hiccup_is_not() -> None:
    """The plan is given up, and the delay is counted."""

    async def main() -> Pace:
        pace = Pace(hiccup_s=0.3)
        await pace.run()
        return pace

    pace = asyncio.run(main())
    assert pace.clockwork.slipped_s > 0.25
    _, records = pace.engine.log.since(0)
    assert (records.start_s[1:] - records.start_s[:-1]).max() > 0.25


def test_an_idle_group_makes_no_steps() -> None:
    """Nothing happens until a request comes, and nothing after the clockwork was stopped."""

    async def main() -> None:
        pace = Pace()
        pace.clockwork.wake()
        await asyncio.sleep(5 * STEP_S)
        assert 0 == pace.engine.totals.num_steps
        assert pace.clockwork.emulated_s > 0
        pace.clockwork.stop()
        pace.engine.submit(Request(prompt_tokens=1, output_tokens=1))
        pace.clockwork.wake()
        await asyncio.sleep(5 * STEP_S)
        assert 0 == pace.engine.totals.num_steps

    asyncio.run(main())
