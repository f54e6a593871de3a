"""What SGLang shows of its ranks, in the shapes that its own documentation and source have."""

from __future__ import annotations

from balanceroute.live.engine_metrics import EngineState, read_engine_states
from tests.live.fake_engine import metrics_of

# A server with --dp 2 --enable-dp-attention --enable-metrics: one series per rank, and where
# requests have priorities one per priority too, beside the sum under an empty label.
METRICS = """# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",priority="",tp_rank="0"} 4.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",priority="1",tp_rank="0"} 1.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",priority="",tp_rank="1"} 7.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 3.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 0.0
# TYPE sglang:token_usage gauge
sglang:token_usage{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 0.25
sglang:token_usage{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 0.5
# TYPE sglang:max_total_num_tokens gauge
sglang:max_total_num_tokens{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 8000.0
sglang:max_total_num_tokens{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 8000.0
"""  # noqa: E501


def test_ranks_are_told_apart() -> None:
    """By `dp_rank`, and the sum over priorities counts."""
    wanted = {
        0: EngineState(num_running=4, num_waiting=3, kv_usage=0.25, kv_tokens=8000),
        1: EngineState(num_running=7, num_waiting=0, kv_usage=0.5, kv_tokens=8000),
    }
    assert wanted == read_engine_states(METRICS)


def test_what_begins_alike_is_something_else() -> None:
    """Counts of a part of the requests are neither all of them nor KV tokens."""
    labels = 'dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"'
    more = f"sglang:num_running_reqs_offline_batch{{{labels}}} 3.0\n"
    assert read_engine_states(METRICS) == read_engine_states(METRICS + more)
    ranks = metrics_of([(3, 5)])
    more = 'vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 5.0\n'
    assert read_engine_states(ranks) == read_engine_states(ranks + more)


def test_half_a_signal_is_none() -> None:
    """A rank without its queue would look idle."""
    lines = [line for line in METRICS.splitlines() if 'num_queue_reqs{dp_rank="1"' not in line]
    assert {} == read_engine_states("\n".join(lines) + "\n")
