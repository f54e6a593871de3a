"""What the router asks the engines by itself: whether they are well, and what they hold."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from functools import partial

import aiohttp
import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.live.engine_metrics import EngineState
from balanceroute.live.parts import Parts
from balanceroute.live.router_metrics import read_states

NUM_LOOKS = 3  # of which the one that shows least counts, since loads change between two events
SLOTS_TRIED = 8  # one more for so many

log = logging.getLogger(__name__)


class Watch:
    """Looks after the ranks in the background."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._group, self._health = parts, parts.group, parts.health
        self._looks: dict[int, deque[tuple[int, int]]] = defaultdict(
            partial(deque, maxlen=NUM_LOOKS)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._has_signals: bool | None = None

    @property
    def _ranks_of(self) -> dict[str, list[int]]:
        """Return the ranks behind each URL."""
        ranks_of: dict[str, list[int]] = defaultdict(list)
        for rank, address in enumerate(self._parts.addresses):
            if not self._is_gone(rank):
                ranks_of[address.url].append(rank)
        return ranks_of

    def _is_gone(self, rank: int) -> bool:
        """Tell whether a rank is drained and empty, so that nothing is asked of it."""
        here = self._group.ledger.ranks[rank]
        return self._health.is_draining[rank] and not here["num_running"] + here["num_waiting"]

    async def start(self) -> None:
        """Look once, and go on in the background."""
        await self._check_health()
        await self._read_metrics()
        self._tasks = [
            asyncio.create_task(self._repeat(self._check_health, "health_check_interval_secs")),
            asyncio.create_task(self._repeat(self._read_metrics, "metrics_interval_secs")),
        ]

    async def stop(self) -> None:
        """End the background work."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, look: Callable[[], Awaitable[None]], interval: str) -> None:
        while True:
            await asyncio.sleep(getattr(self._parts.config, interval))
            try:
                await look()
            except Exception:  # without the next look nobody would notice anything any more
                log.exception("a look at the engines has failed inside the router; please report")

    async def _check_health(self) -> None:
        await asyncio.gather(*(self._check_url(url) for url in self._ranks_of))

    async def _check_url(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=self._parts.config.health_check_timeout_secs)
        try:
            async with self._parts.session.get(
                url + self._parts.config.health_check_endpoint, timeout=timeout
            ) as answer:
                reason = "" if answer.ok else f"{answer.url.path}: HTTP {answer.status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}"
        for rank in self._ranks_of.get(url, []):
            self._health.check(rank, reason)

    async def _read_metrics(self) -> None:
        tier = self._parts.prefill
        if tier is not None:
            await tier.look(self._parts.config.health_check_timeout_secs)
        results = await asyncio.gather(*(self._read_url(url) for url in self._ranks_of))
        has_signals = all(results)
        self._parts.meters.signals.set(has_signals)
        if has_signals != self._has_signals and not has_signals:
            log.error(
                "the engines' metrics cannot be read; the router goes by its own ledger only "
                "(balanceroute_load_signals_up is 0)"
            )
        elif has_signals and self._has_signals is False:
            log.warning("the engines' metrics can be read again")
        self._has_signals = has_signals

    async def _read_url(self, url: str) -> bool:
        timeout = aiohttp.ClientTimeout(total=self._parts.config.health_check_timeout_secs)
        try:
            async with self._parts.session.get(url + "/metrics", timeout=timeout) as answer:
                text = await answer.text() if answer.ok else ""
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
            return False
        states = read_states(text)
        ranks = self._ranks_of.get(url, [])
        if not states:
            return False
        self._expect_ranks(url, ranks, states)
        for rank in ranks:
            number = self._parts.addresses[rank].rank
            state = states.get(number) if number is not None else next(iter(states.values()))
            if state is None:
                return False
            self._take_in(rank, state)
        return True

    def _expect_ranks(self, url: str, ranks: list[int], states: dict[int, EngineState]) -> None:
        """Refuse settings that name other ranks than the engine has."""
        named = [self._parts.addresses[rank].rank for rank in ranks]
        if named == [None] and len(states) > 1 and self._has_signals is None:
            raise ConfigError(
                f"{url} has {len(states)} data-parallel ranks, but is given as one; use "
                f"--intra-node-data-parallel-size {len(states)}, or name them as {url}@0 and so on"
            )
        missing = [number for number in named if number is not None and number not in states]
        if missing and self._has_signals is None:
            raise ConfigError(
                f"{url} has no data-parallel rank {missing[0]}: its metrics show "
                f"{sorted(states)}; ranks are numbered as that server numbers them"
            )

    def _take_in(self, rank: int, state: EngineState) -> None:
        """Learn a rank's limits, and what it holds beyond what the router has sent."""
        group, here = self._group, self._group.ledger.ranks[rank]
        if self._parts.config.kv_tokens is None and state.kv_tokens > 0:
            group.kv_tokens[rank] = state.kv_tokens
        if self._parts.config.slots is None:
            group.num_slots[rank] = _learned_slots(int(group.num_slots[rank]), state)
        num_own = int(here["num_running"] + here["num_waiting"])
        num_foreign = max(0, state.num_running + state.num_waiting - num_own)
        group.disagreement_tokens[rank] = state.load_tokens - int(here["load_tokens"])
        tokens = max(0, int(group.disagreement_tokens[rank])) if num_foreign > 0 else 0
        looks = self._looks[rank]
        looks.append((num_foreign, tokens))
        group.foreign_reqs[rank], group.foreign_tokens[rank] = np.min(looks, axis=0)
        self._parts.planner.arrive()


def _learned_slots(num_slots: int, state: EngineState) -> int:
    """Return how many requests a rank seems to run together: as many as run while others wait.

    Fewer may have run for want of KV tokens, so where all run that may, more are tried. A group's
    router says it.

    Examples
    --------
    >>> busy = EngineState(num_running=72, num_waiting=3, kv_usage=0.5, kv_tokens=1000)
    >>> _learned_slots(256, busy)
    72
    """
    if state.num_slots > 0:
        return state.num_slots
    if state.num_waiting > 0 and state.num_running > 0:
        return state.num_running
    if state.num_running >= num_slots:
        return state.num_running + max(1, state.num_running // SLOTS_TRIED)
    return num_slots
