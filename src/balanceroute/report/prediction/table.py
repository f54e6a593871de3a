"""The result of an examination for a terminal of 80 columns."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from balanceroute.predict.evaluate import NUM_BINS
from balanceroute.report.columns import COLUMNS, MISSING, compare_result
from balanceroute.report.prediction.gains import gains_of, show_gain, split_label
from balanceroute.report.prediction.result import ClassifierResult, PredictionResult
from balanceroute.report.settings import describe_group

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

USE_COLUMNS = tuple(
    column
    for column in COLUMNS
    if column.figure in ("efficiency", "throughput_tok_per_s", "longest_wait_ratio")
)


def render_tables(result: PredictionResult) -> tuple[RenderableType, ...]:
    """Lay out a result: figures by classifier, reliability, and what policies make of it.

    Parameters
    ----------
    result : PredictionResult
        Of one examination.

    Returns
    -------
    tuple of rich renderables
        They fit a terminal of 80 columns.
    """
    return (
        describe(result),
        "",
        _figures(result),
        "",
        "Reliability: samples by tenths of p, mean p and the share that ended",
        _reliability(result),
        "",
        f"{describe_group(result.simulation.group)}; "
        f"{result.simulation.workload.num_requests:,} requests",
        _use(result),
    )


def describe(result: PredictionResult) -> str:
    """Say what was learnt and what was asked."""
    earlier, later = f"{result.num_earlier_requests:,}", f"{result.num_later_requests:,}"
    known = result.trace.num_source_requests or 0
    of_all = f" of {known:,}" if known > result.trace.num_requests else ""
    saved = (
        f" {result.classifier} is as it was saved: if it was taught requests of this trace, its "
        "figures flatter it."
        if result.is_saved
        else ""
    )
    return (
        f"{result.trace.name}, {result.trace.num_requests:,} requests{of_all}: learnt from the "
        f"first {earlier}, asked about those found running among the {later} after them, learning "
        f"on. Of these {percent(result)} end within {result.horizon} steps.{saved}"
    )


def scale(result: PredictionResult) -> str:
    """Say what the figures of a classifier would be that knows nothing of a request."""
    brier = result.end_ratio * (1.0 - result.end_ratio)
    return f"always saying {percent(result)} has AUC 0.5 and Brier {brier:.3f}"


def percent(result: PredictionResult) -> str:
    """Write the share of the samples that end within the horizon."""
    return f"{100 * result.end_ratio:.0f}\N{NO-BREAK SPACE}%"


def figures_of(each: ClassifierResult) -> tuple[str, str, str]:
    """Write AUC, Brier score and mean error of ĉ in steps."""
    auc = MISSING if each.auc is None else f"{each.auc:.3f}"
    return auc, f"{each.brier:.3f}", f"{each.mae_steps:.1f}"


def bins_of(each: ClassifierResult) -> list[tuple[str, str, str]]:
    """Write samples, mean p and share that ended of each tenth, also of those without samples."""
    by_number = {part.number: part for part in each.bins}
    parts = [by_number.get(number) for number in range(NUM_BINS)]
    return [
        (MISSING,) * 3
        if part is None
        else (f"{part.num_samples:,}", f"{part.mean_prob:.3f}", f"{part.end_ratio:.3f}")
        for part in parts
    ]


def tenths() -> list[str]:
    """Write the range of p of each bin.

    Examples
    --------
    >>> tenths()[0], tenths()[9]
    ('0.0–0.1', '0.9–1.0')
    """
    edges = [f"{number / NUM_BINS:.1f}" for number in range(NUM_BINS + 1)]
    return ["–".join(pair) for pair in pairwise(edges)]


def uses_of(result: PredictionResult) -> list[tuple[str, ...]]:
    """Write policy, classifier, η, its gain, throughput and longest wait of each run."""
    gains = gains_of(result.simulation)
    rows = []
    for figures in compare_result(result.simulation, USE_COLUMNS):
        policy, classifier = split_label(figures.policy)
        name = "none" if classifier is None else result.name_of(classifier)
        efficiency, *others = (c.show(figures.spreads[c.figure].mean) for c in USE_COLUMNS)
        gain = "" if classifier is None else show_gain(gains[figures.policy])
        rows.append((policy, name, efficiency, gain, *others))
    return rows


def _figures(result: PredictionResult) -> Table:
    table = _table(caption=scale(result))
    table.add_column("classifier", overflow="fold")
    for heading in ("AUC", "Brier", "MAE of ĉ,\nsteps"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in result.classifiers:
        is_asked = each.classifier == result.classifier
        name = result.name_of(each.classifier)
        table.add_row(name, *figures_of(each), style="bold" if is_asked else None)
    return table


def _reliability(result: PredictionResult) -> Table:
    from rich.table import Table

    side_by_side = Table.grid(padding=(0, 3, 0, 0))
    tables = [
        _bins(result.name_of(each.classifier), each, has_ranges=each is result.shown[0])
        for each in result.shown
    ]
    side_by_side.add_row(*tables)
    return side_by_side


def _bins(name: str, each: ClassifierResult, *, has_ranges: bool) -> Table:
    table = _table(title=name)
    headings = ("samples", "predicted", "observed")
    for heading in ("p", *headings) if has_ranges else headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for tenth, cells in zip(tenths(), bins_of(each), strict=True):
        table.add_row(*([tenth] if has_ranges else []), *cells)
    return table


def _use(result: PredictionResult) -> Table:
    num_seeds = len({run.seed for run in result.simulation.runs})
    table = _table(
        caption=f"means of {num_seeds} seeds; gain: of η over no classifier, ± its deviation"
        if num_seeds > 1
        else "one run each (--repeats 3 shows the spread); gain: of η over no classifier",
    )
    for heading in ("policy", "classifier"):
        table.add_column(heading, overflow="fold")
    for heading in ("η", "gain", "tok/s", "wait max,\n× mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in uses_of(result):
        table.add_row(*row)
    return table


def _table(*, title: str | None = None, caption: str | None = None) -> Table:
    from rich import box  # 0.1 s that --help must not pay
    from rich.table import Table

    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
