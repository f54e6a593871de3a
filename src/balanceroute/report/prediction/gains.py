"""What the policies gain from the classifiers, seed by seed."""

from __future__ import annotations

from balanceroute.metrics.compare import Spread, spread_of
from balanceroute.report.result import SimulationResult

#: Policies that ask a classifier, and the same without one.
LOOKING_AHEAD = {"br_auto": "br_auto,look_ahead=false", "br_h": "br_h,horizon=0"}


def with_classifier(policy: str, classifier: str) -> str:
    """Return a policy's specification with a classifier."""
    return f"{policy},classifier={classifier}"


def split_label(label: str) -> tuple[str, str | None]:
    """Return the policy and the classifier of a run, None without one.

    Examples
    --------
    >>> split_label("br_auto,classifier=survival:by=global"), split_label("br_h,horizon=0")
    (('br_auto', 'survival:by=global'), ('br_h', None))
    """
    policy, comma, classifier = label.partition(",classifier=")
    return (policy, classifier) if comma else (label.partition(",")[0], None)


def gains_of(simulation: SimulationResult) -> dict[str, Spread]:
    """Return by how much η rises over the same policy without a classifier, paired by seed.

    Returns
    -------
    dict of str to Spread
        Mean and sample deviation over the seeds, by label of the policy; higher is better.
    """
    efficiency: dict[str, dict[int, float]] = {}
    for run in simulation.runs:
        efficiency.setdefault(run.policy, {})[run.seed] = run.metrics.efficiency
    gains = {}
    for label, by_seed in efficiency.items():
        policy, classifier = split_label(label)
        if classifier is not None:
            without = efficiency[LOOKING_AHEAD[policy]]
            gains[label] = spread_of(value - without[seed] for seed, value in by_seed.items())
    return gains


def show_gain(gain: Spread) -> str:
    """Write a gain of η, with its deviation where there are several seeds.

    Examples
    --------
    >>> show_gain(Spread(mean=0.0125, std=0.005)), show_gain(Spread(mean=-0.001, std=None))
    ('+0.0125 ± 0.0050', '-0.0010')
    """
    return f"{gain.mean:+.4f}" + ("" if gain.std is None else f" ± {gain.std:.4f}")
