"""The figures that tables show: heading, unit, better direction, and how to write a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from balanceroute.metrics import PolicyFigures, Spread, compare
from balanceroute.report.result import SimulationResult

MISSING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure as tables show it.

    Attributes
    ----------
    figure : str
        Path in `Metrics`, such as ``"tpot_s.p99"``.
    heading : str
        For the page.
    unit : str
        Of the value as shown; empty for a ratio.
    better : str or None
        ``"higher"``, ``"lower"``, or None where neither is.
    definition : str
        One or two sentences for a reader who sees the figure for the first time.
    scale : float
        From the unit of the record to the unit shown.
    decimals, max_digits : int
        Digits after the point; fewer if there would be more than `max_digits` digits in all.
    """

    figure: str
    heading: str
    unit: str
    better: Literal["higher", "lower"] | None
    definition: str
    scale: float = 1.0
    decimals: int = 0
    max_digits: int = 6

    @property
    def anchor(self) -> str:
        """Return the HTML id of the definition."""
        return "def-" + self.figure.replace(".", "-").replace("_", "-")

    def show(self, value: float | None) -> str:
        """Write a value in the unit shown, without the unit.

        Examples
        --------
        >>> column = Column(figure="x", heading="x", unit="ms", better="lower", definition="",
        ...                 scale=1e3, decimals=1)
        >>> column.show(1.23456), column.show(123.456), column.show(None)
        ('1,234.6', '123,456', '–')
        """
        if value is None:
            return MISSING
        scaled = value * self.scale
        whole_digits = len(f"{abs(scaled):.0f}")
        decimals = max(0, min(self.decimals, self.max_digits - whole_digits))
        return f"{scaled:,.{decimals}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one policy, ready to print."""

    value: str
    spread: str
    is_best: bool


COLUMNS: tuple[Column, ...] = (
    Column(
        figure="efficiency",
        heading="Efficiency η",
        unit="",
        better="higher",
        decimals=4,
        definition="Step time that perfect balance would need, over the step time that was spent. "
        "1 is the limit for the requests that were admitted; 1 − η is the share of their time "
        "that ranks wait at the barrier.",
    ),
    Column(
        figure="idle_ratio",
        heading="Idle",
        unit="",
        better="lower",
        decimals=4,
        definition="Share of the load-dependent part of a step that the average rank spends "
        "waiting for the slowest, averaged over steps. Unlike 1 − η it leaves out the constant "
        "part of a step, so it is the larger of the two.",
    ),
    Column(
        figure="mean_imbalance_tokens",
        heading="Imbalance",
        unit="tokens",
        better="lower",
        definition="Ranks times the largest load, less the sum of loads, after admission: the "
        "tokens that could be added without making a step longer.",
    ),
    Column(
        figure="throughput_tok_per_s",
        heading="Throughput",
        unit="tok/s",
        better="higher",
        definition="Output tokens of the group per second. Below saturation it is what the "
        "clients ask for, whatever the policy.",
    ),
    Column(
        figure="tpot_s.p50",
        heading="TPOT p50",
        unit="ms",
        better="lower",
        scale=1e3,
        decimals=2,
        definition="Time per output token after the first: half of the requests that finished "
        "had at most this.",
    ),
    Column(
        figure="tpot_s.p99",
        heading="TPOT p99",
        unit="ms",
        better="lower",
        scale=1e3,
        decimals=2,
        definition="Time per output token after the first: 99 of 100 requests that finished had "
        "at most this.",
    ),
    Column(
        figure="ttft_s.p50",
        heading="TTFT p50",
        unit="s",
        better="lower",
        decimals=3,
        definition="Time from arrival at the router to the first output token, median. In a "
        "saturated pool it measures the size of the pool.",
    ),
    Column(
        figure="ttft_s.p99",
        heading="TTFT p99",
        unit="s",
        better="lower",
        decimals=3,
        definition="Time from arrival at the router to the first output token, 99 of 100 requests.",
    ),
    Column(
        figure="longest_wait_ratio",
        heading="Longest wait",
        unit="× mean",
        better="lower",
        decimals=1,
        definition="Longest wait for a place on a rank, in units of the mean wait; requests still "
        "waiting count with their wait so far. A large value says that some requests are passed "
        "over.",
    ),
    Column(
        figure="preemptions",
        heading="Preemptions",
        unit="",
        better="lower",
        definition="Times that a rank threw a request out for lack of KV tokens; its work is "
        "done again.",
    ),
    Column(
        figure="energy_per_token_j",
        heading="Energy",
        unit="J/token",
        better="lower",
        decimals=3,
        definition="Energy of all ranks during the counted steps, per output token, from a model "
        "of 100 W idle to 400 W at full work.",
    ),
    Column(
        figure="decision_us.p99",
        heading="Decision p99",
        unit="µs",
        better="lower",
        definition="Wall time of one call of the policy, 99 of 100 calls. It differs from run to "
        "run and from machine to machine.",
    ),
)


def compare_result(
    result: SimulationResult, columns: Sequence[Column]
) -> tuple[PolicyFigures, ...]:
    """Aggregate the figures of some columns over the repeats of each policy."""
    return compare(
        ((run.policy, run.metrics) for run in result.runs), [column.figure for column in columns]
    )


def cells(column: Column, policies: Sequence[PolicyFigures]) -> list[Cell]:
    """Write one column for all policies, and mark those that show the best value.

    Nothing is marked where all policies show the same, or neither direction is better.
    """
    spreads = [policy.spreads[column.figure] for policy in policies]
    shown = [column.show(spread.mean) for spread in spreads]
    best = _best(column, spreads)
    marks = best is not None and len({text for text in shown if text != MISSING}) > 1
    return [
        Cell(
            value=text,
            spread="" if spread.std is None else column.show(spread.std),
            is_best=marks and text == best,
        )
        for text, spread in zip(shown, spreads, strict=True)
    ]


def _best(column: Column, spreads: Sequence[Spread]) -> str | None:
    """Return the best mean as it is shown, so that what looks equal is marked alike."""
    means = [spread.mean for spread in spreads if spread.mean is not None]
    if column.better is None or not means:
        return None
    return column.show(max(means) if column.better == "higher" else min(means))
