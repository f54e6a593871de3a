"""`balanceroute doctor`: whether imbalance is a problem here, and what it costs."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError, MissingExtraError

EXIT_CODES = {"no_gain": 0, "gain": 1, "unknown": 3}


def doctor(
    sources: Annotated[
        list[str], typer.Argument(metavar="URL...|TRACE", help="Engines, or one trace or preset.")
    ],
    seconds: Annotated[float, option("How long to look at engines.")] = 60.0,
    interval: Annotated[float, option("Seconds between two looks.")] = 0.25,
    barrier: Annotated[
        bool | None,
        option("Whether ranks step together; else as seen.", "--barrier/--no-barrier"),
    ] = None,
    step_time: Annotated[
        str | None, option("What a step costs, as for simulate; else as seen (a trace: paper).")
    ] = None,
    ranks: Annotated[int, option("Of a trace: G.")] = 16,
    slots: Annotated[int, option("Of a trace: B.")] = 72,
    requests: Annotated[int | None, option("Of a trace: how many.")] = None,
    seed: Annotated[int, option("Of the simulations.")] = 0,
    as_json: Annotated[bool, option("Print JSON and nothing else.", "--json")] = False,
) -> None:
    """Say whether imbalance is your problem, what it costs, and what BalanceRoute would gain.

    Exit code 0: nothing to gain. 1: something. 2: bad input. 3: it cannot be told.
    """
    try:
        import aiohttp as _  # noqa: F401  # serve's extra
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"doctor needs {error.name}; install it with: pip install 'balanceroute[serve]'"
        ) from error
    import msgspec

    from balanceroute.doctor.diagnosis import diagnose
    from balanceroute.doctor.samples import take_samples
    from balanceroute.doctor.traces import diagnose_trace
    from balanceroute.sim.config import SimConfig, StepTime
    from balanceroute.workload import load

    if seconds <= 0.0 or interval <= 0.0:
        raise ConfigError(f"--seconds and --interval must be above 0, got {seconds} and {interval}")
    costs = StepTime.parse(step_time, num_slots=slots) if step_time is not None else None
    are_urls = [source.startswith(("http://", "https://")) for source in sources]
    if all(are_urls):
        samples = asyncio.run(take_samples(sources, duration_s=seconds, interval_s=interval))
        found = diagnose(samples, has_barrier=barrier, step_time=costs, seed=seed)
    elif len(sources) > 1:
        raise ConfigError("name engines as http://host:port, or one trace; not both, nor several")
    else:
        config = SimConfig(
            step_time=costs or StepTime.parse("paper", num_slots=slots),
            num_ranks=ranks,
            num_slots=slots,
            has_barrier=barrier is not False,
        )
        num_requests = requests or 12 * ranks * slots
        found = diagnose_trace(load(sources[0], num_requests=num_requests, seed=seed), config, seed)
    typer.echo(msgspec.json.encode(found).decode() if as_json else found.summary)
    sys.exit(EXIT_CODES[found.verdict])
