"""One cell of the study of waves: a trace, a group, a policy, some seeds, and the figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from balanceroute.metrics import Metrics
from balanceroute.report.experiment import Experiment
from balanceroute.report.result import SimulationResult
from balanceroute.sim.config import Arrivals, SimConfig, StepTime
from balanceroute.workload import load
from bench.machine import TRACES, spread

NUM_RANKS, NUM_SLOTS, POOL_SIZE = 16, 72, 256
NUM_SEEDS = 3
TRACE_NAMES = (
    "azure2023_conv",
    "servegen_m-large_day0_0400",
    "servegen_deepseek-r1_00-12h",
    "azure2023_code",
    "mooncake_conversation",
)
NUM_REQUESTS = {"servegen_deepseek-r1_00-12h": 12_000}  # of 2,000 output tokens each
DEFAULT_NUM_REQUESTS = 20_000
VLLM, WAVE = "vllm", "br_wave"

Figures = dict[str, dict[str, float]]  # name -> least, median, largest of the seeds
Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What a step costs; the names are those of `StepCosts`, the text that of ``--step-time``."""

    step_time: str
    prefill_s_per_token: float
    prefill_shared: float = 0.0
    mixed_step_s: float = 0.0


PAPER = Constants(step_time="paper", prefill_s_per_token=2e-5)
H200_LIKE = Constants(step_time="0.02,2.2e-8,1900", prefill_s_per_token=1e-5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is simulated, but for the policy.

    Attributes
    ----------
    source : str
        Name of a trace in `TRACES`, or a path.
    config : SimConfig
        The group.
    rate_per_s : float or None
        Of Poisson arrivals.
    rate_scale : float
        Factor on the times of a trace.
    num_requests : int or None
        None: as many as suit the trace.
    num_seeds : int
        Seeds from 0 on.
    """

    source: str
    config: SimConfig
    rate_per_s: float | None = None
    rate_scale: float = 1.0
    num_requests: int | None = None
    num_seeds: int = NUM_SEEDS

    def run(self, policy: str) -> Figures:
        """Return the figures of a policy."""
        return figures_of(self.result(policy))

    def result(self, policy: str) -> SimulationResult:
        """Return the whole result of a policy."""
        path = self.source if "/" in self.source else str(TRACES / f"{self.source}.csv.gz")
        experiment = Experiment(
            source=path,
            config=self.config,
            policies=(policy,),
            num_requests=self.num_requests or num_requests_of(self.source),
            num_repeats=self.num_seeds,
            rate_per_s=self.rate_per_s,
            rate_scale=self.rate_scale,
        )
        return experiment.run()[0]

    def but(self, *, num_seeds: int | None = None, **changes: Any) -> Cell:
        """Return the cell with another group, or other seeds."""
        config = replace(self.config, **changes)
        return replace(self, config=config, num_seeds=num_seeds or self.num_seeds)

    def requests_per_s(self) -> float:
        """Return what `vllm` serves of a saturated cell."""
        result = self.but(num_seeds=1).result(VLLM)
        tokens_per_s = result.runs[0].metrics.throughput_tok_per_s
        assert tokens_per_s is not None
        return tokens_per_s / result.workload.output_tokens_mean

    def poisson(self, requests_per_s: float) -> Cell:
        """Return the cell with requests that come at random."""
        unsaturated = self.but(arrivals="poisson", pool_size=None)
        return replace(unsaturated, rate_per_s=requests_per_s)

    def as_in_trace(self, requests_per_s: float) -> Cell:
        """Return the cell with the trace's own times, scaled to a mean rate."""
        unsaturated = self.but(arrivals="trace", pool_size=None, num_seeds=1)
        workload = load(str(TRACES / f"{self.source}.csv.gz"))
        wanted = self.num_requests or num_requests_of(self.source)
        num_requests = min(wanted, workload.num_requests)
        assert workload.arrival_s is not None
        own_per_s = (num_requests - 1) / float(workload.arrival_s[num_requests - 1])
        return replace(
            unsaturated, num_requests=num_requests, rate_scale=requests_per_s / own_per_s
        )


def saturated_cell(source: str, constants: Constants, budget_tokens: int) -> Cell:
    """Return the cell of a trace whose requests never run out, three seeds."""
    return Cell(source=source, config=group(constants, budget_tokens, "saturated"))


def group(constants: Constants, budget_tokens: int, arrivals: Arrivals) -> SimConfig:
    """Return the group that the study is about."""
    return SimConfig(
        step_time=StepTime.parse(constants.step_time, num_slots=NUM_SLOTS),
        num_ranks=NUM_RANKS,
        num_slots=NUM_SLOTS,
        pool_size=POOL_SIZE if arrivals == "saturated" else None,
        prefill_budget_tokens=budget_tokens,
        prefill_s_per_token=constants.prefill_s_per_token,
        prefill_shared=constants.prefill_shared,
        mixed_step_s=constants.mixed_step_s,
        arrivals=arrivals,
    )


def num_requests_of(source: str) -> int:
    """Return how many requests to simulate."""
    return NUM_REQUESTS.get(source, DEFAULT_NUM_REQUESTS)


def figures_of(result: SimulationResult) -> Figures:
    """Return the figures that the study is about, over the seeds."""
    metrics = [run.metrics for run in result.runs]
    readers: dict[str, Callable[[Metrics], float | None]] = {
        "tokens_per_s": lambda m: m.throughput_tok_per_s,
        "barrier_idle_ratio": lambda m: 1.0 - m.efficiency,
        "longest_wait_ratio": lambda m: m.longest_wait_ratio,
        "tpot_mean_s": lambda m: m.tpot_s.mean,
        "ttft_p50_s": lambda m: m.ttft_s.p50,
        "ttft_p99_s": lambda m: m.ttft_s.p99,
        "preemptions": lambda m: float(m.preemptions),
        "plan_p99_us": lambda m: m.decision_us.p99,
    }
    figures: Figures = {}
    for name, read in readers.items():
        values = [value for m in metrics if (value := read(m)) is not None]
        if values:
            figures[name] = spread(values)
    return figures


def median(figures: Figures, name: str) -> float:
    """Return the median over the seeds."""
    return figures[name]["median"]


def row(what: dict[str, object], figures: Figures) -> Row:
    """Return a line of the document, and say it: the study takes a while."""
    told = " ".join(f"{name}={values['median']:.5g}" for name, values in figures.items())
    sys.stderr.write(" ".join(f"{value}" for value in what.values()) + f" {told}\n")
    return {**what, **figures}
