"""`balanceroute serve --processes N`: the process that starts the others, and what those run."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balanceroute.cli.logs import set_up_logging
from balanceroute.cli.serving import in_url
from balanceroute.cli.simulate import option

if TYPE_CHECKING:
    from balanceroute.cluster.costs import StepCosts
    from balanceroute.live.config import ServeConfig
    from balanceroute.live.processes.orders import Start
    from balanceroute.live.processes.supervisor import Supervisor

PART = "serve-part"  # a command that is for this one only
COMMAND = [sys.executable, "-c", "from balanceroute.cli import main; main()", PART]
OF_SUPERVISOR = ("SIGINT", "SIGTERM", "SIGHUP")


def serve_in_parts(
    settings: ServeConfig,
    costs: StepCosts | None,
    file: Path | None,
    flags: dict[str, Any],
    logging_flags: list[str],
) -> None:
    """Serve in several processes until a signal asks to stop; exit with what one cannot start with.

    Parameters
    ----------
    settings, costs
        The settings, and what a step costs if that is known.
    file, flags
        From where settings are read again.
    logging_flags : list of str
        How each process writes its log.
    """
    from balanceroute.live.processes.in_force import InForce
    from balanceroute.live.processes.orders import Start

    start = Start(
        in_force=InForce.of(settings, settings.addresses),
        costs=costs,
        file=str(file) if file is not None else None,
        flags=flags,
        folder="",
        sockets=[],
    )
    if code := asyncio.run(_supervise(start, [*COMMAND, *logging_flags])):
        raise typer.Exit(code)


async def _supervise(start: Start, command: list[str]) -> int:
    from balanceroute.live.processes.supervisor import Supervisor

    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(start, command)
    try:
        if code := await supervisor.start(stop):
            return code
        if not stop.is_set():
            _announce(start, supervisor)
        await stop.wait()
        return 0
    finally:
        await supervisor.stop()


def _announce(start: Start, supervisor: Supervisor) -> None:
    """Say where clients are served, and take orders to read settings again."""
    settings = start.in_force.config
    if start.file is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, supervisor.reload)
    host = in_url(settings.host)
    grpc = f"grpc://{host}:{supervisor.grpc_port} and " if supervisor.grpc_port else ""
    typer.echo(
        f"balanceroute: {settings.policy} in front of {len(settings.addresses)} ranks, "
        f"{settings.processes} data planes, on {grpc}http://{host}:{supervisor.port}"
    )
    sys.stdout.flush()


def serve_part(
    log_level: Annotated[str, option("As of serve.")] = "info",
    log_format: Annotated[str, option("As of serve.")] = "text",
) -> None:
    """Be one of the processes of `serve --processes`, which tells what over standard input."""
    for name in OF_SUPERVISOR:  # sent to all of them, they are for the one that orders
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    import uvloop

    from balanceroute.live.processes.orders import read_start

    set_up_logging(log_level, log_format)
    start = read_start()
    if start.plane < 0:
        from balanceroute.live.processes.brain import run_brain

        uvloop.run(run_brain(start))
    else:
        from balanceroute.live.processes.plane import run_plane

        uvloop.run(run_plane(start))
