"""Whether a run can serve its workload, asked before it begins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.sim.config import SimConfig
from balanceroute.types import Workload


def check_workload(workload: Workload, config: SimConfig) -> None:
    """Raise `ConfigError` for requests that no run under `config` can serve."""
    name, prompts, outputs = workload.name, workload.prompt_tokens, workload.output_tokens
    if workload.num_requests == 0:
        raise ConfigError(f"{name} holds no request")
    if len(outputs) != len(prompts):
        raise ConfigError(
            f"{name} has {len(prompts)} prompt lengths, {len(outputs)} output lengths"
        )
    for what, tokens in (("prompt", prompts), ("output", outputs)):
        shortest = int(tokens.argmin())
        if tokens[shortest] < 1:
            raise ConfigError(
                f"{name}: request {shortest + 1} has {tokens[shortest]} {what} tokens; "
                "at least 1 is needed"
            )
    _check_known(workload)
    if config.prefix_cache and workload.cached_tokens is None:
        raise ConfigError(
            f"{name} does not say what is cached of each prompt; take a trace with a column "
            "cached_tokens, or leave out --prefix-cache"
        )
    if not config.is_saturated:
        _check_arrivals(workload)
    if config.kv_tokens is None:
        return
    whole = prompts.astype(np.int64) + outputs
    largest = int(whole.argmax())
    if whole[largest] > config.kv_tokens:
        raise ConfigError(
            f"{name}: request {largest + 1} needs {whole[largest]} KV tokens (prompt "
            f"{prompts[largest]}, output {outputs[largest]}), but a "
            f"rank has {config.kv_tokens}; raise --kv-tokens to at least {whole[largest]}"
        )


def _check_known(workload: Workload) -> None:
    """See that what is known beyond lengths and arrivals can be true."""
    name, limits, cached = workload.name, workload.max_tokens, workload.cached_tokens
    for what in ("client_ids", "max_tokens", "prompt_hashes", "cached_tokens"):
        values = workload.columns.get(what)
        if values is not None and len(values) != workload.num_requests:
            raise ConfigError(
                f"{name} has {len(values)} {what} for {workload.num_requests} requests"
            )
    if limits is not None:
        is_wrong = (limits != 0) & (limits < workload.output_tokens)
        cure = "write 0 for a limit that is not known"
        _refuse_first(is_wrong, workload, "max_tokens", "output", cure)
    if cached is not None:
        is_wrong = (cached < 0) | (cached >= workload.prompt_tokens)
        cure = "at least 0 are cached, and at least one is computed"
        _refuse_first(is_wrong, workload, "cached_tokens", "prompt", cure)


def _refuse_first(
    is_wrong: NDArray[np.bool_], workload: Workload, column: str, kind: str, cure: str
) -> None:
    """Refuse the first wrong request, if any, by its column and its tokens of a kind."""
    if not is_wrong.any():
        return
    row = int(is_wrong.argmax())
    value, tokens = workload.columns[column][row], workload.columns[f"{kind}_tokens"][row]
    raise ConfigError(
        f"{workload.name}: request {row + 1} has {column} {value} and {tokens} {kind} tokens; "
        f"{cure}"
    )


def _check_arrivals(workload: Workload) -> None:
    name, arrival_s = workload.name, workload.arrival_s
    if arrival_s is None:
        raise ConfigError(
            f"{name} has no arrival times; use --arrivals saturated, or "
            "--arrivals poisson with --rate"
        )
    if len(arrival_s) != workload.num_requests:
        raise ConfigError(
            f"{name} has {len(arrival_s)} arrival times for {workload.num_requests} requests"
        )
    is_wrong = ~(np.isfinite(arrival_s) & (arrival_s >= 0))
    is_wrong[1:] |= arrival_s[1:] < arrival_s[:-1]
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise ConfigError(
            f"{name}: request {row + 1} arrives at {arrival_s[row]} s; arrival times must be "
            "finite, at least 0 and ascending"
        )


def arrival_times(workload: Workload, config: SimConfig) -> NDArray[np.float64]:
    """Return when each request arrives; NaN while a saturated pool has yet to take it."""
    if workload.arrival_s is None or config.is_saturated:
        return np.full(workload.num_requests, np.nan)
    return workload.arrival_s
