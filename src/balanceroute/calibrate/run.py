"""A calibration from start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import aiohttp
import numpy as np

from balanceroute.calibrate.fit import StepLaw, fit_slope, fit_step_law, shared_part
from balanceroute.calibrate.probe import (
    Sample,
    Target,
    decoding,
    find_target,
    measure_prefill,
    measure_prefills,
    measure_steps,
)
from balanceroute.cluster.step_time_file import StepTimeFile
from balanceroute.errors import ConfigError

WARM_TOKENS = 40  # a fresh CPU server may die of a first prompt that is tiny
NUM_PREFILLS = 3  # of each length; the fastest counts, as nothing makes a prefill faster
# The same on all ranks at once, more often, as they come at any moment of a step and wait for its
# end; and most tries for that, of which not all fall into one step on all ranks.
NUM_TOGETHER, MOST_TRIES = 8, 24


async def calibrate(
    url: str,
    *,
    model: str | None = None,
    num_reqs: Sequence[int] = (1, 4, 16),
    prompt_tokens: Sequence[int] = (64, 512, 1500),
    output_tokens: int = 48,
    repeats: int = 2,
    on_sample: Callable[[Sample], None] | None = None,
) -> tuple[StepTimeFile, StepLaw]:
    """Measure what an engine's steps take, while nobody else uses it.

    Parameters
    ----------
    url : str
        Of a vLLM server.
    model : str or None
        Its name there; None: the first that the server lists.
    num_reqs, prompt_tokens : sequence of int
        Requests per rank, and lengths of their prompts; each number with each length.
    output_tokens : int
        Of each request; the steps in which all of a probe's requests decode are timed.
    repeats : int
        Times that each pair is measured.
    on_sample : callable or None
        Told of each sample.

    Raises
    ------
    ConfigError
        If the server does not answer as it should, or its steps follow no such law.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        target = await find_target(session, url, model)
        await measure_steps(session, target, num_reqs=1, prompt_tokens=WARM_TOKENS, output_tokens=8)
        samples = []
        for _ in range(repeats):
            for number in num_reqs:
                for length in prompt_tokens:
                    sample = await measure_steps(
                        session,
                        target,
                        num_reqs=number,
                        prompt_tokens=length,
                        output_tokens=output_tokens,
                    )
                    samples.append(sample)
                    if on_sample is not None:
                        on_sample(sample)
        prefill_s_per_token, prefill_shared = await _prefill(session, target, prompt_tokens)
    law = fit_step_law(
        np.array([sample.num_reqs for sample in samples]),
        np.array([sample.tokens for sample in samples]),
        np.array([sample.step_s for sample in samples]),
    )
    source = f"{target.model} at {url}, {len(target.ranks)} ranks"
    found = law.in_file(
        source=source, prefill_s_per_token=prefill_s_per_token, prefill_shared=prefill_shared
    )
    return found, law


async def _prefill(
    session: aiohttp.ClientSession, target: Target, prompt_tokens: Sequence[int]
) -> tuple[float, float]:
    """Return t_p and sigma; zeros where there is one length only."""
    lengths = sorted(set(prompt_tokens))
    if len(lengths) < 2:
        return 0.0, 0.0
    alone_s = [
        min(
            [
                await measure_prefill(session, target, prompt_tokens=length, number=1000 + number)
                for number in range(NUM_PREFILLS)
            ]
        )
        for length in lengths
    ]
    alone_s_per_token = fit_slope(np.array(lengths, np.float64), np.array(alone_s))
    num_ranks = len(target.ranks)
    if num_ranks == 1:
        return alone_s_per_token, 0.0
    async with decoding(session, target, prompt_tokens=WARM_TOKENS):
        together_s = [await _together(session, target, length) for length in lengths]
    together_s_per_token = fit_slope(np.array(lengths, np.float64), np.array(together_s))
    shared = shared_part(alone_s_per_token, together_s_per_token, num_ranks)
    return max(alone_s_per_token, together_s_per_token), shared


async def _together(session: aiohttp.ClientSession, target: Target, length: int) -> float:
    """Return the least time to the first tokens of prompts that all ranks compute at once."""
    found: list[float] = []
    for number in range(MOST_TRIES):
        took_s = await measure_prefills(session, target, prompt_tokens=length, number=2000 + number)
        found += [] if took_s is None else [took_s]
        if len(found) == NUM_TOGETHER:
            break
    if not found:
        raise ConfigError(
            f"prompts of {length} tokens, one on each rank, were never computed in the same step, "
            f"in {MOST_TRIES} tries; calibrate while nothing else runs on the engine"
        )
    return min(found)
