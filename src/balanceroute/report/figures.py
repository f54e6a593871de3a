"""Plotly figures as plain values: numbers from the runs, colours by name (``$envelope``).

The page's script puts the colours of the current theme in place of the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.metrics import PolicyFigures
from balanceroute.report.digest import Cdf, RunDigest

Trace = dict[str, object]

# More lines than this cannot be told apart; quantile bands are drawn instead.
MAX_RANK_LINES = 32
# Policies are told apart by colour and by dash, so that neither is needed alone.
NUM_COLOURS = 6
_DASHES = ("solid", "dash", "dot", "dashdot")
MAX_CIRCLES = 15  # on a line; more would hide it
_DIGITS = 5
_MANY_DECADES = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One drawing of the page.

    Attributes
    ----------
    key : str
        HTML id.
    title : str
        Heading above it.
    summary : str
        What it shows, for those who cannot see it.
    traces, layout :
        As Plotly takes them.
    """

    key: str
    title: str
    summary: str
    traces: list[Trace]
    layout: Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Whose line it is: policies have colours and dashes, what was measured has circles.

    Attributes
    ----------
    name : str
        For the legend.
    index : int
        Place of the policy among those of the page; a measured run has its policy's.
    is_measured : bool
        Whether a server was measured, and not a simulation.
    """

    name: str
    index: int
    is_measured: bool = False


def time_shares(policies: Sequence[PolicyFigures]) -> Figure:
    """Draw where the ranks' time goes: constant, work, waiting at the barrier.

    `policies` hold `constant_ratio` and `efficiency`.
    """
    # Plotly stacks bars upwards from the axis; the first policy is to be on top.
    upwards = tuple(reversed(policies))
    names = [policy.policy for policy in upwards]
    constant = [policy.spreads["constant_ratio"].mean or 0.0 for policy in upwards]
    waits = [1.0 - (policy.spreads["efficiency"].mean or 0.0) for policy in upwards]
    work = [1.0 - c - w for c, w in zip(constant, waits, strict=True)]
    spoken = "; ".join(
        f"{name} waits {wait:.1%}" for name, wait in zip(names[::-1], waits[::-1], strict=True)
    )
    layout: Trace = {
        "barmode": "stack",
        "height": 130 + 34 * len(names),
        "xaxis": {"range": [0, 1], "tickformat": ".0%"},
        "yaxis": {
            "tickvals": names,
            "ticktext": [name.replace(",", ",<br>") for name in names],
        },
        # Shares that do not fit their bar are left out rather than squeezed.
        "uniformtext": {"minsize": 11, "mode": "hide"},
    }
    return Figure(
        key="time",
        title="Where the ranks' time goes",
        summary=f"Shares of the ranks' time: {spoken}.",
        traces=[
            _bars("constant part of a step", names, constant, "$constant"),
            _bars("work", names, work, "$work"),
            _bars("waiting at the barrier", names, waits, "$wait"),
        ],
        layout=layout,
    )


def rank_loads(key: str, name: str, run: RunDigest, *, max_tokens: float) -> Figure:
    """Draw the load of each rank over time, or bands of quantiles, under envelope and mean.

    `run` has at least one sample.
    """
    loads = run.load_tokens
    time_s = numbers(run.time_s)
    many = loads.shape[1] > MAX_RANK_LINES
    traces = _bands(time_s, loads) if many else _lines(time_s, loads)
    envelope, mean = loads.max(axis=1), loads.mean(axis=1)
    traces += [
        _line(time_s, numbers(envelope), "envelope", "$envelope", width=2.0),
        _line(time_s, numbers(mean), "mean", "$mean", width=2.0, dash="dash"),
    ]
    layout: Trace = {
        "height": 260,
        "showlegend": False,
        "shapes": _uncounted(run),
        "xaxis": {"title": {"text": "time, s"}},
        "yaxis": {"title": {"text": "load, tokens"}, "range": [0, 1.05 * max_tokens]},
    }
    return Figure(
        key=key,
        title=name,
        summary=f"Load of {loads.shape[1]} ranks over time under {name}: the envelope is "
        f"{np.mean(envelope):,.0f} tokens on average, the mean load {np.mean(mean):,.0f}.",
        traces=traces,
        layout=layout,
    )


def envelopes(runs: Sequence[tuple[Curve, RunDigest]]) -> Figure:
    """Draw the envelope in units of the mean load over time, one line per policy.

    Only the counted steps: in the drain the ratio rises to the number of ranks and hides the rest.
    """
    traces = []
    for curve, run in runs:
        counted = (run.time_s >= run.window_s[0]) & (run.time_s < run.window_s[1])
        loads = run.load_tokens[counted]
        mean = loads.mean(axis=1)
        ratio = np.full(len(mean), np.nan)
        np.divide(loads.max(axis=1), mean, out=ratio, where=mean > 0)
        time_s = numbers(run.time_s[counted])
        traces.append(_curve_line(curve, time_s, numbers(ratio)))
    layout: Trace = {
        "height": 340,
        "xaxis": {"title": {"text": "time, s"}},
        "yaxis": {"title": {"text": "envelope / mean load"}},
    }
    return Figure(
        key="envelopes",
        title="Envelope against the mean",
        summary="Largest load in units of the mean load over time, one line per policy; 1 is "
        "perfect balance.",
        traces=traces,
        layout=layout,
    )


def distribution(key: str, title: str, unit: str, curves: Sequence[tuple[Curve, Cdf]]) -> Figure:
    """Draw a cumulative distribution per policy over a logarithmic axis.

    Zero has no place on it: a curve then starts at the share of zeros.
    """
    scale = 1e3 if unit == "ms" else 1.0
    traces = []
    for curve, cdf in curves:
        shown = cdf.value_s > 0.0
        values, probs = numbers(scale * cdf.value_s[shown]), numbers(cdf.prob[shown])
        traces.append(_curve_line(curve, values, probs))
    layout: Trace = {
        "height": 340,
        "xaxis": {"type": "log", "title": {"text": f"{title}, {unit}"}, **_ticks(curves)},
        "yaxis": {"title": {"text": "share of requests"}, "range": [0, 1.02], "tickformat": ".0%"},
    }
    return Figure(
        key=key,
        title=title,
        summary=f"Cumulative distribution of {title} per policy; the table has its quantiles.",
        traces=[trace for trace in traces if trace["x"]],
        layout=layout,
    )


def _bars(name: str, policies: list[str], shares: list[float], colour: str) -> Trace:
    """Return one part of each policy's time."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": numbers(shares),
        "y": policies,
        "text": [f"{share:.1%}" for share in shares],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textfont": {"color": "$text"},
        "textangle": 0,
        "marker": {"color": colour},
        "hovertemplate": f"%{{y}}: %{{text}} {name}<extra></extra>",
    }


