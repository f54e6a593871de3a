from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from balanceroute.types import Workload
from balanceroute.workload import read_trace, trace_stats

SHARED = Path(__file__).parents[2].parent / "shared" / "traces"

# As published beside the traces: requests, span in s, rate, prompt and output mean / p50 / p90 /
# p99 / max, then CV, busiest 10 s / mean, share of the largest 1 % and 10 %, correlation.
TABLE = """
azure2023_code | 8819 | 3436 | 2.57 | 2048 1469 5186 7436 7437 | 28 13 55 252 1899 | 13.2 12.8 .17 .50 0.00
azure2023_conv | 19366 | 3502 | 5.53 | 1155 1020 2734 4142 14050 | 211 129 424 601 1000 | 1.09 1.8 .03 .23 -0.11
azure2024_code_sun_0847 | 1024 | 351 | 2.92 | 3053 2104 7651 7684 7686 | 24 10 47 265 1175 | 1.12 2.0 .22 .59 -0.03
azure2024_conv_busyhour_thin | 886 | 253 | 3.51 | 1574 869 3458 6700 7969 | 106 40 370 683 1199 | 1.03 1.5 .08 .48 0.43
mooncake_conversation | 12031 | 3537 | 3.40 | 12035 6909 27367 85401 126195 | 343 350 597 1120 2000 | 3.03 2.0 .05 .24 0.07
servegen_deepseek-r1_00-12h | 727359 | 43200 | 16.84 | 1213 84 2430 22901 54498 | 1991 1221 4732 13380 32768 | 1.69 2.6 .09 .41 -0.10
servegen_m-large_day0_0400 | 212000 | 1200 | 176.67 | 340 76 871 2698 18186 | 314 431 483 610 2566 | 1.13 1.2 .02 .17 -0.35
lengths_burstgpt_8000 | 8000 | - | - | 363 217 626 2992 14117 | 57 7 149 642 3206 | - - .21 .65 0.37
lengths_sharegpt_8k | 30731 | - | - | 2340 1730 5696 7434 8141 | 439 415 834 998 1024 | - - .02 .21 0.04
lengths_bwb | 33768 | - | - | 1067 1037 1453 1800 3504 | 1613 1601 2149 2533 2858 | - - .02 .15 0.79
lengths_arxiv_summarization | 28257 | - | - | 2588 2730 3702 3933 4054 | 291 167 372 3270 4056 | - - .12 .49 -0.46
"""  # noqa: E501  # a table
TWICE = 0.0056  # the table was rounded to three digits before it was rounded to two
ROWS = [line.split("|") for line in TABLE.strip().splitlines()]


@pytest.mark.skipif(not SHARED.is_dir(), reason="real traces are in ../shared/traces only")
@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_published_tables_are_reproduced(row: list[str]) -> None:
    """Counts and percentiles exactly, the rest to the digits printed."""
    name, count, span, rate, prompt, output, rest = (cell.strip() for cell in row)
    stats = trace_stats(read_trace(SHARED / f"{name}.csv.gz"))
    assert int(count) == stats.num_requests
    for expected, lengths in ((prompt, stats.prompt_tokens), (output, stats.output_tokens)):
        mean, *ranks = map(int, expected.split())
        assert mean == round(lengths.mean)
        assert ranks == [lengths.p50, lengths.p90, lengths.p99, lengths.max]
    cv, busiest, top_1, top_10, correlation = rest.split()
    if span == "-":
        assert stats.arrivals is None
    else:
        assert stats.arrivals is not None
        assert int(span) == round(stats.arrivals.span_s)
        assert stats.arrivals.rate_per_s == pytest.approx(float(rate), abs=0.0051)
        assert stats.arrivals.gap_cv == pytest.approx(float(cv), rel=0.005)
        assert stats.arrivals.busiest_ratio == pytest.approx(float(busiest), abs=0.051)
    assert stats.top_1_share_ratio == pytest.approx(float(top_1), abs=TWICE)
    assert stats.top_10_share_ratio == pytest.approx(float(top_10), abs=TWICE)
    assert stats.correlation == pytest.approx(float(correlation), abs=TWICE)


def workload(
    *, prompts: Sequence[int], outputs: Sequence[int], arrivals: Sequence[float] | None = None
) -> Workload:
    return Workload(
        name="test",
        prompt_tokens=np.array(prompts, np.int32),
        output_tokens=np.array(outputs, np.int32),
        arrival_s=None if arrivals is None else np.array(arrivals, float),
    )


def test_one_request() -> None:
    """What a single request cannot tell is None, not an error or NaN."""
    stats = trace_stats(workload(prompts=[5], outputs=[7], arrivals=[0]))
    assert stats.arrivals is not None
    assert (
        stats.arrivals.span_s,
        stats.arrivals.rate_per_s,
        stats.arrivals.gap_cv,
        stats.arrivals.busiest_ratio,
    ) == (0.0, None, None, None)
    assert stats.correlation is None
    assert stats.top_1_share_ratio == 1.0


def test_busiest_window_counts_whole_windows_only() -> None:
    """25 s hold two whole windows of 10 s, with 3 and 1 requests; the rest is left out."""
    stats = trace_stats(
        workload(prompts=[1] * 6, outputs=[1, 2, 3, 4, 5, 6], arrivals=[0, 1, 2, 11, 21, 25])
    )
    assert stats.arrivals is not None
    assert stats.arrivals.busiest_ratio == 1.5  # 3 over (3 + 1) / 2


def test_shares_of_the_largest() -> None:
    """The largest 10 % of ten requests is one request."""
    stats = trace_stats(workload(prompts=range(1, 11), outputs=[1] * 9 + [91]))
    assert stats.top_10_share_ratio == 0.91
    assert stats.correlation == pytest.approx(0.5222, abs=1e-4)


def test_sums_do_not_overflow() -> None:
    """Two hundred requests of the longest length have more than 2**31 tokens."""
    stats = trace_stats(workload(prompts=[100_000_000] * 200, outputs=[100_000_000] * 200))
    assert stats.prompt_tokens.mean == 1e8
    assert stats.top_10_share_ratio == 0.1
