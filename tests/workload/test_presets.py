import numpy as np
import pytest

from balanceroute.errors import ConfigError
from balanceroute.workload import PRESETS, draw_preset, fingerprint, poisson_arrivals
from balanceroute.workload.arrivals import renewal_arrivals
from balanceroute.workload.marginals import bin_probs, token_table

NUM_DRAWN = 300_000

# mean / p50 / p90 / p99 of prompt and of output tokens, correlation. The two br- presets are
# normal or exponential; their percentiles follow from that (cut normal: p = cut + (1 - cut) * q
# under N(3200, 2600) and N(1200, 700); exponential: least + (mean - least) * -log(1 - q)).
PUBLISHED = {
    "azure-2024-conv": ((1632, 928, 3830, 6683), (106, 41, 342, 694), 0.43),
    "azure-2024-code": ((2511, 1930, 6251, 7685), (23, 8, 43, 271), -0.03),
    "azure-2023-conv": ((1155, 1020, 2734, 4142), (211, 129, 424, 601), -0.11),
    "azure-2023-code": ((2048, 1469, 5186, 7436), (28, 13, 55, 252), 0.0),
    "burstgpt": ((363, 217, 626, 2992), (57, 7, 149, 642), 0.37),
    "deepseek-r1": ((1213, 84, 2430, 22901), (1991, 1221, 4732, 13380), -0.10),
    "mooncake-conversation": ((12035, 6909, 27367, 85401), (343, 350, 597, 1120), 0.07),
    "br-production": ((3744, 3558, 6697, 9343), (1267, 1238, 2116, 2841), -0.1),
    "br-azure": ((4652, 3225, 10710, 21420), (1052, 1036, 1118, 1236), 0.0),
}


@pytest.mark.parametrize("name", PRESETS)
def test_draws_meet_the_published_figures(name: str) -> None:
    """Means within 3 %, percentiles within 4 % or half a token, correlation within 0.03.

    The percentiles are points of the quantile function, so only sampling and rounding part them:
    at 300,000 draws the standard error of the steepest (BurstGPT's p99) is under 2 %.
    """
    prompt, output, correlation = PUBLISHED[name]
    workload = draw_preset(name, num_requests=NUM_DRAWN, seed=7, with_arrivals=False)
    for published, tokens in ((prompt, workload.prompt_tokens), (output, workload.output_tokens)):
        assert tokens.mean() == pytest.approx(published[0], rel=0.03)
        drawn = np.quantile(tokens, (0.5, 0.9, 0.99), method="nearest")
        assert drawn == pytest.approx(published[1:], rel=0.04, abs=0.5)
    drawn_correlation = np.corrcoef(workload.prompt_tokens, workload.output_tokens)[0, 1]
    assert drawn_correlation == pytest.approx(correlation, abs=0.03)


@pytest.mark.parametrize("name", PRESETS)
def test_lengths_are_positive_and_bounded(name: str) -> None:
    """Every request has a prompt and an output; none is longer than the longest published."""
    preset = PRESETS[name]
    for marginal in (preset.prompt, preset.output):
        table = token_table(marginal)
        assert table.min() >= 1
        assert np.all(np.diff(table) >= 0)
        points = getattr(marginal, "points", ())
        if points:
            assert points[0][1] <= table.min()
            assert table.max() <= points[-1][1]


def test_br_azure_outputs_are_all_above_1000() -> None:
    """The paper's filter."""
    workload = draw_preset("br-azure", num_requests=10_000)
    assert workload.output_tokens.min() >= 1001


def test_presets_are_deterministic() -> None:
    """Same name, number and seed: the same bytes. Another seed: others."""
    first, again, other = (
        draw_preset("azure-2024-conv", num_requests=1_000, seed=seed) for seed in (5, 5, 6)
    )
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)


def test_first_requests_do_not_depend_on_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """More requests continue the same sequence of lengths, across chunks and without arrivals."""
    few = draw_preset("burstgpt", num_requests=50, with_arrivals=False)
    monkeypatch.setattr("balanceroute.workload.presets.DRAW_CHUNK", 64)
    many = draw_preset("burstgpt", num_requests=500)
    assert np.array_equal(few.prompt_tokens, many.prompt_tokens[:50])
    assert np.array_equal(few.output_tokens, many.output_tokens[:50])


@pytest.mark.parametrize("name", PRESETS)
def test_arrivals_have_the_published_rate_and_cv(name: str) -> None:
    """Gamma gaps: rate within 5 standard errors; the CV within 10 %."""
    preset = PRESETS[name]
    arrival_s = draw_preset(name, num_requests=100_000, seed=2).arrival_s
    if preset.rate_per_s is None:
        assert arrival_s is None
        return
    assert arrival_s is not None
    assert arrival_s[0] == 0.0
    gaps = np.diff(arrival_s)
    assert gaps.min() >= 0
    error = 5 * preset.arrival_cv / np.sqrt(len(gaps))
    assert gaps.mean() * preset.rate_per_s == pytest.approx(1.0, abs=error)
    assert gaps.std() / gaps.mean() == pytest.approx(preset.arrival_cv, rel=0.1)


def test_poisson_arrivals_have_exponential_gaps() -> None:
    """Mean and CV of the gaps, and the share above the mean, exp(-1)."""
    gaps = np.diff(poisson_arrivals(100_001, 4.0, np.random.default_rng(0)))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert np.mean(gaps > 0.25) == pytest.approx(np.exp(-1), abs=0.01)


@pytest.mark.parametrize(
    ("num_requests", "rate_per_s", "cv"),
    [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, np.nan, 1.0), (1, 1.0, 0.0), (1, np.inf, 1.0)],
)
def test_arrival_settings_are_checked(num_requests: int, rate_per_s: float, cv: float) -> None:
    """Numbers out of range are settings to correct."""
    with pytest.raises(ConfigError):
        renewal_arrivals(num_requests, rate_per_s, cv, np.random.default_rng(0))


def test_unknown_preset() -> None:
    """The message lists what there is."""
    with pytest.raises(ConfigError, match="known are azure-2024-conv, "):
        draw_preset("azure", num_requests=1)


def test_bins_weigh_one() -> None:
    """The table's bins share the whole probability."""
    assert bin_probs().sum() == pytest.approx(1.0)


def test_presets_say_where_they_come_from() -> None:
    """Every preset has a source, a licence and a citation, and its key is its name."""
    for key, preset in PRESETS.items():
        assert key == preset.name
        assert preset.source.startswith("https://")
        assert all((preset.summary, preset.licence, preset.citation))
