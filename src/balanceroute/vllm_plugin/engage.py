"""How the plug-in sets to work in a client that vLLM has just made."""

from __future__ import annotations

import atexit
import importlib
import logging
from functools import partial
from typing import Any

import numpy as np

from balanceroute import __version__
from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import UNLIMITED_TOKENS
from balanceroute.live.warm import warm
from balanceroute.policies.base import Policy
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.costs import parse_costs
from balanceroute.policies.registry import make_policy
from balanceroute.vllm_plugin.ahead import Ahead
from balanceroute.vllm_plugin.balancer import SILENT_STEPS, Balancer
from balanceroute.vllm_plugin.engagement import Engagement, Send
from balanceroute.vllm_plugin.facts import RequestFacts
from balanceroute.vllm_plugin.meters import Reporter
from balanceroute.vllm_plugin.peers import Peers
from balanceroute.vllm_plugin.settings import PluginSettings

POLICY_STREAM = 2  # which random numbers of a seed the policy uses, as in the simulator

log = logging.getLogger("vllm.plugins.balanceroute")


def engage(client: Any, settings: PluginSettings, *, send: Send, routes: bool) -> Engagement:
    """Set to work in a client, and say so.

    Parameters
    ----------
    client : DPLBAsyncMPClient
        Whose ranks are up.
    settings : PluginSettings
        Of the operator.
    send : callable
        vLLM's own ``add_request_async``.
    routes : bool
        False: count only.

    Raises
    ------
    ConfigError
        If the settings name a policy or costs that are none.
    """
    num_ranks = len(client.core_engines)
    is_pooled, why = binding_of(client, settings) if routes else (False, "it only counts")
    costs = parse_costs(settings.costs) if settings.costs else None
    balancer = Balancer(
        num_ranks=num_ranks,
        num_slots=settings.slots or client.vllm_config.scheduler_config.max_num_seqs,
        kv_tokens=_kv_tokens(client),
        policy=_policy(settings) if routes else LeastTokens(),
        is_pooled=is_pooled,
        ahead=Ahead(settings.ahead),
        renew=partial(_policy, settings) if is_pooled else None,
        costs=costs,
        silent_steps=SILENT_STEPS + client.vllm_config.parallel_config.pipeline_parallel_size - 1,
    )
    _warm(settings, num_ranks=num_ranks, costs=costs, is_pooled=is_pooled)
    engagement = Engagement(
        balancer=balancer,
        reporter=Reporter(balancer, policy=settings.policy, mode="route" if routes else "observe"),
        peers=_peers(client, num_ranks),
        client=client,
        send=send,
        failed_outputs=failed_outputs,
        routes=routes,
        queue_size=settings.queue_size,
        queue_timeout_s=settings.queue_timeout_secs,
        settle_s=settings.settle_secs,
        has_barrier=client.vllm_config.model_config.is_moe,
    )
    _say(client, settings, is_pooled=is_pooled, why=why, routes=routes)
    return engagement


def binding_of(client: Any, settings: PluginSettings) -> tuple[bool, str]:
    """Return whether requests may be held, and why.

    They are held where that can pay and is safe: ranks that meet at a barrier, one API server,
    which then knows of every slot, and an engine that has no order of its own among those that
    wait.
    """
    if settings.binding != "auto":
        return settings.binding == "pooled", "as set"
    config = client.vllm_config
    if not config.model_config.is_moe:
        return False, "dense ranks step by themselves"
    if client.client_count > 1:
        return False, f"{client.client_count} API servers share the ranks"
    if config.scheduler_config.policy != "fcfs":
        return False, f"the engine's order is {config.scheduler_config.policy}"
    if config.kv_transfer_config is not None:
        return False, "KV caches come from elsewhere"
    return True, "the ranks meet at a barrier"


def failed_outputs(request_id: str) -> Any:
    """Return what a rank would report of a request that has failed; its caller gets HTTP 500."""
    engine = importlib.import_module("vllm.v1.engine")
    output = engine.EngineCoreOutput(request_id, [], finish_reason=engine.FinishReason.ERROR)
    return engine.EngineCoreOutputs(outputs=[output], finished_requests={request_id})


def _policy(settings: PluginSettings) -> Policy:
    return make_policy(settings.policy, rng=np.random.default_rng((settings.seed, POLICY_STREAM)))


def _kv_tokens(client: Any) -> int:
    """Return the KV tokens of a rank; vLLM adds up the blocks of all of a client's ranks.

    No limit where there are no blocks of one size.
    """
    cache = client.vllm_config.cache_config
    num_tokens = int(cache.num_gpu_blocks or 0) * int(cache.block_size or 0)
    return num_tokens // len(client.core_engines) or UNLIMITED_TOKENS


def _peers(client: Any, num_ranks: int) -> Peers | None:
    if client.client_count == 1:
        return None
    name = f"{client.stats_update_address}/{client.engine_ranks_managed[0]}"
    count, index = client.client_count, client.client_index
    peers = Peers(name, num_ranks=num_ranks, num_peers=count, own_index=index)
    atexit.register(peers.remove)
    return peers


def _warm(
    settings: PluginSettings, *, num_ranks: int, costs: StepCosts | None, is_pooled: bool
) -> None:
    """Compile what is going to be used, before the first request has to wait for it."""
    if is_pooled:
        warm(settings.policy, num_ranks=num_ranks, costs=costs)
    balancer = Balancer(
        num_ranks=num_ranks, num_slots=8, kv_tokens=1 << 20, policy=_policy(settings), costs=costs
    )
    for number in range(4):
        rank = balancer.place(RequestFacts(request_id=str(number), prompt_tokens=100))
        balancer.take_step(rank, [_Token(str(number))], None)
    balancer.place(RequestFacts(request_id="silent", prompt_tokens=100))
    for rank in range(num_ranks):
        balancer.take_step(rank, [], {str(number) for number in range(4)})


class _Token:
    """One token of a request."""

    def __init__(self, request_id: str) -> None:
        self.request_id, self.new_token_ids, self.finish_reason = request_id, [1], None


def _say(client: Any, settings: PluginSettings, *, is_pooled: bool, why: str, routes: bool) -> None:
    if not routes:
        log.warning(
            "balanceroute %s watches %d ranks; vLLM chooses", __version__, len(client.core_engines)
        )
        return
    log.warning(
        "balanceroute %s chooses among %d ranks by %s, binding %s (%s)",
        __version__,
        len(client.core_engines),
        settings.policy,
        "late" if is_pooled else "at once",
        why,
    )
    if not client.vllm_config.model_config.is_moe:
        log.warning(
            "balanceroute: this model is dense, so its ranks do not wait for each other; what can "
            "be gained is KV room and shorter queues"
        )
