"""`compare` over repeats."""

from __future__ import annotations

import pytest

from balanceroute.metrics import Spread, compare, figure, summarize
from tests.metrics.records import make_run

BALANCED = summarize(make_run(((50, 50),)))
HALF = summarize(make_run(((100, 0),)))


def test_repeats_of_a_policy_become_mean_and_sample_deviation() -> None:
    """Imbalances 0 and 100 have mean 50 and deviation 100/sqrt(2); one run has none."""
    first, second = compare(
        [("round_robin", BALANCED), ("br_0", BALANCED), ("round_robin", HALF)],
        ["mean_imbalance_tokens", "tpot_s.p50"],
    )
    assert (first.policy, first.num_runs, second.policy, second.num_runs) == (
        "round_robin",
        2,
        "br_0",
        1,
    )
    assert first.spreads["mean_imbalance_tokens"].mean == 50.0
    assert first.spreads["mean_imbalance_tokens"].std == pytest.approx(100 / 2**0.5)
    assert second.spreads["mean_imbalance_tokens"] == Spread(mean=0.0, std=None)
    assert first.spreads["tpot_s.p50"] == Spread(mean=None, std=None)


def test_a_figure_is_named_by_its_path_in_the_document() -> None:
    """Nested figures are reached with a dot."""
    assert figure(HALF, "time_weighted.mean_imbalance_tokens") == 100.0
