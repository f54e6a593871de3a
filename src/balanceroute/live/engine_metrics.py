"""What engines tell of their ranks on `/metrics`."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# What is read: name by vLLM, name by SGLang.
RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
USAGE = ("vllm:kv_cache_usage_perc", "sglang:token_usage")
CACHE_INFO, MAX_TOKENS = "vllm:cache_config_info", "sglang:max_total_num_tokens"
READ = (*RUNNING, *WAITING, *USAGE, CACHE_INFO, MAX_TOKENS)
RANK_LABELS = ("engine", "dp_rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What one rank says of itself.

    Attributes
    ----------
    num_running, num_waiting : int
        Requests.
    kv_usage : float
        Fraction of its KV tokens in use, in [0, 1].
    kv_tokens : int
        What it can hold; 0 if it does not say.
    num_slots : int
        Requests that it runs together; 0 if it does not say.
    """

    num_running: int
    num_waiting: int
    kv_usage: float
    kv_tokens: int
    num_slots: int = 0

    @property
    def load_tokens(self) -> int:
        """Return its resident tokens."""
        return round(self.kv_usage * self.kv_tokens)


def read_engine_states(text: str) -> dict[int, EngineState]:
    """Return what a page of metrics says of each rank, by the engine's number for it.

    Empty if anything needed is missing, or is no number: half a signal would look like an idle
    rank.

    Examples
    --------
    >>> text = '''vllm:num_requests_running{engine="0",model_name="m"} 3.0
    ... vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
    ... vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
    ... vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
    ... '''
    >>> states = read_engine_states(text)
    >>> states[0].num_running, states[0].load_tokens
    (3, 400)
    >>> read_engine_states('vllm:num_requests_running{engine="0"} 3.0')
    {}
    >>> read_engine_states(text.replace("0.25", "NaN"))
    {}
    """
    try:
        return _read(text)
    except (ValueError, OverflowError):  # a line that is none of metrics, or no finite number
        return {}


def _read(text: str) -> dict[int, EngineState]:
    values: dict[int, dict[str, float]] = defaultdict(dict)
    lines = [line for line in text.splitlines() if line.startswith(READ)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name not in READ:  # one whose name only begins alike
                continue
            rank = next((sample.labels[name] for name in RANK_LABELS if name in sample.labels), "0")
            if not rank.isdecimal() or sample.labels.get("priority"):
                continue  # SGLang shows priorities one by one, beside the sum, whose label is empty
            if sample.name == CACHE_INFO:
                values[int(rank)]["kv_tokens"] = _capacity(sample.labels)
            else:
                values[int(rank)][_meaning(sample.name)] = sample.value
    needed = ("num_running", "num_waiting", "kv_usage")
    if not values or any(name not in of_rank for of_rank in values.values() for name in needed):
        return {}
    return {rank: _state(of_rank) for rank, of_rank in sorted(values.items())}


def _state(values: dict[str, float]) -> EngineState:
    kv_usage = values["kv_usage"]
    if not math.isfinite(kv_usage):
        raise ValueError(f"a rank's KV usage is {kv_usage}")
    return EngineState(
        num_running=int(values["num_running"]),
        num_waiting=int(values["num_waiting"]),
        kv_usage=kv_usage,
        kv_tokens=int(values.get("kv_tokens", 0)),
    )


def _meaning(name: str) -> str:
    meanings = {"num_running": RUNNING, "num_waiting": WAITING, "kv_usage": USAGE}
    return next((key for key, names in meanings.items() if name in names), "kv_tokens")


def _capacity(labels: dict[str, str]) -> float:
    try:
        return float(int(labels["block_size"]) * int(labels["num_gpu_blocks"]))
    except (KeyError, ValueError):
        return 0.0
