"""What the router of a group tells of it on `/metrics`, to a router in front of several."""

from __future__ import annotations

from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

from balanceroute.cluster.ledger import UNLIMITED_TOKENS
from balanceroute.live.engine_metrics import EngineState, read_engine_states

OF_RANK, WAITING = "balanceroute_rank_", "balanceroute_pool_requests"
OPEN, SLOTS = OF_RANK + "open", OF_RANK + "slots"
IN_FLIGHT, FOREIGN = OF_RANK + "inflight_requests", OF_RANK + "foreign_requests"
LOAD, KV = OF_RANK + "load_tokens", OF_RANK + "kv_tokens"
READ = (OPEN, SLOTS, IN_FLIGHT, FOREIGN, LOAD, KV, WAITING)


def read_states(text: str) -> dict[int, EngineState]:
    """Return what a page of metrics says of each rank, or of a whole group as of one rank.

    Examples
    --------
    Two ranks of which one is closed, and a request that waits for a slot:

    >>> text = '''balanceroute_rank_open{rank="0",worker="a"} 1.0
    ... balanceroute_rank_open{rank="1",worker="b"} 0.0
    ... balanceroute_rank_slots{rank="0",worker="a"} 8.0
    ... balanceroute_rank_slots{rank="1",worker="b"} 8.0
    ... balanceroute_rank_inflight_requests{rank="0",worker="a"} 8.0
    ... balanceroute_rank_inflight_requests{rank="1",worker="b"} 2.0
    ... balanceroute_rank_load_tokens{rank="0",worker="a"} 300.0
    ... balanceroute_rank_load_tokens{rank="1",worker="b"} 100.0
    ... balanceroute_rank_kv_tokens{rank="0",worker="a"} 1000.0
    ... balanceroute_rank_kv_tokens{rank="1",worker="b"} 1000.0
    ... balanceroute_pool_requests 1.0
    ... '''
    >>> state = read_states(text)[0]
    >>> state.num_slots, state.num_running, state.num_waiting, state.kv_tokens, state.load_tokens
    (8, 10, 1, 1000, 400)
    """
    if OPEN not in text:
        return read_engine_states(text)
    try:
        return {0: _read(text)}
    except (ValueError, OverflowError):  # a line that is none of metrics, or no finite number
        return {}


def _read(text: str) -> EngineState:
    sums: dict[str, float] = defaultdict(float)
    is_open: dict[str, bool] = {}
    lines = [line for line in text.splitlines() if line.startswith(READ)]
    samples = [
        sample
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
    ]
    for sample in samples:
        if sample.name == OPEN:
            is_open[sample.labels["rank"]] = sample.value == 1.0
    for sample in samples:
        # A closed rank takes nothing new, so it counts for what it still does only.
        if sample.name in (SLOTS, KV) and not is_open.get(sample.labels["rank"], False):
            continue
        sums[sample.name] += sample.value
    if sums[KV] >= UNLIMITED_TOKENS:  # some rank has not said
        sums[KV] = 0.0
    return EngineState(
        num_running=int(sums[IN_FLIGHT] + sums[FOREIGN]),
        num_waiting=int(sums[WAITING]),
        kv_usage=sums[LOAD] / sums[KV] if sums[KV] > 0 else 0.0,
        kv_tokens=int(sums[KV]),
        num_slots=int(sums[SLOTS]),
    )
