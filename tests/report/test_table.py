"""The table for the terminal."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from balanceroute.metrics import Distribution
from balanceroute.report import SimulationResult, render_table
from balanceroute.report.columns import COLUMNS, cells, compare_result
from tests.report.results import GROUP, make_metrics, make_result


def print_table(result: SimulationResult) -> str:
    """Return what a terminal of 80 columns shows."""
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_table(result))
    return console.export_text()


def test_the_best_of_each_column_is_starred() -> None:
    """Ties at the digits shown are starred alike, and a column of equals not at all."""
    result = make_result(
        ("vllm", make_metrics(efficiency=0.8, throughput_tok_per_s=900.0)),
        ("br_0,select_by=margin", make_metrics(efficiency=0.99, throughput_tok_per_s=1000.0)),
        ("level", make_metrics(efficiency=0.99000001, throughput_tok_per_s=950.0)),
    )
    text = print_table(result)
    assert text.count("0.9900*") == 2
    assert "1,000*" in text
    # imbalance, idle and waits are the same for all
    assert text.count("*") == 3 + 1  # and the star that the caption explains
    assert "select_by=margin" in text


def test_large_numbers_fit_80_columns() -> None:
    """Nothing is cut off at 1,000 ranks and waits of days."""
    slow = Distribution(mean=1.23456, p50=1.23456, p95=12.3456, p99=12.3456)
    day = Distribution(mean=98765.4, p50=98765.4, p95=98765.4, p99=98765.4)
    large = make_metrics(
        mean_imbalance_tokens=987_654_321.0,
        throughput_tok_per_s=9_876_543.0,
        tpot_s=slow,
        ttft_s=day,
        longest_wait_ratio=1234.5,
    )
    small = make_metrics(efficiency=0.5, idle_ratio=0.5)
    group = msgspec.structs.replace(GROUP, ranks=1000)
    text = print_table(make_result(("br_0", large), ("round_robin", small), group=group))
    for value in ("987,654", "9,876,543*", "1,235", "12,346", "98,765", "1,234"):
        assert value in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_repeats_are_said_with_their_spread() -> None:
    """Efficiencies .8 and .82 vary by .0141; what was not observed is a dash."""
    runs = [("vllm", make_metrics(efficiency=value)) for value in (0.8, 0.82)]
    text = print_table(make_result(*runs))
    assert "means of 2 repeats · η varies by up to ±0.0141 (std)" in text
    assert "–" in text


def test_columns_say_which_direction_is_better() -> None:
    """Of two policies the better is marked, and a missing value never is."""
    result = make_result(
        ("vllm", make_metrics(efficiency=0.9, longest_wait_ratio=None)),
        ("br_0", make_metrics(efficiency=0.8, longest_wait_ratio=5.0)),
    )
    policies = compare_result(result, COLUMNS)
    marked = {c.figure: [cell.is_best for cell in cells(c, policies)] for c in COLUMNS}
    assert marked["efficiency"] == [True, False]
    assert marked["longest_wait_ratio"] == [False, False]
    assert marked["preemptions"] == [False, False]
