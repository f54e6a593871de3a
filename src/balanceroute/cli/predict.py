"""`balanceroute predict`: teach a termination classifier, and see what its answers are worth."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.cli.trace import Format, Seed, Source
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.report.prediction import PredictionResult

# NumPy, Numba and Rich are imported inside the commands, so that --help stays instant.

app = typer.Typer(
    no_args_is_help=True, help="Teach classifiers that say who ends when, and examine them."
)

STANDARD_OUTPUT = Path("-")


@app.command()
def fit(
    source: Source,
    out: Annotated[Path, option("File to keep the classifier in.")],
    classifier: Annotated[str, option("NAME[:key=value…]; see docs/predict.md.")] = "survival",
    requests: Annotated[int | None, option("First so many; else all.")] = None,
    trace_format: Format = None,
    seed: Seed = 0,
) -> None:
    """Teach a classifier the requests of a trace, in their order, and save it."""
    from balanceroute.cli.output import print_text
    from balanceroute.predict import fit as teach
    from balanceroute.predict import make_classifier, save
    from balanceroute.report.prediction.requests import read_requests

    make_classifier(classifier)  # so that a misspelt one is not found out after a long file
    if out.resolve() == Path(source).resolve():
        raise ConfigError(f"--out {out} is the trace itself; name another file")
    with progress_bar() as show:
        workload, _ = read_requests(
            source,
            format_name=trace_format,
            num_requests=requests,
            seed=seed,
            on_progress=partial(show, f"Reading {Path(source).name}"),
        )
        taught = teach(workload, classifier, on_progress=partial(show, f"Teaching {classifier}"))
    save(taught, out)
    plural = "" if workload.num_requests == 1 else "s"
    print_text(
        f"{out}: {classifier}, taught {workload.num_requests:,} request{plural} of {workload.name} "
        f"({out.stat().st_size / 1000:,.0f} kB)"
    )
    for note in workload.notes:
        print_text(f"note: {note}")


@app.command()
def evaluate(
    classifier: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file of `predict fit`, or NAME[:key=value…].",
            show_default=False,
        ),
    ],
    source: Source,
    horizon: Annotated[int, option("Steps within which requests end or not, H.")] = 80,
    fit_ratio: Annotated[
        float, option("Part of the requests to learn from; the rest is asked about.")
    ] = 0.5,
    requests: Annotated[
        int | None, option("First so many; else 40,000 of a file at most, 20,000 of a preset.")
    ] = None,
    ranks: Annotated[int, option("Simulated: ranks of the group, G.")] = 8,
    slots: Annotated[int, option("Simulated: running requests per rank, B.")] = 32,
    pool: Annotated[int | None, option("Simulated: requests that wait; else 4 G.")] = None,
    repeats: Annotated[int, option("Simulated: runs per policy, each with the next seed.")] = 3,
    html: Annotated[Path | None, option("Page to write.")] = None,
    as_json: Annotated[
        Path | None, option("File for the figures; - prints them and nothing else.", "--json")
    ] = None,
    trace_format: Format = None,
    seed: Seed = 0,
) -> None:
    """Try a classifier on the later part of a trace, and what policies make of it."""
    from balanceroute.report.prediction import Examination
    from balanceroute.sim.config import SimConfig, StepTime

    examination = Examination(
        classifier=classifier,
        source=source,
        config=SimConfig(
            step_time=StepTime.parse("paper", num_slots=slots),
            num_ranks=ranks,
            num_slots=slots,
            pool_size=pool,
        ),
        horizon=horizon,
        fit_ratio=fit_ratio,
        format_name=trace_format,
        num_requests=requests,
        seed=seed,
        num_repeats=repeats,
    )
    with progress_bar() as show:
        result = examination.run(show)
    _publish(result, html=html, as_json=as_json)


def _publish(result: PredictionResult, *, html: Path | None, as_json: Path | None) -> None:
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import write_atomically
    from balanceroute.report.prediction import judge, render_tables
    from balanceroute.report.prediction.result import to_json

    if as_json == STANDARD_OUTPUT:
        print_bytes(to_json(result))
    else:
        notes = [f"note: {note}" for note in result.simulation.workload.notes]
        print_rich(*notes, *render_tables(result), "", *judge(result))
        if as_json is not None:
            write_atomically(as_json, to_json(result))
    if html is not None:
        from balanceroute.report.prediction.page import write_page

        write_page(result, html, command=shlex.join(["balanceroute", *sys.argv[1:]]))
