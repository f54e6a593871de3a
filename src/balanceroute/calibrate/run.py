"""A calibration from start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import aiohttp
import numpy as np

from balanceroute.calibrate.fit import StepLaw, fit_step_law
from balanceroute.calibrate.prefills import measure_prefills
from balanceroute.calibrate.probe import Sample, find_target, measure_steps
from balanceroute.cluster.step_time_file import StepTimeFile
from balanceroute.errors import ConfigError

WARM_TOKENS = 40  # a fresh CPU server may die of a first prompt that is tiny


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
        Requests per rank, and lengths of their prompts, two or more; each number with each length.
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
    if len(set(prompt_tokens)) < 2:
        raise ConfigError(
            "--prompt-tokens needs two lengths or more, as 64,512: with one nobody can tell what a "
            f"token takes from what a request does; got {prompt_tokens[0]}"
        )
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
        prefills = await measure_prefills(session, target, sorted(set(prompt_tokens)))
    law = fit_step_law(
        np.array([sample.num_reqs for sample in samples]),
        np.array([sample.tokens for sample in samples]),
        np.array([sample.step_s for sample in samples]),
    )
    source = f"{target.model} at {url}, {len(target.ranks)} ranks"
    return law.in_file(source=source, prefills=prefills), law
