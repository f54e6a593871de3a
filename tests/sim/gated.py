"""Runs behind a prefill gate, for timelines worked by hand; steps last C = 1 s.

Prompts cost nothing, so the step that starts at n s is step n. Under `round_robin` and immediate
binding, request i goes to rank i mod 2. Unless a test says otherwise, a (rank 0) and b (rank 1)
come at 0 and decode to the end, and what is asked is when the requests after them are admitted.
"""

from __future__ import annotations

from typing import Any

from balanceroute.types import RunRecords
from tests.sim.runs import make_workload, run

LONG = 40  # output tokens: longer than anything that is looked at


def serve(
    gate: str | None,
    arrivals_s: list[float],
    *,
    prompts: list[int] | None = None,
    outputs: list[int] | None = None,
    **settings: Any,
) -> RunRecords:
    """Run requests on two ranks of four slots; all prompts have 2 tokens unless said."""
    num_requests = len(arrivals_s)
    workload = make_workload(
        prompts or [2] * num_requests, outputs or [LONG] * num_requests, arrivals_s
    )
    defaults: dict[str, Any] = {
        "num_ranks": 2,
        "num_slots": 4,
        "binding": "immediate",
        "prefill_budget_tokens": 16,
    }
    return run(workload, "round_robin", prefill_gate=gate, **(defaults | settings))


def admitted(gate: str | None, arrivals_s: list[float], **settings: Any) -> list[float]:
    """Return when requests start, as `serve` runs them."""
    times_s: list[float] = serve(gate, arrivals_s, **settings).requests.admitted_s.tolist()
    return times_s
