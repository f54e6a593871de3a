"""`balanceroute serve`: the router in front of a group's ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from balanceroute.cli.logs import set_up_logging
from balanceroute.cli.serving import (
    BindingName,
    HasBarrier,
    KubernetesNamespace,
    KubernetesPool,
    KubernetesService,
    LogFormat,
    LogLevel,
    PolicySpec,
    RanksPerUrl,
    SlotsPerRank,
    costs_of,
    run_serving,
    say_what_comes,
    secrets,
    serve_until_told,
)
from balanceroute.cli.simulate import option
from balanceroute.errors import MissingExtraError


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
    intra_node_data_parallel_size: RanksPerUrl = None,
    rank_field: Annotated[
        str | None, option("How a rank is named: header (vLLM), body (SGLang) or none.")
    ] = None,
    prefill_urls: Annotated[
        list[str] | None, option("Servers that compute prompts first; may be repeated.")
    ] = None,
    policy: PolicySpec = None,
    seed: Annotated[int | None, option("Seed of the policy's chance; else 0.")] = None,
    binding: BindingName = None,
    slots: SlotsPerRank = None,
    kv_tokens: Annotated[
        int | None, option("KV tokens per rank; else as the engine tells.")
    ] = None,
    barrier: HasBarrier = None,
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
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
) -> None:
    """Route OpenAI requests to the ranks of a group so that the ranks stay level.

    Keys that clients must show are read from BALANCEROUTE_API_KEYS, separated by commas.
    """
    flags = dict(locals())
    del flags["config"], flags["log_level"], flags["log_format"], flags["more_urls"]
    flags["worker_urls"] = [*(worker_urls or []), *(more_urls or [])] or None
    flags |= secrets()
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
    run_serving(serving)


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
