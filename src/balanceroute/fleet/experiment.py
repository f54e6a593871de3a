"""Several fronts on one workload: what `balanceroute fleet` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.fleet.config import FleetConfig
from balanceroute.fleet.figures import FleetFigures, FleetResult
from balanceroute.fleet.run import simulate_fleet
from balanceroute.policies.registry import make_policy
from balanceroute.report.experiment import Experiment
from balanceroute.sim.warm import warm
from balanceroute.types import Workload

#: What is being done, and how much of it is done, in [0, 1].
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetExperiment:
    """Fronts to compare on one source of requests.

    Attributes
    ----------
    source, format_name, num_requests, rate_scale, rate_per_s, seed
        As for `Experiment`, for all groups together.
    config : FleetConfig
        The groups.
    fronts : tuple of str
        Policies that choose the group.
    num_processes : int
        That simulate.
    """

    source: str
    config: FleetConfig
    fronts: tuple[str, ...]
    format_name: str | None = None
    num_requests: int | None = None
    rate_scale: float = 1.0
    rate_per_s: float | None = None
    seed: int = 0
    num_processes: int = 1

    def run(self, on_progress: Progress) -> FleetResult:
        """Simulate every front."""
        if len(set(self.fronts)) < len(self.fronts):
            raise ConfigError(f"a front is named twice: {', '.join(self.fronts)}")
        for spec in self.fronts:
            make_policy(spec, rng=np.random.default_rng(0))
        workload = self._requests()
        warm(self.config.policy, self.config.group)
        figures: list[FleetFigures] = []
        for spec in self.fronts:
            self._warm_front(spec)
            figures.append(
                simulate_fleet(
                    workload,
                    self.config,
                    spec,
                    seed=self.seed,
                    num_processes=self.num_processes,
                    on_progress=partial(on_progress, spec),
                )
            )
        config = self.config
        return FleetResult(
            workload=workload.name,
            num_requests=workload.num_requests,
            groups=config.num_groups,
            ranks=int(config.ranks_of.sum()),
            slots=config.group.num_slots,
            policy=config.policy,
            arrivals=config.arrivals,
            runs=tuple(figures),
        )

    def _requests(self) -> Workload:
        """Return the requests that all groups together serve."""
        config = self.config
        whole = replace(
            config.group,
            num_ranks=int(config.ranks_of.sum()),
            arrivals=config.arrivals,
            pool_size=config.pool_size,
        )
        experiment = Experiment(
            source=self.source,
            config=whole,
            policies=(config.policy,),
            format_name=self.format_name,
            num_requests=self.num_requests,
            rate_scale=self.rate_scale,
            rate_per_s=self.rate_per_s,
            seed=self.seed,
        )
        source, workload = experiment.requests(self.seed)
        num_known = workload.num_requests if source is None else source.num_requests
        if config.cache_tokens > 0 and workload.num_requests > num_known:
            raise ConfigError(
                f"{workload.num_requests} requests would be drawn from {num_known}, and each that "
                "comes twice would be cached; with --cache-tokens take no more --requests than "
                "there are, and --arrivals trace or poisson"
            )
        return workload

    def _warm_front(self, spec: str) -> None:
        """Compile what a front calls, on two requests and two groups of one rank."""
        config = self.config
        group = replace(config.group, num_slots=2, kv_tokens=None, prefix_cache=False)
        group = replace(group, prefill_budget_tokens=None, prefill_s_per_token=0.0)
        toy = FleetConfig(
            group=group,
            num_groups=2,
            least_ranks=1,
            most_ranks=1,
            policy="least_tokens",
            arrivals="trace",
        )
        lengths = np.array([2, 2], np.int32)
        workload = Workload(
            name="warm", prompt_tokens=lengths, output_tokens=lengths, arrival_s=np.zeros(2)
        )
        simulate_fleet(workload, toy, spec)
