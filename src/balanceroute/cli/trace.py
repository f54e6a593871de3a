"""`balanceroute trace`: look at, list, download and convert request traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balanceroute.cli.output import print_rich, print_text
from balanceroute.cli.progress import progress_bar
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.types import Workload
    from balanceroute.workload.stats import LengthStats, TraceStats

# NumPy, pyarrow and Rich are imported inside the commands, so that --help stays instant.

app = typer.Typer(no_args_is_help=True, help="Look at, list, download and convert request traces.")

Source = Annotated[
    str, typer.Argument(help="A trace file, or a preset of `trace list`.", show_default=False)
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="azure, burstgpt, bailian, mooncake or generic; else detected."),
]
Requests = Annotated[
    int | None,
    typer.Option(help="First so many; more than the file has are drawn with replacement."),
]
Seed = Annotated[int, typer.Option(help="Seed of draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command()
def stats(
    source: Source,
    trace_format: Format = None,
    requests: Requests = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Show lengths, rate and burstiness of a trace or preset."""
    from balanceroute.workload.source import fingerprint
    from balanceroute.workload.stats import trace_stats

    workload = _load(source, trace_format, requests, seed)
    figures = trace_stats(workload)
    if as_json:
        described = {"name": workload.name, "fingerprint": fingerprint(workload)}
        _print_json(
            {
                "schema": "balanceroute.trace_stats.v1",
                **described,
                **asdict(figures),
                "notes": workload.notes,
            }
        )
    else:
        _print_stats(workload, figures)


@app.command("list")
def list_traces(as_json: Json = False) -> None:
    """List the presets, which need no file, and the public traces to download."""
    from balanceroute.workload.download import PUBLIC_TRACES
    from balanceroute.workload.presets import PRESETS

    presets = [
        {"name": p.name, "summary": p.summary, "licence": p.licence, "citation": p.citation}
        for p in PRESETS.values()
    ]
    if as_json:
        downloads = [asdict(trace) for trace in PUBLIC_TRACES.values()]
        _print_json(
            {"schema": "balanceroute.trace_list.v1", "presets": presets, "downloads": downloads}
        )
        return
    rows = [(p["name"], p["summary"], p["licence"]) for p in presets]
    _print_table("Presets (need no file)", ("name", "what", "licence"), rows)
    print_text("")
    public = [
        (t.name, f"{t.num_requests:,}", f"{t.num_bytes / 1e6:,.1f}", t.licence)
        for t in PUBLIC_TRACES.values()
    ]
    header = ("name", "requests", "MB", "licence")
    _print_table("Public traces (`balanceroute trace download NAME`)", header, public)


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A public trace of `trace list`.")],
    out: Annotated[Path, typer.Option(help="Folder to put it in.")] = Path(),
    url: Annotated[
        str | None, typer.Option(help="Mirror to use; length and checksum are checked as ever.")
    ] = None,
) -> None:
    """Download a public trace; broken off, it goes on where it stopped."""
    from balanceroute.workload.download import PUBLIC_TRACES
    from balanceroute.workload.download import download as fetch

    trace = PUBLIC_TRACES.get(name)
    if trace is None:
        raise ConfigError(
            f"no public trace is called {name!r}; there are {', '.join(PUBLIC_TRACES)}"
        )
    what = f"Downloading {trace.file_name}"
    with progress_bar(is_bytes=True) as show:
        path = fetch(
            trace, out, url=url, on_bytes=lambda have, _: show(what, have, trace.num_bytes)
        )
    print_text(f"{path}: {trace.num_requests:,} requests, {trace.licence}")
    print_text(f"Please cite {trace.citation}.")


@app.command()
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Ends in .csv, .csv.gz, .csv.zst or .parquet.")],
    sort: Annotated[bool, typer.Option("--sort", help="Sort rows by arrival.")] = False,
    trace_format: Format = None,
    requests: Requests = None,
    seed: Seed = 0,
) -> None:
    """Write a trace or preset as arrival_s,prompt_tokens,output_tokens and what else is known."""
    from balanceroute.workload.convert import write_trace

    workload = _load(source, trace_format, requests, seed, sort=sort)
    write_trace(workload, out)
    print_text(f"{out}: {workload.num_requests:,} requests")
    for note in workload.notes:
        print_text(note)


def _load(
    source: str, trace_format: str | None, requests: int | None, seed: int, *, sort: bool = False
) -> Workload:
    from balanceroute.workload.source import load

    with progress_bar() as show:
        return load(
            source,
            format_name=trace_format,
            num_requests=requests,
            seed=seed,
            sort=sort,
            on_progress=partial(show, f"Reading {Path(source).name}"),
        )


def _print_stats(workload: Workload, figures: TraceStats) -> None:
    print_text(f"{workload.name}: {figures.num_requests:,} requests")
    header = ("tokens", "mean", "p50", "p90", "p99", "max")
    lengths = (("prompt", figures.prompt_tokens), ("output", figures.output_tokens))
    _print_table(None, header, [_length_row(name, length) for name, length in lengths])
    lines = []
    if figures.arrivals is not None:
        arrivals = figures.arrivals
        lines += [
            ("span", f"{arrivals.span_s:,.0f} s"),
            ("mean rate", _figure(arrivals.rate_per_s, ".2f", " requests/s")),
            ("inter-arrival CV", _figure(arrivals.gap_cv, ".2f")),
            ("busiest 10 s / mean", _figure(arrivals.busiest_ratio, ".1f")),
        ]
    shares = f"{figures.top_1_share_ratio:.0%} / {figures.top_10_share_ratio:.0%}"
    lines += [
        ("output tokens in the largest 1 % / 10 %", shares),
        ("correlation of prompt and output", _figure(figures.correlation, "z.2f")),
    ]
    for label, value in lines:
        print_text(f"{label:<41}{value}")
    for note in workload.notes:
        print_text(f"note: {note}")


def _length_row(name: str, length: LengthStats) -> tuple[str, ...]:
    counts = (length.p50, length.p90, length.p99, length.max)
    return (name, f"{length.mean:,.0f}", *(f"{count:,}" for count in counts))


def _figure(value: float | None, spec: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{spec}}{unit}"


def _print_table(title: str | None, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for index, name in enumerate(header):
        is_number = all(row[index][:1].isdigit() for row in rows)
        table.add_column(name, justify="right" if is_number else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    print_rich(table)


def _print_json(document: dict[str, Any]) -> None:
    import json

    print_text(json.dumps(document, indent=2))
