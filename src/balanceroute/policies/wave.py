"""br_wave: hold requests until they can prefill on all ranks at once, by a rule with no tuning."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.policies.auto import BrAuto
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.costs import CostSource
from balanceroute.policies.pace import WaitPace
from balanceroute.policies.waves import Waves, WaveSettings, applies_to


class BrWave:
    """Release requests in waves where ranks prefill and decode in the same steps.

    One rank's prefill makes all ranks of a barrier group wait. So a request is held until the
    time that those held have waited together is what their release costs those that run; then they
    go to all ranks at once. What raises no rank above the busiest one goes without waiting. See
    docs/policies/br_wave.md for the rule. On ranks that do not prefill it plans as `BrAuto` does.

    Under immediate binding nothing can be held: each request goes to the rank that will have the
    least work, its pending prefill counted.

    Parameters
    ----------
    strength : float or None
        Of waiting for a release against waiting caused by it, above 0. 1 makes the sum of both
        least, less favours the time to the first token. None: 1 while slots are short, else the
        square of the share of their time that ranks prefill.
    hold_s, hold_prefills : float
        A request is held for no longer than ``hold_s`` plus ``hold_prefills`` times its prefill;
        the second part shrinks where so few prefill that company is not to be expected.
    ttft_target_s : float or None
        Hold as strongly as this time to the first token allows, where requests would reach it if
        they were not held.
    tpot_target_s : float or None
        Hold as strongly as is needed for this time per token.
    patience : float
        Mean waits after which the oldest request goes first while slots are short; above 1.
    age_weight, exchange_passes
        As for `BrAuto`.
    kv_reserve : float
        Share of each rank's KV tokens that is left to the growth of what runs, in [0, 1).
    latency_steps : int
        Steps that end before a plan reaches the ranks, at least 0.
    affinity : bool
        Count the prompt tokens that a preferred rank saves, while it stays below the busiest one.
    costs : str
        ``auto``: what the group says, else learned from its steps. ``learned``: always that.
        Or figures, ``C:t_l:kappa0:t_p:budget[:sigma[:m]]`` (`StepCosts`).
    rng, output_tokens
        Not used.
    """

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(
        self,
        *,
        strength: float | None = None,
        hold_s: float = 0.3,
        hold_prefills: float = 3.0,
        ttft_target_s: float | None = None,
        tpot_target_s: float | None = None,
        patience: float = 1.5,
        age_weight: float = 0.5,
        exchange_passes: int = 2,
        kv_reserve: float = 0.1,
        latency_steps: int = 0,
        affinity: bool = True,
        costs: str = "auto",
        rng: np.random.Generator | None = None,
        output_tokens: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        settings = WaveSettings(
            strength=strength,
            hold_s=hold_s,
            hold_prefills=hold_prefills,
            ttft_target_s=ttft_target_s,
            tpot_target_s=tpot_target_s,
            patience=patience,
            age_weight=age_weight,
            exchange_passes=exchange_passes,
            kv_reserve=kv_reserve,
            latency_steps=latency_steps,
            affinity=affinity,
        )
        self._costs = CostSource(costs)
        self._waves = Waves(settings, WaitPace())
        self.times_releases = False
        self._without_prefill = BrAuto(
            waves=False,
            kv_reserve=kv_reserve,
            affinity=affinity,
            rng=rng,
            output_tokens=output_tokens,
        )

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Choose ranks for the requests that go now."""
        costs = self._costs.of(view)
        self.times_releases = applies_to(costs)
        if not applies_to(costs):
            return self._without_prefill.plan(view, pool)
        return Plan(*self._waves.plan(view, pool, costs))
