"""Workloads that need no file: published statistics of public traces, and draws from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.types import Workload
from balanceroute.workload.arrivals import renewal_arrivals
from balanceroute.workload.marginals import (
    MAX_Z,
    NUM_BINS,
    Exponential,
    Marginal,
    PositiveNormal,
    Quantiles,
    copula_correlation,
    token_table,
)

DRAW_CHUNK = 1 << 18  # requests drawn at a time; the temporaries stay in the processor's cache
AZURE_2023 = "Patel et al., Splitwise, ISCA 2024"
AZURE_2024 = "Stojkovic et al., DynamoLLM, HPCA 2025"
AZURE_URL = "https://github.com/Azure/AzurePublicDataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A workload described by published statistics.

    Attributes
    ----------
    name : str
        What the command line calls it.
    summary : str
        One phrase for lists.
    source, licence, citation : str
        Where the figures come from.
    prompt, output : Marginal
        Distributions of prompt and output tokens.
    correlation : float
        Pearson correlation of prompt and output tokens.
    rate_per_s : float or None
        Mean requests per second; None if not published.
    arrival_cv : float
        Coefficient of variation of the gaps between arrivals; 1 (Poisson) if not published.
    """

    name: str
    summary: str
    source: str
    licence: str
    citation: str
    prompt: Marginal
    output: Marginal
    correlation: float
    rate_per_s: float | None
    arrival_cv: float = 1.0


PROBS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def _lengths(mean_tokens: float, *tokens: float | None) -> Quantiles:
    """Return a distribution from its mean and its quantiles at `PROBS`, None where unknown.

    Mean, p50, p90, p99 and the largest are published. The least, p10, p25, p75 and p95 were
    measured on the public files; those of azure-2024 on excerpts of 886 and 1,024 requests.
    """
    known = zip(PROBS, tokens, strict=True)
    points = tuple((prob, count) for prob, count in known if count is not None)
    return Quantiles(mean_tokens=mean_tokens, points=points)


_ALL = (
    Preset(
        name="azure-2024-conv",
        summary="Azure chat, week of May 2024",
        source=AZURE_URL,
        licence="CC-BY-4.0",
        citation=AZURE_2024,
        prompt=_lengths(1632, 50, 293, 546, 928, 2212, 3830, 5014, 6683, 7999),
        output=_lengths(106, 1, 5, 15, 41, 104, 342, 455, 694, 1500),
        correlation=0.43,  # of an excerpt of the busiest hour; the week's is not published
        rate_per_s=45.1,
        arrival_cv=2.29,  # gamma gaps whose median is to their mean as published, 1.4 to 15.3 ms
    ),
    Preset(
        name="azure-2024-code",
        summary="Azure code, week of May 2024",
        source=AZURE_URL,
        licence="CC-BY-4.0",
        citation=AZURE_2024,
        prompt=_lengths(2511, 3, 734, 1077, 1930, None, 6251, None, 7685, 7743),
        output=_lengths(23, 1, 1, 3, 8, None, 43, 79, 271, 5000),
        correlation=-0.03,  # of an excerpt of 1,024 requests; the week's is not published
        rate_per_s=27.8,
        arrival_cv=2.17,  # gamma gaps whose median is to their mean as published, 2.3 to 19.1 ms
    ),
    Preset(
        name="azure-2023-conv",
        summary="Azure chat, hour of November 2023",
        source=AZURE_URL,
        licence="CC-BY-4.0",
        citation=AZURE_2023,
        prompt=_lengths(1155, 2, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050),
        output=_lengths(211, 7, 54, 85, 129, 395, 424, 451, 601, 1000),
        correlation=-0.11,
        rate_per_s=5.53,
        arrival_cv=1.09,
    ),
    Preset(
        name="azure-2023-code",
        summary="Azure code, hour of November 2023",
        source=AZURE_URL,
        licence="CC-BY-4.0",
        citation=AZURE_2023,
        prompt=_lengths(2048, 3, 147, 578, 1469, 2745, 5186, 7302, 7436, 7437),
        output=_lengths(28, 6, 7, 9, 13, 24, 55, 90, 252, 1899),
        correlation=0.0,
        rate_per_s=2.57,
        arrival_cv=13.2,
    ),
    Preset(
        name="burstgpt",
        summary="ChatGPT and GPT-4 on a campus, 4 months",
        source="https://github.com/HPMLL/BurstGPT",
        licence="CC-BY-4.0",
        citation="Wang et al., BurstGPT, KDD 2025",
        prompt=_lengths(363, 9, 121, 188, 217, 292, 626, 1136, 2992, 14117),
        output=_lengths(57, 1, 7, 7, 7, 33, 149, 243, 642, 3206),
        correlation=0.37,
        rate_per_s=0.5,
    ),
    Preset(
        name="deepseek-r1",
        summary="DeepSeek-R1 on Alibaba Cloud, 12 hours",
        source="https://github.com/alibaba/ServeGen",
        licence="Apache-2.0",
        citation="Xiang et al., ServeGen, NSDI 2026",
        prompt=_lengths(1213, 4, 15, 27, 84, 387, 2430, 6929, 22901, 54498),
        output=_lengths(1991, 9, 341, 547, 1221, 2029, 4732, 6987, 13380, 32768),
        correlation=-0.10,
        rate_per_s=16.84,
        arrival_cv=1.69,
    ),
    Preset(
        name="mooncake-conversation",
        summary="Kimi chat with long prompts, an hour",
        source="https://github.com/kvcache-ai/Mooncake",
        licence="Apache-2.0",
        citation="Qin et al., Mooncake, FAST 2025",
        prompt=_lengths(12035, 891, 964, 2307, 6909, 15366, 27367, 39549, 85401, 126195),
        output=_lengths(343, 1, 24, 157, 350, 472, 597, 698, 1120, 2000),
        correlation=0.07,
        rate_per_s=3.40,  # the CV of 3.03 is that of 3 s ticks, not of arrivals
    ),
    Preset(
        name="br-production",
        summary="BalanceRoute paper, normal lengths",
        source="https://arxiv.org/abs/2605.06113",
        licence="paper",
        citation="BalanceRoute, arXiv 2605.06113",
        prompt=PositiveNormal(mean_tokens=3200, sd_tokens=2600),
        output=PositiveNormal(mean_tokens=1200, sd_tokens=700),
        correlation=-0.1,
        rate_per_s=None,
    ),
    Preset(
        name="br-azure",
        summary="BalanceRoute paper, long outputs",
        source="https://arxiv.org/abs/2605.06113",
        licence="paper",
        citation="BalanceRoute, arXiv 2605.06113",
        prompt=Exponential(least_tokens=1, mean_tokens=4652),
        output=Exponential(least_tokens=1001, mean_tokens=1052),
        correlation=0.0,  # not published, and neither are the shapes
        rate_per_s=None,
    ),
)
PRESETS = {preset.name: preset for preset in _ALL}


