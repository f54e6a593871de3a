"""When the policy is asked: as soon as somebody can be placed, and once a step has come in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from balanceroute.live.group import LiveGroup
from balanceroute.policies.classic import LeastTokens

IDLE_LOOK_S = 0.02  # until a policy that holds requests back is asked again, if no step is seen
LEAST_GAP_S = 0.001  # from one plan to the next; a plan costs as much as a request's whole way else

log = logging.getLogger(__name__)


class Planner:
    """Calls `LiveGroup.plan` at the right moments, from the event loop.

    A request that arrives is planned for in the same turn of the loop as those that arrive with it;
    if there was a plan in the millisecond before, with those that come until that is over. When a
    slot gets free, the tokens of the same step still come in, and with them other slots; so that
    plan waits a moment, and chooses for all of them together.

    Parameters
    ----------
    group : LiveGroup
        What is planned for.
    settle_s : float
        That moment, seconds.
    on_plan : callable
        Called with the duration of each plan, seconds.
    on_failure : callable or None
        Called from within the exception when the policy has failed, after which nothing is planned
        any more. None: the least loaded rank is chosen from then on.
    on_fallback : callable
        Called once another policy has taken the place of one that has raised.
    """

    def __init__(
        self,
        group: LiveGroup,
        *,
        settle_s: float,
        on_plan: Callable[[float], object],
        on_failure: Callable[[], None] | None = None,
        on_fallback: Callable[[], object] = bool,
    ) -> None:
        self._group, self._settle_s, self._on_plan = group, settle_s, on_plan
        self._on_failure, self._on_fallback = on_failure, on_fallback
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Handle | None = None  # the plan that is due, and when
        self._due_s = self._free_s = 0.0  # and when the next one may be
        self._is_settling = False  # whether it waits for the rest of a step

    def arrive(self) -> None:
        """Note that a request has come.

        Where others wait already, it is not for its sake that a plan is made at once: slots are
        short then, and those that are about to get free are worth waiting for.
        """
        if not self._is_settling:
            self._call_in(0.0 if self._group.num_waiting <= 1 else self._settle_s)

    def free(self, *, wait_s: float | None = None) -> None:
        """Note that a slot has got free, or that a step has been made.

        The rest of the step is waited for `wait_s`, or the moment that the planner was made with.
        """
        if self._group.num_waiting > 0:
            self._call_in(self._settle_s if wait_s is None else wait_s)
            self._is_settling = True

    def stop(self) -> None:
        """Plan no more."""
        if self._due is not None:
            self._due.cancel()

    def _call_in(self, delay_s: float) -> None:
        now_s = self._loop.time()
        when_s = max(now_s + delay_s, self._free_s)
        if self._due is not None:
            if self._due_s <= when_s:
                return
            self._due.cancel()
        self._due_s = when_s
        if when_s > now_s:
            self._due = self._loop.call_at(when_s, self._plan)
        else:
            self._due = self._loop.call_soon(self._plan)

    def _plan(self) -> None:
        self._due, self._is_settling = None, False
        began_s = time.perf_counter()
        try:
            self._group.plan()
        except Exception:  # whatever a policy does, requests must go on
            if self._on_failure is not None:
                self._on_failure()
                return
            log.exception("the policy has failed; from now on the least loaded rank is chosen")
            self._group.replace_policy(LeastTokens())
            self._on_fallback()
            self._group.plan()
        took_s = time.perf_counter() - began_s
        self._on_plan(took_s)
        # No more than half the time goes into plans: where many requests come, one serves several.
        self._free_s = self._loop.time() + max(took_s, LEAST_GAP_S)
        if self._group.holds_back:
            self._call_in(IDLE_LOOK_S)
