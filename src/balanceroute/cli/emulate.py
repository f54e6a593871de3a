"""`balanceroute emulate`: a vLLM-like server with data-parallel ranks, without a GPU."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, cast

from balanceroute.cli.options import PrefillBudget, PrefillTime, StepTimeText
from balanceroute.cli.simulate import _parse_speeds, option
from balanceroute.errors import MissingExtraError

if TYPE_CHECKING:
    from balanceroute.emulator.config import Role
    from balanceroute.emulator.group import EmulatedGroup


def emulate(
    ranks: Annotated[int, option("Ranks of a group, G.")] = 8,
    slots: Annotated[int, option("Running requests per rank, B.")] = 72,
    host: Annotated[str, option("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option("First port; 0 takes free ones.")] = 8000,
    groups: Annotated[int, option("Independent groups, on consecutive ports.")] = 1,
    port_per_rank: Annotated[
        bool, option("Give each rank a port of its own.", "--port-per-rank")
    ] = False,
    step_time: StepTimeText = "paper",
    prefill_budget: PrefillBudget = None,
    prefill_time: PrefillTime = 0.0,
    prefill_shared: Annotated[
        float, option("Part of --prefill-time, 0 to 1, that falls to all ranks alike.")
    ] = 0.0,
    mixed_step_time: Annotated[
        float, option("Seconds that a step takes longer on a rank that prefills in it.")
    ] = 0.0,
    rank_speeds: Annotated[
        str | None, option("Speed of each rank, as 1,1,0.8,…; else all 1.")
    ] = None,
    kv_blocks: Annotated[int | None, option("KV blocks per rank; else unlimited.")] = None,
    block_size: Annotated[int, option("Tokens per KV block.")] = 16,
    max_model_len: Annotated[
        int | None, option("Longest prompt and output together; else 131072, or what KV holds.")
    ] = None,
    speedup: Annotated[float, option("Emulated seconds per second.")] = 1.0,
    stream_interval: Annotated[int, option("Tokens per chunk of a stream.")] = 1,
    served_model_name: Annotated[str, option("Name of the model.")] = "emulated",
    mean_output_tokens: Annotated[
        float, option("Mean length of outputs that no request determines.")
    ] = 128.0,
    role: Annotated[
        str, option("plain, prefill, decode or both; with --groups one each, as prefill,decode.")
    ] = "plain",
    kv_hold_timeout_secs: Annotated[
        float, option("Seconds that prefilled KV is kept for a decode rank.")
    ] = 480.0,
    seed: Annotated[int, option("Seed of output lengths.")] = 0,
) -> None:
    """Serve an emulated group of ranks in lockstep, with the endpoints and metrics of vLLM."""
    _require_extra()
    from balanceroute.cluster.costs import StepCosts
    from balanceroute.emulator.config import UNLIMITED_BLOCKS, EngineConfig, ServerConfig
    from balanceroute.emulator.serve import serve
    from balanceroute.sim.config import StepTime

    parsed = StepTime.parse(step_time, num_slots=slots)
    costs = StepCosts(
        constant_s=parsed.constant_s,
        s_per_token=parsed.s_per_token,
        kappa0_tokens=parsed.kappa0_tokens,
        prefill_s_per_token=prefill_time,
        prefill_shared=prefill_shared,
        mixed_step_s=mixed_step_time,
        budget_tokens=prefill_budget,
    )
    engine = EngineConfig(
        costs=costs,
        num_ranks=ranks,
        num_slots=slots,
        num_blocks=UNLIMITED_BLOCKS if kv_blocks is None else kv_blocks,
        block_size=block_size,
        rank_speeds=_parse_speeds(rank_speeds),
    )
    config = ServerConfig(
        engine=engine,
        host=host,
        port=port,
        num_groups=groups,
        has_port_per_rank=port_per_rank,
        speedup=speedup,
        stream_interval=stream_interval,
        model=served_model_name,
        max_model_len=max_model_len,
        mean_output_tokens=mean_output_tokens,
        seed=seed,
        roles=tuple(cast("Role", part.strip()) for part in role.split(",")),
        kv_hold_timeout_s=kv_hold_timeout_secs,
    )
    if serve(config, _announce) == signal.SIGINT:
        raise KeyboardInterrupt


def _announce(groups: Sequence[EmulatedGroup]) -> None:
    """Say where the groups are, in one line."""
    from balanceroute.cli.output import print_text

    print_text(f"serving {' '.join(url for group in groups for url in group.urls)}")


def _require_extra() -> None:
    """Raise `MissingExtraError` if what servers need is not installed."""
    try:
        import aiohttp
        import prometheus_client
    except ImportError as error:
        raise MissingExtraError(
            f"the emulated group needs {error.name}; install it with: "
            "pip install 'balanceroute[serve]'"
        ) from error
    del aiohttp, prometheus_client
