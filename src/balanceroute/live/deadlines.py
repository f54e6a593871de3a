"""What has to come about in time: many waits, few timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """One thing that is waited for; `Deadlines` makes it.

    Attributes
    ----------
    due_s : float
        When it is given up, by the loop's clock.
    has_passed : bool
        Whether it has been.
    """

    __slots__ = ("_give_up", "_line", "due_s", "has_passed")

    def __init__(
        self, line: dict[Deadline, None], due_s: float, give_up: Callable[[], object]
    ) -> None:
        self._line, self._give_up, self.due_s, self.has_passed = line, give_up, due_s, False
        line[self] = None

    def cancel(self) -> None:
        """Wait no longer: it has come about, or nobody cares."""
        self._line.pop(self, None)

    def pass_by(self) -> None:
        """Give up what is still waited for."""
        if self in self._line:
            self.cancel()
            self.has_passed = True
            self._give_up()


class Deadlines:
    """Gives up what does not come about in time.

    A timer of the event loop costs microseconds to set and to cancel, and of those that watch over
    requests next to none goes off. Waits of the same length end in the order in which they begin:
    they stand in line here, and one timer, for whoever is first in it, serves them all.

    Examples
    --------
    >>> async def wait() -> None:
    ...     deadlines = Deadlines()
    ...     late = deadlines.expect(0.01, lambda: print("too late"))
    ...     early = deadlines.expect(0.01, lambda: print("never said"))
    ...     early.cancel()
    ...     await asyncio.sleep(0.05)
    ...     print(late.has_passed, early.has_passed)
    >>> asyncio.run(wait())
    too late
    True False
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[float, dict[Deadline, None]] = {}  # by the length of the wait

    def expect(self, limit_s: float, give_up: Callable[[], object]) -> Deadline:
        """Call `give_up` once, unless the deadline is cancelled within `limit_s` seconds."""
        line = self._lines.get(limit_s)
        if line is None:
            line = self._lines[limit_s] = {}
            self._loop.call_later(limit_s, self._look, limit_s)
        return Deadline(line, self._loop.time() + limit_s, give_up)

    async def within(self, limit_s: float, work: Awaitable[T]) -> T:
        """Return what comes of `work` in this task; `TimeoutError` if that takes too long."""
        task = asyncio.current_task()
        assert task is not None
        deadline = self.expect(limit_s, task.cancel)
        try:
            return await work
        except BaseException as error:
            # As `asyncio.timeout` does: who is cancelled by others, too, has to heed them.
            is_ours = deadline.has_passed and task.uncancel() == 0
            if is_ours and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error
            raise
        finally:
            deadline.cancel()

    async def wait(
        self,
        awaited: asyncio.Future[None],
        limit_s: float,
        late: Callable[[float], Exception],
    ) -> None:
        """Wait for what others bring about; `late` says what is raised if they take too long."""
        deadline = self.expect(limit_s, partial(_fail, awaited, limit_s, late))
        try:
            await awaited
        finally:
            deadline.cancel()

    def _look(self, limit_s: float) -> None:
        """Give up what is due, and come back for what is next."""
        line, now_s = self._lines[limit_s], self._loop.time()
        try:
            for first in list(line):
                if first.due_s > now_s:
                    break
                first.pass_by()
        finally:
            if line:
                self._loop.call_at(next(iter(line)).due_s, self._look, limit_s)
            else:
                del self._lines[limit_s]


def _fail(
    awaited: asyncio.Future[None], limit_s: float, late: Callable[[float], Exception]
) -> None:
    if not awaited.done():
        awaited.set_exception(late(limit_s))
