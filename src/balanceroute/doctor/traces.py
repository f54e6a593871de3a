"""What a trace's requests would lose at a barrier, and what could be had."""

from __future__ import annotations

import numpy as np

from balanceroute.doctor.diagnosis import LEAST_GAIN_RATIO, Diagnosis, Verdict
from balanceroute.metrics import summarize
from balanceroute.policies.registry import make_policy
from balanceroute.sim.config import SimConfig
from balanceroute.sim.run import simulate
from balanceroute.types import Workload


def diagnose_trace(workload: Workload, config: SimConfig, seed: int = 0) -> Diagnosis:
    """Say the same of a trace, by simulating vLLM's rule and br_auto on it."""
    if not config.has_barrier:
        text = "No barrier, expect no gain: each rank steps at the pace of its own load."
        return Diagnosis(
            verdict="no_gain", summary=text, num_ranks=config.num_ranks, has_barrier="no"
        )
    figures = [
        summarize(
            simulate(
                workload, config, make_policy(name, rng=np.random.default_rng(seed)), seed=seed
            )
        )
        for name in ("vllm", "br_auto")
    ]
    before, after = (each.throughput_tok_per_s for each in figures)
    assert before is not None
    assert after is not None
    gain, idle = after / before - 1.0, 1.0 - figures[0].efficiency
    verdict: Verdict = "gain" if gain >= LEAST_GAIN_RATIO else "no_gain"
    text = (
        f"By vLLM's rule ranks wait {idle:.1%} of the time at the barrier. "
        f"br_auto would gain {gain:+.1%} tokens/s (simulated, seed {seed})."
    )
    return Diagnosis(
        verdict=verdict,
        summary=text,
        num_ranks=config.num_ranks,
        has_barrier="yes",
        constant_s=config.step_time.constant_s,
        s_per_token=config.step_time.s_per_token,
        idle_ratio=idle,
        lost_tokens_per_s=before * (1.0 / figures[0].efficiency - 1.0),
        gain_ratio=gain,
    )
