"""`balanceroute calibrate`: what a step of a running engine takes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from balanceroute.calibrate.probe import Sample

DEFAULT_REQUESTS, DEFAULT_PROMPTS = "1,4,16", "64,512,1500"


def calibrate(
    url: Annotated[str, typer.Argument(help="A vLLM server that nobody else uses meanwhile.")],
    out: Annotated[Path, option("Where to write it; simulate --step-time takes the file.")] = Path(
        "step-time.json"
    ),
    model: Annotated[str | None, option("Name of the model there; else its first.")] = None,
    requests: Annotated[str, option("Requests per rank to try, as 1,4,16.")] = DEFAULT_REQUESTS,
    prompt_tokens: Annotated[str, option("Prompt lengths to try, as 64,512.")] = DEFAULT_PROMPTS,
    output_tokens: Annotated[int, option("Output tokens of each request.", min=8)] = 48,
    repeats: Annotated[int, option("Times that each pair is measured.", min=1)] = 2,
) -> None:
    """Measure a running engine's step time by controlled load, and fit C, t_l and kappa0 to it."""
    try:
        from balanceroute.calibrate.run import calibrate as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"calibrate needs {error.name}; install it with: pip install 'balanceroute[serve]'"
        ) from error
    from balanceroute.cluster.step_time_file import write_step_time

    found, law = asyncio.run(
        run(
            url,
            model=model,
            num_reqs=_counts("--requests", requests),
            prompt_tokens=_counts("--prompt-tokens", prompt_tokens),
            output_tokens=output_tokens,
            repeats=repeats,
            on_sample=_show,
        )
    )
    write_step_time(out, found)
    typer.echo(
        f"C {1e3 * law.constant_s:.3f} ms, t_l {1e6 * law.s_per_token:.4f} us per token, "
        f"kappa0 {law.kappa0_tokens:.0f} tokens, t_p {1e6 * found.prefill_s_per_token:.2f} us per "
        f"prompt token; fit error {law.median_error_ratio:.1%} (median), "
        f"{law.largest_error_ratio:.1%} (largest) over {found.num_samples} samples"
    )
    typer.echo(f"{out}: use it as simulate --step-time {out}")


def _show(sample: Sample) -> None:
    typer.echo(
        f"{sample.num_reqs:5.0f} requests {sample.tokens:9.0f} tokens {1e3 * sample.step_s:9.3f} ms"
    )


def _counts(name: str, text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"{name} must be numbers of at least 1, as 1,4,16; got {text!r}")
    return counts
