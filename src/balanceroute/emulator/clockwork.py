"""What makes an engine's steps take their time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request

# Steps follow their plan even after a hiccup, by taking less time than they should; a delay of more
# than this is not made up for, or a process that is too slow would never find back to its pace.
MAX_CATCH_UP_S = 0.25


class Clockwork:
    """Steps an engine in real time: one step after the other, asleep while there is nothing to do.

    A step begins when the one before it should have ended, so that late timers do not add up.

    Parameters
    ----------
    engine : Engine
        What is stepped.
    speedup : float
        Emulated seconds per second, above 0.
    on_begin : callable
        Called when a step has begun.
    on_outputs : callable
        Called when a step has ended, with the requests that got a token and the time in seconds.
    clock : callable
        Returns seconds; only differences count.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        speedup: float,
        on_begin: Callable[[], None],
        on_outputs: Callable[[Sequence[Request], float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._speedup = speedup
        self._on_begin = on_begin
        self._on_outputs = on_outputs
        self._clock = clock
        self._origin_s = clock()
        self._loop = asyncio.get_running_loop()
        self._is_stopped = False
        self._wake_up: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0  # when the step under way should end
        self.lag_s = 0.0
        self.max_lag_s = 0.0
        self.slipped_s = 0.0

    @property
    def now_s(self) -> float:
        """Return the time, as requests are timed."""
        return self._clock()

    @property
    def emulated_s(self) -> float:
        """Return the emulated seconds since the start."""
        return (self._clock() - self._origin_s) * self._speedup

    def wake(self) -> None:
        """Begin a step soon unless one is under way; all that is submitted until then is in it."""
        if self._timer is None and self._wake_up is None and not self._is_stopped:
            self._wake_up = self._loop.call_soon(self._start)

    def stop(self) -> None:
        """Make no further step."""
        self._is_stopped = True
        for handle in (self._wake_up, self._timer):
            if handle is not None:
                handle.cancel()

    def _start(self) -> None:
        self._wake_up = None
        self._begin(self._clock())

    def _begin(self, start_s: float) -> None:
        duration_s = self._engine.begin_step((start_s - self._origin_s) * self._speedup)
        self._timer = None
        if duration_s is None:
            return
        self._due_s = start_s + duration_s / self._speedup
        # Not `call_at`: the loop's own clock may be coarser than ours.
        delay_s = max(0.0, self._due_s - self._clock())
        self._timer = self._loop.call_later(delay_s, self._end)
        self._on_begin()

    def _end(self) -> None:
        now_s, due_s = self._clock(), self._due_s
        self.lag_s = max(0.0, now_s - due_s)
        self.max_lag_s = max(self.max_lag_s, self.lag_s)
        outputs = self._engine.end_step()
        if self.lag_s > MAX_CATCH_UP_S:
            self.slipped_s += self.lag_s
            due_s = now_s
        # The ranks go on before anybody is told, as an engine does that has its own process.
        self._begin(due_s)
        self._on_outputs(outputs, now_s)
