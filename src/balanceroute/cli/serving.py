"""What `serve` and `epp` share: options, secrets, and serving until a signal asks to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.cluster.costs import StepCosts
    from balanceroute.live.config import ServeConfig
    from balanceroute.live.kubernetes.discovery import Discovery

# aiohttp, NumPy and Numba are imported inside the command, so that --help stays instant.

KubernetesService = Annotated[
    str | None, option("Service in Kubernetes whose endpoints are the ranks.")
]
KubernetesPool = Annotated[
    str | None, option("InferencePool whose target ports they have; its service, too.")
]
KubernetesNamespace = Annotated[str | None, option("Of both; else the own.")]
API_KEYS, ADMIN_TOKEN = "BALANCEROUTE_API_KEYS", "BALANCEROUTE_ADMIN_TOKEN"
RanksPerUrl = Annotated[int | None, option("Ranks behind each URL that names none; else 1.")]
PolicySpec = Annotated[str | None, option("NAME[,key=value…]; else br_auto.")]
BindingName = Annotated[str | None, option("pooled or immediate; else as the policy does.")]
SlotsPerRank = Annotated[
    int | None, option("Requests that a rank runs together; else learned from its queue.")
]
HasBarrier = Annotated[
    bool | None, option("Whether the ranks step, and fail, together.", "--barrier/--no-barrier")
]
LogLevel = Annotated[str, option("debug, info, warning or error.")]
LogFormat = Annotated[str, option("text, or json: an object per line.")]


def secrets() -> dict[str, Any]:
    """Return the settings that are not flags, since everybody sees those: keys and token."""
    keys = [key.strip() for key in os.environ.get(API_KEYS, "").split(",") if key.strip()]
    return {"api_keys": keys or None, "admin_token": os.environ.get(ADMIN_TOKEN) or None}


def run_serving(serving: Coroutine[Any, Any, None]) -> None:
    """Run a server in the fastest event loop that there is."""
    if sys.platform == "win32":
        asyncio.run(serving)
        return
    import uvloop

    uvloop.run(serving)


def costs_of(settings: ServeConfig) -> StepCosts | None:
    """Return what a step costs, if the settings say so."""
    if settings.step_time is None:
        return None
    from balanceroute.sim.config import SimConfig, StepTime

    return SimConfig(
        step_time=StepTime.parse(settings.step_time, num_slots=settings.slots or 1),
        num_ranks=len(settings.addresses),
        num_slots=settings.slots or 1,
        has_barrier=settings.barrier,
        prefill_budget_tokens=settings.prefill_budget,
        prefill_s_per_token=settings.prefill_time,
        prefill_shared=settings.prefill_shared,
        mixed_step_s=settings.mixed_step_time,
    ).costs


async def serve_until_told(
    settings: ServeConfig,
    reread: Callable[[], ServeConfig] | None,
    *,
    is_picker: bool = False,
    followed: Path | None = None,
) -> None:
    """Serve until a signal asks to stop; streams that have begun are brought to their end.

    Parameters
    ----------
    settings, reread
        The settings, and how they are read again.
    is_picker : bool
        Whether Envoy may ask over gRPC.
    followed : Path or None
        A file that is read again whenever it has changed.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    serving = partial(_serve, stop=stop, is_picker=is_picker, followed=followed)
    if not settings.is_discovered:
        await serving(settings, reread and partial(_named_ranks, reread))
        return
    from balanceroute.live.kubernetes.discovery import discovering

    async with discovering(settings) as found:
        if await _comes_first(found.wait(), stop):
            again = reread and (lambda: found.applied_to(reread()))
            await serving(found.applied_to(settings), again, found=found)


def _named_ranks(reread: Callable[[], ServeConfig]) -> ServeConfig:
    """Read settings again, which name the ranks themselves as before."""
    settings = reread()
    if settings.is_discovered:
        raise ConfigError(
            "where ranks are found cannot change while the router runs; start it anew"
        )
    return settings


async def _comes_first(event: Coroutine[Any, Any, object], stop: asyncio.Event) -> bool:
    """Wait for an event, but not longer than until a signal asks to stop; tell which came."""
    waiting = asyncio.create_task(event)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return not waiting.cancel()


async def _serve(
    settings: ServeConfig,
    reread: Callable[[], ServeConfig] | None,
    *,
    stop: asyncio.Event,
    is_picker: bool,
    followed: Path | None,
    found: Discovery | None = None,
) -> None:
    """Serve with settings that name the ranks; those that are found may change."""
    from balanceroute.live.app import running_router
    from balanceroute.live.reloading import reload
    from balanceroute.live.settings_file import follow
    from balanceroute.live.warm import keep_for_good, warm

    costs, loop = costs_of(settings), asyncio.get_running_loop()
    say_what_comes(settings)
    warm(settings.policy, num_ranks=len(settings.addresses), costs=costs)
    keep_for_good()
    async with running_router(settings, costs, reread, is_picker=is_picker) as (router, port):
        if reread is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, reload, router.parts, reread)
        host = in_url(settings.host)
        local = f", unix:{settings.grpc_socket}" if settings.grpc_socket else ""
        grpc = f"grpc://{host}:{router.grpc_port}{local} and " if router.grpc_port else ""
        typer.echo(
            f"balanceroute: {settings.policy} in front of {router.group.num_ranks} ranks "
            f"on {grpc}http://{host}:{port}"
        )
        sys.stdout.flush()
        if found is not None:  # other endpoints; what else is in force stays
            its, parts = found, router.parts
            found.follow(lambda: reload(parts, lambda: its.applied_to(parts.config)))
        if followed is None or reread is None:
            await stop.wait()
            return
        following = asyncio.create_task(follow(followed, partial(reload, router.parts, reread)))
        await stop.wait()
        following.cancel()


def in_url(host: str) -> str:
    """Return a host as it is written in a URL.

    Examples
    --------
    >>> in_url("10.0.0.1"), in_url("::1")
    ('10.0.0.1', '[::1]')
    """
    return f"[{host}]" if ":" in host else host


def say_what_comes(settings: ServeConfig) -> None:
    """Say what takes a while."""
    typer.echo(
        f"balanceroute: making {settings.policy} ready; a fresh installation compiles", err=True
    )
