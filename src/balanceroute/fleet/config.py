"""What the simulation of many groups is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.kernels.ledger import Int64Array
from balanceroute.sim.config import Arrivals, SimConfig

MAX_SLOTS = 20_000_000  # of all groups; about two gigabytes of accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """Groups, each with a barrier and a brain of its own, behind one front.

    Attributes
    ----------
    group : SimConfig
        Of each group, but for its ranks; ``arrivals`` must be ``"trace"``, since the front sends.
    num_groups : int
        K, at least 1.
    least_ranks, most_ranks : int
        Ranks of a group, at least 1: the groups have from the one number to the other, in turn.
    policy : str
        Chooses the rank, a fresh one in each group.
    arrivals : {"saturated", "trace", "poisson"}
        How requests come to the front: so many that each group has `pool_size` waiting, or at the
        workload's own times.
    pool_size : int or None
        Saturated: requests that wait for each group; None for 4 times its ranks.
    report_s : float
        How often groups tell the front their state, seconds, above 0. In between it knows what it
        has sent.
    warmup_s : float or None
        Seconds that the figures leave out; None: when saturated, until as many requests have
        been admitted as there are slots, else none.
    cache_tokens : int
        Prompt tokens that a group's prefix cache holds for each of its ranks; 0: there is none.
    """

    group: SimConfig
    num_groups: int
    least_ranks: int = 16
    most_ranks: int = 16
    policy: str = "br_auto"
    arrivals: Arrivals = "saturated"
    pool_size: int | None = None
    report_s: float = 0.1
    warmup_s: float | None = None
    cache_tokens: int = 0

    def __post_init__(self) -> None:
        if self.num_groups < 1:
            raise ConfigError(f"--groups must be at least 1, got {self.num_groups}")
        if not 1 <= self.least_ranks <= self.most_ranks:
            raise ConfigError(
                "--ranks must be a number of at least 1, or a range as 16-64, "
                f"got {self.least_ranks}-{self.most_ranks}"
            )
        if not (math.isfinite(self.report_s) and self.report_s > 0):
            raise ConfigError(f"--report-interval must be above 0 seconds, got {self.report_s}")
        if self.warmup_s is not None and not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise ConfigError(f"--warmup-time must be at least 0 seconds, got {self.warmup_s}")
        if self.pool_size is not None and self.pool_size < 1:
            raise ConfigError(f"--pool must be at least 1, got {self.pool_size}")
        if self.pool_size is not None and not self.is_saturated:
            raise ConfigError("--pool is for --arrivals saturated; leave it out")
        if self.cache_tokens < 0:
            raise ConfigError(f"--cache-tokens must be at least 0, got {self.cache_tokens}")
        if (self.cache_tokens > 0) != self.group.prefix_cache:
            raise ConfigError("cache_tokens and the group's prefix_cache go together")
        num_slots = int(self.ranks_of.sum()) * self.group.num_slots
        if num_slots > MAX_SLOTS:
            raise ConfigError(
                f"--groups times --ranks times --slots must be at most {MAX_SLOTS}, got {num_slots}"
            )

    @property
    def is_saturated(self) -> bool:
        """Tell whether requests never run out."""
        return self.arrivals == "saturated"

    @property
    def starts_stationary(self) -> bool:
        """Tell whether the slots are filled before the first step."""
        return (self.group.start or ("stationary" if self.is_saturated else "empty")) != "empty"

    @property
    def ranks_of(self) -> Int64Array:
        """Return the ranks of each group, shape (K,)."""
        span = self.most_ranks - self.least_ranks + 1
        return self.least_ranks + np.arange(self.num_groups, dtype=np.int64) % span

    @property
    def pools(self) -> Int64Array:
        """Return how many requests wait for each group when saturated, shape (K,)."""
        pools = 4 * self.ranks_of
        return pools if self.pool_size is None else np.full_like(pools, self.pool_size)

    @property
    def group_alone(self) -> SimConfig:
        """Return what requests are held to: the front says what is cached of them, later."""
        return replace(self.group, prefix_cache=False)

    def config_of(self, group: int) -> SimConfig:
        """Return what one group is told."""
        return replace(self.group, num_ranks=int(self.ranks_of[group]))
