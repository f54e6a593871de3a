"""From looks at a group to what its barrier costs, and what could be had."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.doctor.samples import Samples
from balanceroute.errors import ConfigError
from balanceroute.metrics import summarize
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.run import simulate
from balanceroute.types import Workload

CLEARLY_BETTER = 0.8  # squares that one model leaves over those of the other
ALIKE_S = 1e-9  # what all steps together may leave and still be the same: loads decide nothing
LEAST_GAIN_RATIO = 0.02  # what is worth a word
FEWEST_INTERVALS = 5
MAX_ERROR_RATIO = 0.35  # of a cost per token, to be believed
REQUESTS_PER_SLOT, MOST_REQUESTS = 12, 40_000

Barrier = Literal["yes", "no", "unknown"]
Verdict = Literal["gain", "no_gain", "unknown"]


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; None stands for what cannot be said.

    Attributes
    ----------
    verdict : {"gain", "no_gain", "unknown"}
        Whether BalanceRoute would help.
    summary : str
        The same in words.
    num_ranks : int
        G.
    has_barrier : {"yes", "no", "unknown"}
        Whether the ranks step together.
    mean_load_tokens, mean_envelope_tokens : float or None
        Averages over the looks.
    constant_s, s_per_token : float or None
        Of a step, fitted or as stated.
    idle_ratio : float or None
        Part of the time that ranks wait at the barrier.
    lost_tokens_per_s : float or None
        Output tokens that level ranks would give besides.
    gain_ratio : float or None
        More output tokens per second with br_auto.
    """

    verdict: Verdict
    summary: str
    num_ranks: int
    has_barrier: Barrier
    mean_load_tokens: float | None = None
    mean_envelope_tokens: float | None = None
    constant_s: float | None = None
    s_per_token: float | None = None
    idle_ratio: float | None = None
    lost_tokens_per_s: float | None = None
    gain_ratio: float | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A least-squares line, and what it leaves."""

    constant: float
    slope: float
    slope_error: float
    squares: float

    @property
    def is_clear(self) -> bool:
        """Tell whether the slope is there."""
        return self.slope > 0.0 and self.slope_error <= MAX_ERROR_RATIO * self.slope


def line_through(x: NDArray[np.float64], y: NDArray[np.float64]) -> Line:
    """Return the line that fits best.

    Examples
    --------
    >>> line = line_through(np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0, 9.0]))
    >>> round(line.constant, 9), round(line.slope, 9)
    (1.0, 2.0)
    """
    dx = x - x.mean()
    spread = float(dx @ dx)
    slope = float(dx @ y) / spread if spread > 0.0 else 0.0
    constant = float(y.mean() - slope * x.mean())
    rest = y - constant - slope * x
    squares = float(rest @ rest)
    error = np.sqrt(squares / max(1, len(x) - 2) / spread) if spread > 0.0 else np.inf
    return Line(constant=constant, slope=slope, slope_error=float(error), squares=squares)


def diagnose(
    samples: Samples,
    *,
    has_barrier: bool | None = None,
    step_time: StepTime | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Say what the barrier costs a group, and what BalanceRoute would gain.

    Parameters
    ----------
    samples : Samples
        Looks at the group while it served.
    has_barrier : bool or None
        Whether ranks step together; None: as the times between tokens tell.
    step_time : StepTime or None
        What a step costs; None: as the same times tell.
    seed : int
        Of the simulation that the gain comes from.

    Raises
    ------
    ConfigError
        If nothing ran meanwhile.
    """
    gaps, loads, envelopes = _intervals(samples)
    num_ranks = loads.shape[1]
    means = {
        "num_ranks": num_ranks,
        "mean_load_tokens": float(loads.mean()),
        "mean_envelope_tokens": float(envelopes.mean()),
    }
    if num_ranks < 2:
        text = "One rank waits for nobody: there is nothing to balance."
        return Diagnosis(verdict="no_gain", summary=text, has_barrier="no", **means)
    is_known = np.isfinite(gaps)
    together = line_through(
        np.broadcast_to(envelopes[:, None], gaps.shape)[is_known], gaps[is_known]
    )
    alone = line_through(loads[is_known], gaps[is_known])
    barrier = _barrier(has_barrier, together, alone)
    if barrier == "no":
        text = (
            "No barrier, expect no gain: each rank steps at the pace of its own load. Balance is "
            "worth what KV pressure and queues cost, which any least-loaded rule sees to."
        )
        return Diagnosis(verdict="no_gain", summary=text, has_barrier=barrier, **means)
    costs = _costs(step_time, together)
    if costs is None:
        return _unclear(loads, envelopes, barrier, means)
    constant_s, s_per_token = costs
    steps_s = constant_s + s_per_token * envelopes
    level_s = constant_s + s_per_token * loads.mean(axis=1)
    efficiency = float(level_s.sum() / steps_s.sum())
    idle = 1.0 - efficiency
    elapsed_s = float(samples.time_s[-1] - samples.time_s[0])
    tokens_per_s = (
        float((samples.generated_tokens[-1] - samples.generated_tokens[0]).sum()) / elapsed_s
    )
    reachable = _reachable(samples, constant_s, s_per_token, seed)
    filled = _filled_ratio(samples)
    filled_s = float((constant_s + s_per_token * filled * loads.mean(axis=1)).sum())
    gain = filled * float(steps_s.sum()) * reachable / filled_s - 1.0
    found = means | {
        "constant_s": constant_s,
        "s_per_token": s_per_token,
        "idle_ratio": idle,
        "lost_tokens_per_s": tokens_per_s * (1.0 / efficiency - 1.0),
        "gain_ratio": gain,
    }
    costs_text = f"Ranks wait {idle:.1%} of the time at the barrier"
    if barrier == "unknown":
        costs_text += ", if there is one: their loads are too alike to tell"
    if gain < LEAST_GAIN_RATIO:
        text = f"{costs_text}. Imbalance is not your problem: br_auto would gain {gain:+.1%}."
        return Diagnosis(verdict="no_gain", summary=text, has_barrier=barrier, **found)
    text = (
        f"{costs_text}, which costs {found['lost_tokens_per_s']:,.0f} tokens/s. "
        f"br_auto would gain {gain:+.1%}, as far as lengths of the observed means tell."
    )
    verdict: Verdict = "gain" if barrier == "yes" else "unknown"
    return Diagnosis(verdict=verdict, summary=text, has_barrier=barrier, **found)


