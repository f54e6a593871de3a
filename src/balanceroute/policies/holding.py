"""What waves remember from plan to plan: who is held since when, and the pace of the group."""

from __future__ import annotations

import math

import numpy as np

from balanceroute.cluster.view import GroupView
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.dealing import since_when

MEMORY_REQUESTS = 300  # releases in which what was measured fades by a factor e
FEWEST_RELEASES = 50  # before the measured steps per refill are believed
UNKNOWN_STEPS, MAX_STEPS = 10.0, 50.0  # per refill, before that and at most
KEPT_PER_STEP = 0.98


class Held:
    """Since when requests have been held back.

    Examples
    --------
    >>> held = Held()
    >>> held.seconds(np.array([7, 8]), 10.0)
    array([0., 0.])
    >>> held.seconds(np.array([8, 9]), 12.0)
    array([2., 0.])
    """

    def __init__(self) -> None:
        self._ids, self._since_s = np.zeros(0, np.int64), np.zeros(0)

    def seconds(self, ids: Int64Array, now_s: float) -> Float64Array:
        """Return for how long these are held; all others are forgotten."""
        self._since_s = since_when(ids, self._ids, self._since_s, now_s)
        self._ids = ids
        return now_s - self._since_s


class FreeSlots:
    """Since when slots that somebody waits for have been free, the longest first.

    Examples
    --------
    >>> slots = FreeSlots()
    >>> slots.seconds(2, 10.0), slots.seconds(3, 12.0)
    (array([0., 0.]), array([2., 2., 0.]))
    >>> slots.fill(1)
    >>> slots.seconds(2, 13.0)
    array([3., 1.])
    """

    def __init__(self) -> None:
        self._since_s: list[float] = []

    def seconds(self, num_wanted: int, now_s: float) -> Float64Array:
        """Return for how long each of so many slots has been free."""
        del self._since_s[num_wanted:]
        self._since_s += [now_s] * (num_wanted - len(self._since_s))
        return now_s - np.array(self._since_s)

    def fill(self, num_requests: int) -> None:
        """Give so many of them, those free for longest, a request."""
        del self._since_s[:num_requests]


class ReleasePace:
    """How much is released: prefill over the time that passes, requests over the steps.

    Examples
    --------
    One request every two seconds and 40 steps, of 5,000 tokens for its only rank, 0.1 ms each:

    >>> pace = ReleasePace()
    >>> for step in range(0, 40_000, 40):
    ...     pace.note(step / 20, step, 1, prompt_tokens=5000, s_per_token=1e-4)
    >>> round(pace.prefill_share, 2), round(pace.steps_per_refill(1), 1)
    (0.25, 40.0)
    """

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._elapsed_s = self._num_steps = 0.0
        self._prompt_tokens = self._num_requests = self._s_per_token = 0.0

    def note(
        self, now_s: float, step: float, num_requests: int, prompt_tokens: float, s_per_token: float
    ) -> None:
        """Take in a plan: its time and step, and the requests and tokens per rank that it sent.

        `s_per_token` is what a rank's own prompt token takes, as far as is known by now.
        """
        self._s_per_token = s_per_token
        if self._last is not None:
            kept = math.exp(-num_requests / MEMORY_REQUESTS)
            self._elapsed_s = kept * self._elapsed_s + now_s - self._last[0]
            self._num_steps = kept * self._num_steps + step - self._last[1]
            self._prompt_tokens = kept * self._prompt_tokens + prompt_tokens
            self._num_requests = kept * self._num_requests + num_requests
        self._last = now_s, step

    @property
    def prefill_share(self) -> float:
        """Return the share of their time that ranks prefill, in [0, 1]; 0 to begin with."""
        if self._elapsed_s == 0.0:
            return 0.0
        return min(1.0, self._prompt_tokens * self._s_per_token / self._elapsed_s)

    def steps_per_refill(self, num_ranks: int) -> float:
        """Return the steps of a rank from one request that it gets to the next, in 1..50."""
        if self._num_requests < FEWEST_RELEASES:
            return UNKNOWN_STEPS
        steps = self._num_steps * num_ranks / self._num_requests
        return min(max(steps, 1.0), MAX_STEPS)


class StepPace:
    """How long a step takes, and how many have been made since the group was last seen."""

    def __init__(self) -> None:
        self._last: tuple[float, float, bool] | None = None  # time, step, whether anything ran
        self._elapsed_s = self._num_steps = 0.0

    def see(self, view: GroupView) -> None:
        """Take in a view, which may be older than it says."""
        step = float(view.clocks.max()) if view.clocks is not None else 0.0
        if self._last is not None and step == self._last[1]:
            return
        if self._last is not None and self._last[2]:
            self._elapsed_s = KEPT_PER_STEP * self._elapsed_s + view.now_s - self._last[0]
            self._num_steps = KEPT_PER_STEP * self._num_steps + step - self._last[1]
        self._last = view.now_s, step, bool(view.num_running_reqs.any())

    @property
    def step(self) -> float:
        """Return the step that the group had made when it was last seen."""
        return self._last[1] if self._last is not None else 0.0

    @property
    def step_s(self) -> float:
        """Return the mean time of the latest steps, seconds; infinite to begin with."""
        return self._elapsed_s / self._num_steps if self._num_steps > 0.0 else math.inf

    def unseen_steps(self, now_s: float) -> int:
        """Return how many steps have probably ended since the view that is shown was true."""
        if self._last is None or not self._last[2] or self.step_s == 0.0:
            return 0
        return int((now_s - self._last[0]) / self.step_s)