def draw_preset(
    name: str, *, num_requests: int, seed: int = 0, with_arrivals: bool = True
) -> Workload:
    """Draw requests from a preset.

    Prompt and output lengths follow the preset's distributions, coupled by a Gaussian copula so
    that they have its correlation; requests do not depend on one another. Gaps between arrivals are
    gamma-distributed. The lengths of the first n requests do not depend on `num_requests`.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.
    num_requests : int
        N, at least 1.
    seed : int
        At least 0; the same seed gives the same workload.
    with_arrivals : bool
        Draw arrival times if the preset has a rate. The lengths are the same either way.

    Returns
    -------
    Workload
        Named after the preset.

    Raises
    ------
    ConfigError
        If the preset is unknown or a number is out of range.

    Examples
    --------
    >>> workload = draw_preset("azure-2024-conv", num_requests=3, seed=1)
    >>> workload.prompt_tokens.tolist(), workload.output_tokens.tolist()
    ([917, 2713, 82], [7, 111, 86])
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
    if num_requests < 1:
        raise ConfigError(f"number of requests must be at least 1, got {num_requests}")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    preset = PRESETS[name]
    lengths_rng, arrivals_rng = np.random.default_rng(seed).spawn(2)
    prompt_tokens, output_tokens = _draw_lengths(preset, num_requests, lengths_rng)
    arrival_s = None
    if with_arrivals and preset.rate_per_s is not None:
        arrival_s = renewal_arrivals(
            num_requests, preset.rate_per_s, preset.arrival_cv, arrivals_rng
        )
    return Workload(
        name=name,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        arrival_s=arrival_s,
        notes=(f"Drawn from published statistics with seed {seed}.",),
    )


def _draw_lengths(
    preset: Preset, num_requests: int, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    prompts, outputs = token_table(preset.prompt), token_table(preset.output)
    coupling = np.float32(copula_correlation(prompts, outputs, preset.correlation))
    rest = np.sqrt(1 - coupling**2)
    prompt_tokens = np.empty(num_requests, np.int32)
    output_tokens = np.empty(num_requests, np.int32)
    for start in range(0, num_requests, DRAW_CHUNK):
        chunk = slice(start, min(start + DRAW_CHUNK, num_requests))
        z = rng.standard_normal((chunk.stop - start, 2), dtype=np.float32)
        prompt_tokens[chunk] = prompts[_bins(z[:, 0])]
        output_tokens[chunk] = outputs[_bins(coupling * z[:, 0] + rest * z[:, 1])]
    return prompt_tokens, output_tokens


def _bins(z: NDArray[np.float32]) -> NDArray[np.int32]:
    place = (z + np.float32(MAX_Z)) * np.float32(NUM_BINS / (2 * MAX_Z))
    bins: NDArray[np.int32] = np.clip(place, 0, NUM_BINS - 1).astype(np.int32)
    return bins
