"""`balanceroute calibrate`: what a step of an engine takes, measured or by measured kernels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from balanceroute.calibrate.probe import Sample
    from balanceroute.cluster.step_time_file import StepTimeFile

DEFAULT_REQUESTS, DEFAULT_PROMPTS = "1,4,16", "64,512,1500"
DEFAULT_OUTPUT_TOKENS, DEFAULT_REPEATS = 48, 2


def calibrate(
    source: Annotated[
        str,
        typer.Argument(
            help="URL of a vLLM server that nobody else uses meanwhile, or MODEL.DEVICE, as "
            "deepseek-v3.h200_sxm, for the kernel tables of aiconfigurator-core."
        ),
    ],
    out: Annotated[Path, option("Where to write it; simulate --step-time takes the file.")] = Path(
        "step-time.json"
    ),
    model: Annotated[str | None, option("Name of the model there; else its first.")] = None,
    requests: Annotated[str, option("Requests per rank to try, as 1,4,16.")] = DEFAULT_REQUESTS,
    prompt_tokens: Annotated[str, option("Prompt lengths to try, as 64,512.")] = DEFAULT_PROMPTS,
    output_tokens: Annotated[
        int, option("Output tokens of each request.", min=8)
    ] = DEFAULT_OUTPUT_TOKENS,
    repeats: Annotated[int, option("Times that each pair is measured.", min=1)] = DEFAULT_REPEATS,
) -> None:
    """Fit C, t_l and kappa0 of a step's time: to a running engine, or to measured kernels."""
    from balanceroute.cluster.step_time_file import write_step_time

    if "://" in source:
        found = _measured(source, model, requests, prompt_tokens, output_tokens, repeats)
    else:
        given = (model, requests, prompt_tokens, output_tokens, repeats)
        if given != (
            None, DEFAULT_REQUESTS, DEFAULT_PROMPTS, DEFAULT_OUTPUT_TOKENS, DEFAULT_REPEATS
        ):  # fmt: skip
            raise ConfigError(
                "--model, --requests, --prompt-tokens, --output-tokens and --repeats are for a "
                f"server's URL, as http://127.0.0.1:8000; got {source!r}"
            )
        found = _of_tables(source)
    write_step_time(out, found)
    typer.echo(
        f"C {1e3 * found.constant_s:.3f} ms, t_l {1e6 * found.s_per_token:.4f} us per token, "
        f"kappa0 {found.kappa0_tokens:.0f} tokens; fit error {found.median_error_ratio:.1%} "
        f"(median), {found.largest_error_ratio:.1%} (largest) over {found.num_samples} samples"
    )
    typer.echo(
        f"t_p {1e6 * found.prefill_s_per_token:.2f} us per prompt token, "
        f"{found.prefill_shared:.0%} of it shared by the ranks; a step with prompts takes "
        f"{1e3 * found.mixed_step_s:.2f} ms more"
    )
    typer.echo(
        f"{out}: use it as simulate --step-time {out}, and where ranks prefill too with "
        f"--prefill-budget TOKENS --prefill-time {found.prefill_s_per_token:.3g} "
        f"--prefill-shared {found.prefill_shared:.2g} "
        f"--mixed-step-time {found.mixed_step_s:.3g}"
    )


def _of_tables(name: str) -> StepTimeFile:
    from balanceroute.afd.step_times import step_time_of_tables

    try:
        return step_time_of_tables(name)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. A server is named by its URL, as http://127.0.0.1:8000"
        ) from error


def _measured(
    url: str,
    model: str | None,
    requests: str,
    prompt_tokens: str,
    output_tokens: int,
    repeats: int,
) -> StepTimeFile:
    try:
        from balanceroute.calibrate.run import calibrate as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"calibrate needs {error.name}; install it with: pip install 'balanceroute[serve]'"
        ) from error
    return asyncio.run(
        run(
            url,
            model=model,
            num_reqs=_counts("--requests", requests),
            prompt_tokens=_counts("--prompt-tokens", prompt_tokens),
            output_tokens=output_tokens,
            repeats=repeats,
            on_sample=_show,
        )
    )[0]


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
