"""One plain answer: what another policy would gain over the first one, or why nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from balanceroute.metrics import Metrics, figure
from balanceroute.report.result import GroupInfo, SimulationResult

# A gain below this is called nothing: calibration errors of the step time are larger.
MIN_GAIN_RATIO = 0.01
# A single run says nothing of the spread; below this gain the reader is told.
SMALL_GAIN_RATIO = 0.05
# Waits that are called out: in mean waits, and against the baseline's longest wait.
LONG_WAIT_RATIO = 10.0
LONG_WAIT_FACTOR = 2.0
# A rise of TTFT p99 that is called out.
TTFT_RISE_RATIO = 0.1
# Loads that are called even, and slot usage that is called low.
EVEN_BALANCE_RATIO = 0.98
LOW_SLOT_USAGE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the comparison comes to.

    Attributes
    ----------
    kind : str
        ``"gain"``, ``"no_gain"``, or ``"alone"`` where there was nothing to compare.
    text : str
        A few sentences for the operator.
    """

    kind: Literal["gain", "no_gain", "alone"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gain:
    """Relative gain of a policy over the baseline in one figure, paired by seed."""

    policy: str
    figure: str
    mean: float
    std: float | None

    @property
    def is_real(self) -> bool:
        """Whether it is worth naming and larger than the spread over repeats."""
        return self.mean >= MIN_GAIN_RATIO and self.mean > (self.std or 0.0)


# Policy to seed to figures; the first policy is the baseline.
_Runs = Mapping[str, Mapping[int, Metrics]]


def judge(result: SimulationResult) -> Verdict:
    """Say what the user would gain by moving from the first policy to the best, or why nothing.

    Among the policies with a real gain in throughput (or, below saturation, in mean TPOT) the best
    is the one with the highest efficiency: one that starves long prompts makes raw throughput look
    good. A gain is real if it is at least 1 % and exceeds the standard deviation over seeds.

    Parameters
    ----------
    result : SimulationResult
        At least one run; runs of the same seed saw the same requests.
    """
    runs: dict[str, dict[int, Metrics]] = {}
    for run in result.runs:
        runs.setdefault(run.policy, {})[run.seed] = run.metrics
    baseline = next(iter(runs))
    if len(runs) == 1:
        return Verdict(kind="alone", text=_alone(baseline, runs, result.group))
    gains = _gains(runs, "throughput_tok_per_s")
    if not _best_real(gains, runs) and result.group.arrivals != "saturated":
        gains += _gains(runs, "tpot_s.mean")
    best = _best_real(gains, runs)
    if best is None:
        return Verdict(kind="no_gain", text=_why_nothing(runs, gains, result.group))
    sentences = [
        _gain_sentence(best, baseline, runs, result.group),
        _ttft_caveat(best.policy, baseline, runs, result.group),
        _wait_caveat(best.policy, baseline, runs),
        _repeat_advice(best),
    ]
    return Verdict(kind="gain", text=" ".join(filter(None, sentences)))


def _gains(runs: _Runs, name: str) -> list[_Gain]:
    """Compare each policy with the first, by the seeds that both have run."""
    baseline, *others = runs
    gains = []
    for policy in others:
        pairs = [
            (figure(runs[baseline][seed], name), figure(metrics, name))
            for seed, metrics in runs[policy].items()
            if seed in runs[baseline]
        ]
        ratios = [_improvement(name, old, new) for old, new in pairs if old and new]
        if ratios:
            std = stdev(ratios) if len(ratios) >= 2 else None
            gains.append(_Gain(policy=policy, figure=name, mean=fmean(ratios), std=std))
    return gains


def _improvement(name: str, old: float, new: float) -> float:
    """Return the relative improvement: more tokens/s, or a lower time."""
    return new / old - 1.0 if name == "throughput_tok_per_s" else 1.0 - new / old


def _best_real(gains: list[_Gain], runs: _Runs) -> _Gain | None:
    """Return the real gain of the most efficient policy."""
    real = [gain for gain in gains if gain.is_real]
    return max(real, key=lambda gain: _mean(runs, gain.policy, "efficiency"), default=None)


def _mean(runs: _Runs, policy: str, name: str) -> float:
    """Average a figure over repeats; 0 where no repeat has it."""
    values = [figure(metrics, name) for metrics in runs[policy].values()]
    return fmean([value for value in values if value is not None] or [0.0])


def _gain_sentence(best: _Gain, baseline: str, runs: _Runs, group: GroupInfo) -> str:
    """Name the gain, the time at the barrier before and after, and the TPOT."""
    spread = "" if best.std is None else f" (±{_share(best.std)} over repeats)"
    old, new = (_mean(runs, policy, best.figure) for policy in (baseline, best.policy))
    tpot_ms = [1e3 * _mean(runs, policy, "tpot_s.mean") for policy in (baseline, best.policy)]
    tpot = "{:.2f} to {:.2f} ms".format(*tpot_ms)
    if best.figure == "throughput_tok_per_s":
        gain = (
            f"give {_share(best.mean)}{spread} more output tokens per second "
            f"({old:,.0f} to {new:,.0f})"
        )
        rest = f", and mean TPOT would go from {tpot}" if all(tpot_ms) else ""
    else:
        gain = f"lower mean TPOT by {_share(best.mean)}{spread}, from {tpot}"
        rest = ", while throughput stays at what the clients ask for"
    waits = ""
    if group.barrier:
        before, after = (
            _share(1.0 - _mean(runs, policy, "efficiency")) for policy in (baseline, best.policy)
        )
        waits = f": ranks would wait at the barrier {after} of their time instead of {before}"
    return f"Moving from {baseline} to {best.policy} would {gain}{waits}{rest}."


def _ttft_caveat(policy: str, baseline: str, runs: _Runs, group: GroupInfo) -> str:
    """Say so if first tokens come later; in a saturated pool TTFT measures only the pool."""
    old, new = (_mean(runs, name, "ttft_s.p99") for name in (baseline, policy))
    if group.arrivals == "saturated" or new <= (1.0 + TTFT_RISE_RATIO) * old:
        return ""
    return f"In return TTFT p99 would rise from {old:.2f} to {new:.2f} s."


def _wait_caveat(policy: str, baseline: str, runs: _Runs) -> str:
    """Say so if the policy lets some requests wait far longer than the baseline does."""
    ratios = [_mean(runs, name, "longest_wait_ratio") for name in (policy, baseline)]
    waits_s = [
        ratio * _mean(runs, name, "wait_s.mean")
        for ratio, name in zip(ratios, (policy, baseline), strict=True)
    ]
    if ratios[0] < LONG_WAIT_RATIO or waits_s[0] < LONG_WAIT_FACTOR * waits_s[1]:
        return ""
    return (
        f"But {policy} passes some requests over: its longest wait is {ratios[0]:.0f} times the "
        f"mean ({waits_s[0]:.1f} s), against {ratios[1]:.1f} times ({waits_s[1]:.1f} s)."
    )


def _repeat_advice(best: _Gain) -> str:
    """Say so if a small gain rests on a single run."""
    if best.std is not None or best.mean >= SMALL_GAIN_RATIO:
        return ""
    return "This is one run each; --repeats 3 would show whether the difference is chance."


def _alone(baseline: str, runs: _Runs, group: GroupInfo) -> str:
    """Say what there would be to gain at most, where only one policy ran."""
    waits = 1.0 - _mean(runs, baseline, "efficiency")
    if not group.barrier or group.ranks == 1:
        return f"Only {baseline} ran, so nothing is compared; add a second --policy."
    return (
        f"Only {baseline} ran: its ranks wait at the barrier {_share(waits)} of their time, so "
        f"perfect balance would give at most {_share(_ceiling(runs, baseline))} more tokens per "
        "second. Add a second --policy to see how much of that it wins."
    )


def _why_nothing(runs: _Runs, gains: list[_Gain], group: GroupInfo) -> str:
    """Give the first reason that explains why no policy has a real gain."""
    baseline = next(iter(runs))
    nothing = f"You would gain nothing by moving away from {baseline}:"
    if group.ranks == 1:
        return f"{nothing} with one rank there is no placement to choose."
    if not group.barrier:
        return (
            f"{nothing} these ranks share no barrier, so none waits for another, and where "
            "requests go only matters for queues and KV pressure, which no policy here improves."
        )
    ceiling = _ceiling(runs, baseline)
    if ceiling < MIN_GAIN_RATIO:
        return (
            f"{nothing} even perfect balance would be worth only {_share(ceiling, 2)} of "
            f"throughput, because {_why_low_ceiling(runs, baseline)}."
        )
    best = max(gains, key=lambda gain: gain.mean, default=None)
    if best is not None and best.mean >= MIN_GAIN_RATIO:
        return (
            f"No policy differs from {baseline} by more than the spread over repeats: the best, "
            f"{best.policy}, by {_share(best.mean)} ± {_share(best.std or 0.0)}. More "
            "--repeats or more --requests would narrow it."
        )
    usage = _mean(runs, baseline, "mean_running_requests") / (group.ranks * group.slots)
    if group.arrivals != "saturated" and usage < LOW_SLOT_USAGE:
        return (
            f"{nothing} the group is far from saturated ({_share(usage)} of its slots are in "
            "use), so it keeps up under any policy. Try a higher --rate-scale to see where they "
            "part."
        )
    return (
        f"{nothing} it does as well as any policy listed, within {_share(MIN_GAIN_RATIO, 0)}. "
        f"Its ranks still wait at the barrier {_share(1.0 - _mean(runs, baseline, 'efficiency'))}"
        " of their time."
    )


def _why_low_ceiling(runs: _Runs, baseline: str) -> str:
    """Say why balance is worth little: the loads are even, or the constant dominates."""
    balance = _mean(runs, baseline, "balance_ratio")
    if balance >= EVEN_BALANCE_RATIO:
        return f"the loads are even already (their mean is {_share(balance)} of the largest)"
    step_s = _mean(runs, baseline, "mean_step_s")
    constant = _mean(runs, baseline, "constant_ratio")
    return (
        f"a step takes {1e3 * step_s:.2f} ms on average, of which {1e3 * constant * step_s:.2f} ms "
        f"({_share(constant)}) is a constant that no placement changes"
    )


def _ceiling(runs: _Runs, policy: str) -> float:
    """Return the throughput that perfect balance would add, relative."""
    return 1.0 / _mean(runs, policy, "efficiency") - 1.0


def _share(ratio: float, decimals: int = 1) -> str:
    """Write a ratio for a reader."""
    return f"{100.0 * ratio:.{decimals}f} %"
