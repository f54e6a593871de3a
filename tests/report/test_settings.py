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


@pytest.mark.parametrize(
    ("delivery_s", "jitter_s", "expected"),
    [
        (0.0, 0.0, "at once"),
        (0.02, 0.0, "20 ms"),
        (0.02, 0.0125, "20 ms and up to 12.5 ms more by chance"),
        (0.0, 0.01, "0 ms and up to 10 ms more by chance"),
    ],
)
def test_delivery_in_words(delivery_s: float, jitter_s: float, expected: str) -> None:
    """Durations are in milliseconds, and jitter is named if there is any."""
    group = msgspec.structs.replace(GROUP, delivery_s=delivery_s, delivery_jitter_s=jitter_s)
    result = make_result(("vllm", make_metrics()), group=group)
    assert expected == dict(list_settings(result))["Delivery to ranks"]
