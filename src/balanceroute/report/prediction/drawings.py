"""The drawings of an examination, as Plotly takes them."""

from __future__ import annotations

import math

from balanceroute.metrics import compare
from balanceroute.predict.evaluate import NUM_BINS
from balanceroute.report.figures import Figure, Trace, numbers
from balanceroute.report.prediction.gains import split_label
from balanceroute.report.prediction.result import PredictionResult
from balanceroute.report.prediction.table import tenths

PLAINEST_COLOUR, CANDIDATE_COLOUR = "$policy1", "$policy0"
SMALLEST_PX, LARGEST_PX = 4.0, 24.0
SYMBOLS = ("circle", "square", "diamond", "cross")


def draw_calibration(result: PredictionResult) -> Figure:
    """Draw how many ended against how many were predicted to, by tenths of p."""
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "perfectly calibrated",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": "$quiet", "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        }
    ]
    traces += [_calibration_line(result, place) for place in range(len(result.shown))]
    axis: Trace = {"range": [-0.02, 1.02], "dtick": 0.2}
    layout: Trace = {
        "height": 380,
        "xaxis": {"title": {"text": "predicted: mean p"}, **axis},
        "yaxis": {"title": {"text": "observed: share that ended"}, **axis},
    }
    return Figure(
        key="calibration",
        title="Calibration",
        summary="Share of samples that ended against the mean probability predicted for them, by "
        "tenths of it; on the diagonal they are equal. The table below has the numbers.",
        traces=traces,
        layout=layout,
    )


def draw_samples(result: PredictionResult) -> Figure:
    """Draw how often each tenth of p was predicted: far from the middle is decided."""
    traces: list[Trace] = []
    for place, each in enumerate(result.shown):
        counts = [0] * NUM_BINS
        for part in each.bins:
            counts[part.number] = part.num_samples
        traces.append(
            {
                "type": "bar",
                "name": result.name_of(each.classifier),
                "x": tenths(),
                "y": [count / result.num_samples for count in counts],
                "marker": {"color": _colour(result, place)},
                "hovertemplate": "p in %{x}: %{y:.1%}",
            }
        )
    layout: Trace = {
        "barmode": "group",
        "height": 380,
        "xaxis": {"title": {"text": "p"}, "type": "category"},
        "yaxis": {"title": {"text": "share of samples"}, "tickformat": ".0%"},
    }
    return Figure(
        key="samples",
        title="How often each probability was predicted",
        summary="Share of samples by tenths of the predicted probability; the table has the "
        "numbers.",
        traces=traces,
        layout=layout,
    )


def draw_efficiency(result: PredictionResult) -> Figure:
    """Draw η of each policy by classifier, with the deviation over the seeds."""
    runs = result.simulation.runs
    by_policy: dict[str, list[tuple[str, float, float]]] = {}
    for figures in compare(((run.policy, run.metrics) for run in runs), ("efficiency",)):
        policy, classifier = split_label(figures.policy)
        name = "none" if classifier is None else result.name_of(classifier)
        spread = figures.spreads["efficiency"]
        by_policy.setdefault(policy, []).append((name, spread.mean or 0.0, spread.std or 0.0))
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": policy,
            "x": [name for name, _, _ in points],
            "y": numbers([mean for _, mean, _ in points]),
            "error_y": {"type": "data", "array": numbers([std for _, _, std in points])},
            "line": {"color": f"$policy{place}", "width": 1, "dash": "dot"},
            "marker": {"symbol": SYMBOLS[place], "size": 9},
        }
        for place, (policy, points) in enumerate(by_policy.items())
    ]
    layout: Trace = {
        "height": 340,
        "xaxis": {"title": {"text": "classifier"}, "type": "category"},
        "yaxis": {"title": {"text": "efficiency η"}},
    }
    return Figure(
        key="efficiency",
        title="Efficiency by classifier",
        summary="Efficiency of each policy by the classifier that it asks; the table has the "
        "numbers.",
        traces=traces,
        layout=layout,
    )


def _calibration_line(result: PredictionResult, place: int) -> Trace:
    """Return the curve of one classifier that is shown."""
    each = result.shown[place]
    shares = [part.num_samples / result.num_samples for part in each.bins]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": result.name_of(each.classifier),
        "x": numbers([part.mean_prob for part in each.bins]),
        "y": numbers([part.end_ratio for part in each.bins]),
        "text": [f"{part.num_samples:,} samples" for part in each.bins],
        "hovertemplate": "predicted %{x:.3f}, observed %{y:.3f}, %{text}",
        "line": {"color": _colour(result, place), "width": 1.8},
        "marker": {"symbol": SYMBOLS[place], "size": [_size(share) for share in shares]},
    }


def _size(share: float) -> float:
    """Return a marker's diameter in pixels: its area says how many samples it stands for."""
    return round(SMALLEST_PX + (LARGEST_PX - SMALLEST_PX) * math.sqrt(share), 1)


def _colour(result: PredictionResult, place: int) -> str:
    is_asked = result.shown[place].classifier == result.classifier
    return CANDIDATE_COLOUR if is_asked else PLAINEST_COLOUR
