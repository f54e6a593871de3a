"""The settings of a comparison as the report lists them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from balanceroute.report.settings import list_settings
from tests.report.results import GROUP, make_metrics, make_result


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "none: ranks only decode"),
        (
            {"prefill_budget_tokens": 2048, "prefill_s_per_token": 2e-5},
            "up to 2,048 tokens a step at 2e-05 s/token",
        ),
        (
            {
                "prefill_budget_tokens": 2048,
                "prefill_s_per_token": 2e-5,
                "prefill_shared": 0.5,
                "mixed_step_s": 0.003,
                "prefix_cache": True,
                "prefill_gate": "trtllm,timeout_iters=20",
            },
            "up to 2,048 tokens a step at 2e-05 s/token, 50% of it shared by all ranks, 3 ms more "
            "in a step that prefills, cached prefixes for free, ranks wait as by "
            "trtllm,timeout_iters=20",
        ),
    ],
)
def test_prefill_in_words(changes: dict[str, Any], expected: str) -> None:
    """Only what differs from nothing is said."""
    group = msgspec.structs.replace(GROUP, **changes)
    result = make_result(("vllm", make_metrics()), group=group)
    assert expected == dict(list_settings(result))["Prefill"]