def _intervals(
    samples: Samples,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return seconds per token, loads (T, G) and envelopes (T,) of the intervals with steps."""
    num_gaps = np.diff(samples.num_gaps, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.where(num_gaps > 0, np.diff(samples.gap_s, axis=0) / num_gaps, np.nan)
    loads = (samples.load_tokens[1:] + samples.load_tokens[:-1]) / 2.0
    envelopes = (samples.load_tokens[1:].max(axis=1) + samples.load_tokens[:-1].max(axis=1)) / 2.0
    is_busy = np.asarray((num_gaps > 0).any(axis=1), np.bool_)
    if is_busy.sum() < FEWEST_INTERVALS:
        raise ConfigError(
            f"tokens came in {int(is_busy.sum())} of {len(is_busy)} intervals, which says nothing; "
            f"at least {FEWEST_INTERVALS} are needed: look while the group serves, or for longer "
            "(--seconds)"
        )
    return gaps[is_busy], loads[is_busy], envelopes[is_busy]


def _barrier(stated: bool | None, together: Line, alone: Line) -> Barrier:
    if stated is not None:
        return "yes" if stated else "no"
    if max(together.squares, alone.squares) <= ALIKE_S**2:
        return "unknown"
    if together.squares < CLEARLY_BETTER * alone.squares:
        return "yes"
    return "no" if alone.squares < CLEARLY_BETTER * together.squares else "unknown"


def _costs(step_time: StepTime | None, together: Line) -> tuple[float, float] | None:
    if step_time is not None:
        return step_time.constant_s, step_time.s_per_token
    if not together.is_clear or together.constant < 0.0:
        return None
    return together.constant, together.slope


def _unclear(
    loads: NDArray[np.float64],
    envelopes: NDArray[np.float64],
    barrier: Barrier,
    means: dict[str, float],
) -> Diagnosis:
    most = 1.0 - float((loads.mean(axis=1) / np.maximum(envelopes, 1.0)).mean())
    if most < LEAST_GAIN_RATIO:
        text = f"Loads are level: ranks wait at most {most:.1%} of the time. Expect no gain."
        return Diagnosis(verdict="no_gain", summary=text, has_barrier=barrier, **means)  # type: ignore[arg-type]
    text = (
        f"What a token costs cannot be told from these steps; ranks wait at most {most:.1%} of the "
        "time. Look for longer (--seconds), or state --step-time."
    )
    return Diagnosis(verdict="unknown", summary=text, has_barrier=barrier, **means)  # type: ignore[arg-type]


def _filled_ratio(samples: Samples) -> float:
    """Return how many more requests would run if none waited on one rank for another's free slot.

    A rank is taken to have as many slots as have been seen to run on any.
    """
    slots = samples.num_running.max() * samples.num_running.shape[1]
    running = samples.num_running.sum(axis=1)
    could_run = np.minimum(slots, running + samples.num_waiting.sum(axis=1))
    return float(could_run.sum() / running.sum())


def _reachable(samples: Samples, constant_s: float, s_per_token: float, seed: int) -> float:
    """Return the efficiency of br_auto on requests of the observed mean lengths.

    Lengths are geometric with these means: engines tell no more of them.
    """
    num_ended = float((samples.num_ended[-1] - samples.num_ended[0]).sum())
    outputs = float((samples.generated_tokens[-1] - samples.generated_tokens[0]).sum())
    prompts = float((samples.prompt_tokens[-1] - samples.prompt_tokens[0]).sum())
    per_request = max(1.0, num_ended)
    num_ranks = samples.load_tokens.shape[1]
    num_slots = max(1, round(float(samples.num_running.mean())))
    rng, count = np.random.default_rng(seed), num_ranks * num_slots * REQUESTS_PER_SLOT
    count = min(count, MOST_REQUESTS)
    workload = Workload(
        name="observed means",
        prompt_tokens=rng.geometric(1.0 / max(1.0, prompts / per_request), count).astype(np.int32),
        output_tokens=rng.geometric(1.0 / max(1.0, outputs / per_request), count).astype(np.int32),
    )
    step_time = StepTime(name="custom", constant_s=constant_s, s_per_token=s_per_token)
    config = SimConfig(step_time=step_time, num_ranks=num_ranks, num_slots=num_slots)
    policy = make_policy("br_auto", rng=np.random.default_rng(seed))
    return summarize(simulate(workload, config, policy, seed=seed)).efficiency
