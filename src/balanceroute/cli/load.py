"""`balanceroute load`: replay a trace against a server and measure what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from balanceroute.loadgen import LoadConfig, Measurement, Snapshot
    from balanceroute.report.measurement import MeasurementResult
    from balanceroute.types import Workload

# aiohttp, NumPy and Rich are imported inside the command, so that --help stays instant.

EXIT_FAILED_REQUESTS = 1
EXIT_INTERRUPTED = 130
MAX_FILES = 1 << 16


def load(
    source: Annotated[str, typer.Argument(help="A trace file, or a preset of `trace list`.")],
    url: Annotated[str, option("Server or router, as http://127.0.0.1:30000.")],
    trace_format: Annotated[
        str | None, option("Format of the file; else detected.", "--format")
    ] = None,
    requests: Annotated[
        int | None, option("Requests; else all, or 1,000 of a preset, 20,000 with --duration-secs.")
    ] = None,
    seed: Annotated[int, option("Seed of all chance.")] = 0,
    arrivals: Annotated[str, option("saturated, trace or poisson.")] = "saturated",
    rate: Annotated[float | None, option("Poisson: requests/s; else the source's mean.")] = None,
    rate_scale: Annotated[float, option("Factor on the arrival rate.")] = 1.0,
    concurrency: Annotated[
        int | None, option("Saturated: requests kept outstanding; else 64.")
    ] = None,
    pool: Annotated[
        int | None, option("Saturated: the same, beyond the slots of the group at --steps-url.")
    ] = None,
    api: Annotated[str, option("completions or chat.")] = "completions",
    model: Annotated[str | None, option("Name of the model; else the server's first.")] = None,
    stream: Annotated[
        bool, option("Whether answers come token by token.", "--stream/--no-stream")
    ] = True,
    lengths: Annotated[
        str, option("How outputs get their length: header (`emulate`) or ignore-eos (engines).")
    ] = "header",
    prompts: Annotated[
        str | None, option("ids or text; else ids, and text for --api chat.")
    ] = None,
    api_key_env: Annotated[
        str | None, option("Environment variable that holds the server's key.")
    ] = None,
    timeout_secs: Annotated[float, option("Longest time that a request may take.")] = 1800.0,
    warmup_secs: Annotated[float, option("Start of the run that figures leave out.")] = 0.0,
    duration_secs: Annotated[
        float | None, option("How long to send after the warm-up; else until all are sent.")
    ] = None,
    steps_url: Annotated[
        str | None, option("Emulated group to read the steps of, for figures of balance.")
    ] = None,
    label: Annotated[str | None, option("What the run is called in tables; else --url.")] = None,
    out: Annotated[Path | None, option("Folder for result.json and records.npz.")] = None,
    as_json: Annotated[bool, option("Print JSON and nothing else.", "--json")] = False,
) -> None:
    """Replay a trace or preset against an OpenAI-compatible server and measure it."""
    _require_extra()
    from balanceroute.loadgen import LoadConfig, read_requests

    config = LoadConfig(
        url=url,
        arrivals=arrivals,  # type: ignore[arg-type]  # LoadConfig checks the choices
        concurrency=concurrency,
        pool=pool,
        rate_per_s=rate,
        rate_scale=rate_scale,
        seed=seed,
        api=api,  # type: ignore[arg-type]
        is_streamed=stream,
        lengths=lengths,  # type: ignore[arg-type]
        prompts=prompts,  # type: ignore[arg-type]
        model=model,
        api_key=_api_key(api_key_env),
        timeout_s=timeout_secs,
        warmup_s=warmup_secs,
        duration_s=duration_secs,
        steps_url=steps_url,
        label=label,
    )
    if out is not None:
        _make_folder(out)
    with progress_bar() as show:
        workload, num_source_requests = read_requests(
            source,
            config,
            format_name=trace_format,
            num_requests=requests,
            on_progress=partial(show, f"reading {source}"),
        )
    measurement = _run(workload, config)
    from balanceroute.report.measured.make import make_result

    result = make_result(measurement, config, workload, num_source_requests)
    publish(result, measurement, out=out, as_json=as_json)
    if measurement.is_interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if measurement.num_failed:
        raise typer.Exit(EXIT_FAILED_REQUESTS)


def publish(
    result: MeasurementResult, measurement: Measurement, *, out: Path | None, as_json: bool
) -> None:
    """Write the result to `out`, if anywhere, and print it."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import write_atomically
    from balanceroute.records import save_records
    from balanceroute.report.measured.table import describe_requests, render_table
    from balanceroute.report.measurement import to_json

    if out is not None:
        save_records(measurement.records, out / "records.npz")
        write_atomically(out / "result.json", to_json(result))
    if as_json:
        print_bytes(to_json(result))
        return
    run = result.runs[0]
    notes = [f"note: {note}" for note in (*result.workload.notes, *run.notes)]
    written = [] if out is None else [f"\nresult: {out / 'result.json'}"]
    print_rich(*notes, render_table(result), "", *describe_requests(run), *written)


def _run(workload: Workload, config: LoadConfig) -> Measurement:
    from balanceroute.cli.load_progress import load_progress

    _allow_connections()
    with (
        load_progress(config.send_s) as show,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        return runner.run(_replay(workload, config, show))


async def _replay(
    workload: Workload, config: LoadConfig, show: Callable[[Snapshot], None]
) -> Measurement:
    """Replay until the end, or until Ctrl-C; a second Ctrl-C ends everything."""
    from balanceroute.loadgen import replay

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    return await replay(workload, config, stop=stop, on_progress=show)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where there is one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _allow_connections() -> None:
    """Let the process have many connections; what is lacking shows as failed requests."""
    import resource

    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if most == resource.RLIM_INFINITY else min(MAX_FILES, most)
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        return
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit that it does not tell
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"--api-key-env {variable}: there is no such variable, or it is empty")
    return key


def _make_folder(path: Path) -> None:
    """Make the folder before the run, which may take long, and not after it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out {path}: {error.strerror}; choose another folder") from error


def _require_extra() -> None:
    """Raise `MissingExtraError` if what speaks HTTP is not installed."""
    try:
        import aiohttp
    except ImportError as error:
        raise MissingExtraError(
            "the load generator needs aiohttp; install it with: pip install 'balanceroute[serve]'"
        ) from error
    del aiohttp
