"""`balanceroute serve`: the router in front of a group's ranks."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from balanceroute.cli.logs import set_up_logging
from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError, MissingExtraError

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


def serve(
    more_urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="More of --worker-urls.")
    ] = None,
    worker_urls: Annotated[
        list[str] | None,
        option("One per rank: http://host:port, or http://host:port@rank behind one port."),
    ] = None,
    config: Annotated[
        Path | None, option("YAML file with these settings; flags go before it.")
    ] = None,
    kubernetes_service: KubernetesService = None,
    kubernetes_pool: KubernetesPool = None,
    kubernetes_namespace: KubernetesNamespace = None,
    intra_node_data_parallel_size: Annotated[
        int | None, option("Ranks behind each URL that names none; else 1.")
    ] = None,
    rank_field: Annotated[
        str | None, option("How a rank is named: header (vLLM), body (SGLang) or none.")
    ] = None,
    prefill_urls: Annotated[
        list[str] | None, option("Servers that compute prompts first; may be repeated.")
    ] = None,
    policy: Annotated[str | None, option("NAME[,key=value…]; else br_auto.")] = None,
    seed: Annotated[int | None, option("Seed of the policy's chance; else 0.")] = None,
    binding: Annotated[str | None, option("pooled or immediate; else as the policy does.")] = None,
    slots: Annotated[
        int | None, option("Requests that a rank runs together; else learned from its queue.")
    ] = None,
    kv_tokens: Annotated[
        int | None, option("KV tokens per rank; else as the engine tells.")
    ] = None,
    barrier: Annotated[
        bool | None, option("Whether the ranks step, and fail, together.", "--barrier/--no-barrier")
    ] = None,
    tokenizer: Annotated[
        str | None, option("The model's tokenizer.json, to count prompts with.")
    ] = None,
    count_by: Annotated[
        str | None, option("estimate, tokenizer or engine; else tokenizer if one is given.")
    ] = None,
    tokenize_timeout_secs: Annotated[
        float | None, option("For the engine's count; else 0.5.")
    ] = None,
    step_time: Annotated[
        str | None, option("What a step costs, as for simulate; else unknown.")
    ] = None,
    prefill_budget: Annotated[
        int | None, option("Tokens per rank and step where ranks prefill too; else decode-only.")
    ] = None,
    prefill_time: Annotated[float | None, option("Seconds per prompt token computed.")] = None,
    host: Annotated[str | None, option("Where to listen; else 127.0.0.1.")] = None,
    port: Annotated[int | None, option("0 takes a free one; else 30000.")] = None,
    request_timeout_secs: Annotated[float | None, option("For a whole answer; else 1800.")] = None,
    queue_size: Annotated[int | None, option("Requests that may wait; else 4096.")] = None,
    queue_timeout_secs: Annotated[float | None, option("How long; else 600.")] = None,
    retry_max_attempts: Annotated[int | None, option("Sends of one request; else 3.")] = None,
    health_check_interval_secs: Annotated[float | None, option("Else 2.")] = None,
    health_check_timeout_secs: Annotated[float | None, option("Else 2.")] = None,
    health_check_endpoint: Annotated[str | None, option("Else /health.")] = None,
    health_failure_threshold: Annotated[int | None, option("Failures in a row; else 2.")] = None,
    health_success_threshold: Annotated[int | None, option("Successes in a row; else 1.")] = None,
    admin_port: Annotated[
        int | None, option("Where administrators change the router; else nowhere.")
    ] = None,
    shadow: Annotated[
        str | None, option("Policy of which to say what it would gain; needs --step-time, --slots.")
    ] = None,
    decision_log: Annotated[
        str | None, option("File for every decision and why; `replay` reads it. Else none.")
    ] = None,
    decisions: Annotated[
        bool | None, option("Also choose ranks for gateways that carry requests themselves.")
    ] = None,
    grpc_port: Annotated[int | None, option("Where they may ask over gRPC; else nowhere.")] = None,
    session_header: Annotated[
        str | None, option("Names a request's session, for br_fleet; else X-Session-Id.")
    ] = None,
    prefix_blocks: Annotated[
        int | None,
        option("Prompt blocks of 1,024 bytes that a group keeps, for br_fleet; else 65536."),
    ] = None,
    otlp_traces_endpoint: Annotated[
        str | None, option("Collector of OpenTelemetry traces, http://host:4318/v1/traces.")
    ] = None,
    processes: Annotated[
        int | None, option("That carry requests, with one more that decides if several; else 1.")
    ] = None,
    log_level: Annotated[str, option("debug, info, warning or error.")] = "info",
    log_format: Annotated[str, option("text, or json: an object per line.")] = "text",
) -> None:
    """Route OpenAI requests to the ranks of a group so that the ranks stay level.

    Keys that clients must show are read from BALANCEROUTE_API_KEYS, separated by commas.
    """
    flags = dict(locals())
    del flags["config"], flags["log_level"], flags["log_format"], flags["more_urls"]
    flags["worker_urls"] = [*(worker_urls or []), *(more_urls or [])] or None
    if keys := [key.strip() for key in os.environ.get(API_KEYS, "").split(",") if key.strip()]:
        flags["api_keys"] = keys
    flags["admin_token"] = os.environ.get(ADMIN_TOKEN) or None
    flags["otlp_traces_endpoint"] = otlp_traces_endpoint or traces_endpoint(os.environ)
    try:
        from balanceroute.live.reading import read_config
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"serve needs {error.name}; install it with: pip install 'balanceroute[serve]'"
        ) from error
    reread = partial(read_config, config, flags)
    settings = reread()
    set_up_logging(log_level, log_format)
    if settings.processes > 1:
        from balanceroute.cli.serve_part import serve_in_parts

        say_what_comes(settings)
        logging_flags = ["--log-level", log_level, "--log-format", log_format]
        serve_in_parts(settings, costs_of(settings), config, flags, logging_flags)
        return
    serving = serve_until_told(settings, reread if config is not None else None)
    if sys.platform == "win32":
        asyncio.run(serving)
        return
    import uvloop

    uvloop.run(serving)


def traces_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return where OpenTelemetry's own variables say that traces go.

    Examples
    --------
    >>> traces_endpoint({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://10.0.0.9:4318/otel/"})
    'http://10.0.0.9:4318/otel/v1/traces'
    """
    if url := environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return url
    url = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{url.rstrip('/')}/v1/traces" if url else None


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
    from balanceroute.live.warm import warm

    costs, loop = costs_of(settings), asyncio.get_running_loop()
    say_what_comes(settings)
    warm(settings.policy, num_ranks=len(settings.addresses), costs=costs)
    async with running_router(settings, costs, reread, is_picker=is_picker) as (router, port):
        if reread is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, reload, router.parts, reread)
        grpc = f"grpc://{settings.host}:{router.grpc_port} and " if router.grpc_port else ""
        typer.echo(
            f"balanceroute: {settings.policy} in front of {router.group.num_ranks} ranks "
            f"on {grpc}http://{settings.host}:{port}"
        )
        sys.stdout.flush()
        if found is not None:
            again = reread or partial(found.applied_to, settings)
            found.follow(partial(reload, router.parts, again))
        if followed is None or reread is None:
            await stop.wait()
            return
        following = asyncio.create_task(follow(followed, partial(reload, router.parts, reread)))
        await stop.wait()
        following.cancel()


def say_what_comes(settings: ServeConfig) -> None:
    """Say what takes a while."""
    typer.echo(
        f"balanceroute: making {settings.policy} ready; a fresh installation compiles", err=True
    )
