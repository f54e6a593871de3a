from __future__ import annotations

import numpy as np
import pytest

from balanceroute.afd.loads import worker_load
from balanceroute.afd.routing import barrier_ratio, simulate_routed
from balanceroute.afd.slots import slot_load
from balanceroute.errors import ConfigError
from balanceroute.metrics import summarize
from tests.afd.workloads import bundle, drawn, requests


@pytest.mark.slow
def test_what_policies_leave_of_the_barrier() -> None:
    """Turns leave all of it, within the noise of a short run; BR-0 leaves little."""
    workload, plain = drawn(), bundle(32)
    assert barrier_ratio(workload, plain, "round_robin") == pytest.approx(1.0, abs=0.25)
    assert barrier_ratio(workload, plain, "br_0") < 0.3


@pytest.mark.slow
def test_the_corrected_rule_predicts_other_sizes() -> None:
    """The ratio of eight workers gives the largest load of 4 and 16 to 2 %."""
    workload, plain = drawn(), bundle(32)
    load = worker_load(slot_load(workload), 32)
    squeezed = load.squeezed(barrier_ratio(workload, plain, "br_0"))
    for r in (4, 16):
        run = simulate_routed(workload, plain, r, "br_0", num_cycles=2000).run
        barrier = run.max_load_tokens / run.mean_load_tokens
        assert squeezed.expected_max(r) / load.mean_tokens == pytest.approx(barrier, rel=0.02)
        assert load.expected_max(r) / load.mean_tokens > barrier + 0.03


def test_equal_requests_leave_no_barrier_to_compare() -> None:
    """Then every policy leaves what there is."""
    assert barrier_ratio(requests([50] * 20, [1] * 20), bundle(4), "round_robin") == 1.0


def test_records_are_in_the_pipelines_time() -> None:
    """Steps follow on each other, tokens come at their ends, and nobody is served before."""
    routed = simulate_routed(drawn(), bundle(16), 4, "least_tokens", num_cycles=300)
    assert routed.run.num_cycles == 300
    assert len(routed.records) == 2
    for place, records in enumerate(routed.records):
        steps, asked = records.steps, records.requests
        ends = steps.start_s + steps.duration_s
        assert ends == pytest.approx(routed.run.end_s[place][: len(ends)])
        assert steps.start_s[1:] == pytest.approx(ends[:-1])
        done = ~np.isnan(asked.finished_s) & ~np.isnan(asked.admitted_s)
        assert done.sum() > 100
        assert (asked.finished_s[done] > asked.admitted_s[done]).all()
        tokens = asked.output_tokens[done]
        lasted = asked.finished_s[done] - asked.admitted_s[done]
        assert lasted / tokens == pytest.approx(routed.run.tpot_s, rel=0.15)
        assert summarize(records).tpot_s.mean == pytest.approx(routed.run.tpot_s, rel=0.05)


def test_bad_settings() -> None:
    """Sizes and policies are checked."""
    with pytest.raises(ConfigError, match="at least 1, got 0 and 10"):
        simulate_routed(drawn(), bundle(4), 0, "br_0", num_cycles=10)
    with pytest.raises(ConfigError, match="unknown policy 'br_9'"):
        simulate_routed(drawn(), bundle(4), 2, "br_9", num_cycles=10)
