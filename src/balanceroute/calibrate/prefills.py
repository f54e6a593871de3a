"""What prompts add to the steps in which they are computed, seen by streams that decode beside."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
import numpy as np

from balanceroute.calibrate.fit import LongerStep, PrefillLaw, fit_prefill_law
from balanceroute.calibrate.probe import Target, stream_times
from balanceroute.errors import ConfigError

MOST_DECODED = 1000  # output tokens of a request that only keeps its rank busy
SHORT_TOKENS = 40  # of the prompt of such a request
# Each length so often, of more tries: prompts for all ranks come at any moment of a step, and do
# not all begin in the same one.
NUM_MEASURED, MOST_TRIES = 7, 24
QUIET_STEPS = 16  # without a prompt, before each, which tell what a step takes otherwise
LOOK_S = 0.005  # from one look at the streams to the next
# Of the time to the first of several first tokens, up to which the others are of the same step; one
# a step later is half of it off, for a prompt waits no longer than a step for its own.
TOGETHER_RATIO = 0.25


async def measure_prefills(
    session: aiohttp.ClientSession, target: Target, lengths: Sequence[int]
) -> PrefillLaw:
    """Find out what prompts of these lengths, two or more, add to a step.

    On one rank, and on all of them in the same step, while a request decodes on each.

    Raises
    ------
    ConfigError
        If the engine refuses a request, or prompts were never computed in the same step.
    """
    prompts, found = Prompts(session, target), []
    async with prompts.beside_decoding():
        for ranks in dict.fromkeys((target.ranks[:1], target.ranks)):  # of one rank, once
            found += [await _measured(prompts, ranks, length) for length in lengths]
    return fit_prefill_law(found)


async def _measured(prompts: Prompts, ranks: tuple[int, ...], length: int) -> LongerStep:
    """Return the medians of several steps in which prompts of a length were computed."""
    found = []
    for _ in range(MOST_TRIES):
        longer = await prompts.compute(ranks, length)
        found += [] if longer is None else [longer]
        if len(found) == NUM_MEASURED:
            break
    if not found:
        raise ConfigError(
            f"prompts of {length} tokens, one on each rank, were never computed in the same step, "
            f"in {MOST_TRIES} tries; calibrate while nothing else runs on the engine"
        )
    return LongerStep(*(statistics.median(column) for column in zip(*found, strict=True)))


class Prompts:
    """Prompts that are computed while other requests decode, one on each rank.

    Parameters
    ----------
    session : aiohttp.ClientSession
        For the requests.
    target : Target
        The engine.
    """

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session, self._target = session, target
        # When the tokens of the request came that decodes on a rank.
        self._times_s: dict[int, list[float]] = {rank: [] for rank in target.ranks}
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = itertools.count(1000)  # of prompts
        self._ended_s = 0.0  # when the last one was computed

    @contextlib.asynccontextmanager
    async def beside_decoding(self) -> AsyncIterator[None]:
        """Have one request decode on each rank, again and again, until the context is left."""
        self._tasks = [asyncio.create_task(self._decode(rank)) for rank in self._target.ranks]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _decode(self, rank: int) -> None:
        most = self._target.max_tokens
        room = MOST_DECODED if most is None else min(most - SHORT_TOKENS, MOST_DECODED)
        for number in itertools.count():
            self._times_s[rank] = []
            await stream_times(
                self._session,
                self._target,
                rank,
                SHORT_TOKENS,
                room,
                number,
                times_s=self._times_s[rank],
            )

    async def _until(self, is_there: Callable[[list[float]], bool]) -> None:
        """Wait until the streams of all ranks are so; raise what has become of them if not."""
        while not all(is_there(times_s) for times_s in self._times_s.values()):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(LOOK_S)

    async def compute(self, ranks: Sequence[int], prompt_tokens: int) -> LongerStep | None:
        """Have a prompt computed on each of `ranks`, and return how much longer that step was.

        None if it did not come to that: they were computed in different steps, or what decoded
        ended meanwhile.
        """
        await self._until(lambda times_s: has_rested(times_s, self._ended_s))
        decoding = [self._times_s[rank] for rank in ranks]
        began_s, number = time.perf_counter(), next(self._numbers)
        streams = [
            stream_times(self._session, self._target, rank, prompt_tokens, 1, number)
            for rank in ranks
        ]
        firsts_s = [times_s[0] for times_s in await asyncio.gather(*streams)]
        self._ended_s = max(firsts_s)
        await self._until(lambda times_s: bool(times_s) and times_s[-1] >= self._ended_s)
        if self._ended_s - min(firsts_s) > TOGETHER_RATIO * (min(firsts_s) - began_s):
            return None
        lost = [lost_s(times_s, began_s, self._ended_s) for times_s in decoding]
        known = [one for one in lost if one is not None]
        if len(known) < len(lost):
            return None
        added_s, step_s = np.mean(known, axis=0).tolist()
        return LongerStep(prompt_tokens, len(ranks) / len(self._target.ranks), added_s, step_s)


def has_rested(times_s: Sequence[float], since_s: float) -> bool:
    """Tell whether a stream has made so many steps since then that they tell what one takes."""
    return len(times_s) > QUIET_STEPS and times_s[-1 - QUIET_STEPS] >= since_s


def lost_s(times_s: Sequence[float], began_s: float, ended_s: float) -> tuple[float, float] | None:
    """Return how much later a stream's tokens came between two moments than by its steps before.

    And what these took, on average; None if the stream does not reach over both moments.

    Examples
    --------
    Of steps of 10 ms one took 25:

    >>> times_s = [0.01 * step for step in range(30)] + [0.315, 0.325]
    >>> added_s, step_s = lost_s(times_s, began_s=0.285, ended_s=0.315)
    >>> round(added_s, 9), round(step_s, 9)
    (0.015, 0.01)
    """
    first = bisect.bisect_right(times_s, began_s) - 1
    last = bisect.bisect_left(times_s, ended_s)
    if first < QUIET_STEPS or last == len(times_s):
        return None
    step_s = (times_s[first] - times_s[first - QUIET_STEPS]) / QUIET_STEPS
    return times_s[last] - times_s[first] - (last - first) * step_s, step_s