def _ticks(curves: Sequence[tuple[Curve, Cdf]]) -> Trace:
    """Return tick distances of a logarithmic axis: 1-2-5 over some decades, else decades."""
    seen = [cdf.value_s[cdf.value_s > 0.0] for _, cdf in curves]
    ends = [end for values in seen if values.size for end in (values[0], values[-1])]
    decades = float(np.log10(max(ends) / min(ends))) if ends else 0.0
    if decades < 1.0:
        return {}
    return {"dtick": "D2" if decades < _MANY_DECADES else 1}


def _lines(time_s: list[float | None], loads: NDArray[np.int64]) -> list[Trace]:
    """Return one thin line per rank."""
    return [
        _line(time_s, numbers(loads[:, rank]), f"rank {rank}", "$rank", width=0.8)
        for rank in range(loads.shape[1])
    ]


def _bands(time_s: list[float | None], loads: NDArray[np.int64]) -> list[Trace]:
    """Return the smallest load, and the band from the 10th to the 90th quantile."""
    low, high = np.quantile(loads, (0.1, 0.9), axis=1)
    smallest = loads.min(axis=1)
    lower = _line(time_s, numbers(low), "p10 of the ranks", "$rank", width=0.8)
    upper = _line(time_s, numbers(high), "p90 of the ranks", "$rank", width=0.8)
    band = {**upper, "fill": "tonexty", "fillcolor": "$band"}
    return [_line(time_s, numbers(smallest), "smallest", "$rank", width=0.8), lower, band]


def _line(
    x: list[float | None],
    y: list[float | None],
    name: str,
    colour: str,
    *,
    width: float,
    dash: str = "solid",
) -> Trace:
    """Return one line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "line": {"color": colour, "width": width, "dash": dash},
    }


def _curve_line(curve: Curve, x: list[float | None], y: list[float | None]) -> Trace:
    """Return the line of one policy in its colour and dash, with circles if it was measured."""
    colour, dash = f"$policy{curve.index % NUM_COLOURS}", _DASHES[curve.index % len(_DASHES)]
    line = _line(x, y, curve.name, colour, width=1.8, dash=dash)
    if not curve.is_measured:
        return line
    marker = {"symbol": "circle-open", "size": 8, "color": colour, "maxdisplayed": MAX_CIRCLES}
    return {**line, "mode": "lines+markers", "marker": marker}


def _uncounted(run: RunDigest) -> list[Trace]:
    """Return grey areas over the warm-up and the drain, which no figure counts."""
    first_s, last_s = float(run.time_s[0]), float(run.time_s[-1])
    spans = ((first_s, min(run.window_s[0], last_s)), (max(run.window_s[1], first_s), last_s))
    return [
        {
            "type": "rect",
            "xref": "x",
            "yref": "paper",
            "x0": begin_s,
            "x1": end_s,
            "y0": 0,
            "y1": 1,
            "fillcolor": "$uncounted",
            "line": {"width": 0},
            "layer": "below",
        }
        for begin_s, end_s in spans
        if begin_s < end_s
    ]


def numbers(
    values: Sequence[float] | NDArray[np.float64] | NDArray[np.int64],
) -> list[float | None]:
    """Return numbers short enough for a page, None where there is none."""
    return [
        float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
        for value in np.asarray(values).tolist()
    ]
