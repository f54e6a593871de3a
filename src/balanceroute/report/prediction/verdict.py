"""What better prediction would buy on this trace, in a sentence for each policy."""

from __future__ import annotations

from collections.abc import Mapping

from balanceroute.metrics.compare import Spread
from balanceroute.report.prediction.contenders import BEST, DEFAULT
from balanceroute.report.prediction.gains import LOOKING_AHEAD, gains_of, show_gain, with_classifier
from balanceroute.report.prediction.result import PredictionResult

MIN_GAIN = 0.001  # of η: a thousandth of the ranks' time; less is called nothing


def judge(result: PredictionResult) -> tuple[str, ...]:
    """Say of each policy what knowing all lengths gains it, and what the classifiers reach of that.

    A change counts if it is at least 0.001 of η and exceeds its standard deviation over the seeds.
    """
    gains = gains_of(result.simulation)
    return tuple(_sentence(policy, result, gains) for policy in LOOKING_AHEAD)


def _sentence(policy: str, result: PredictionResult, gains: Mapping[str, Spread]) -> str:
    best = gains[with_classifier(policy, BEST)]
    mean, spread = abs(best.mean or 0.0), best.std or 0.0
    known = f"{policy}: knowing all lengths changes η by {show_gain(best)}"
    if max(mean, spread) < MIN_GAIN:
        return f"{known}; prediction does not matter here."
    if mean <= spread:
        return f"{known}, too uncertain to judge; more --repeats or --slots tell more."
    if (best.mean or 0.0) < 0.0:
        return f"{known}; looking ahead does harm here, whoever predicts."
    reached = ", ".join(
        f"{result.name_of(name)} by {show_gain(gains[with_classifier(policy, name)])}"
        for name in dict.fromkeys((result.classifier, DEFAULT))
        if name != BEST
    )
    return f"{known}; {reached}."
