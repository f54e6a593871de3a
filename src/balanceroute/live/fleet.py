"""What is different where the ranks are whole groups, each behind a router of its own."""

from __future__ import annotations

from typing import Any

FLEET = "br_fleet"
# Settings that are usual then.
FLEET_DEFAULTS: dict[str, Any] = {
    "barrier": False,
    "health_check_endpoint": "/readiness",
    "retry_max_attempts": 5,  # two that fail close a group, and two groups may go at once
    "session_header": "X-Session-Id",
    "prefix_blocks": 65_536,
}


def is_fleet(policy: str) -> bool:
    """Tell whether a policy chooses among groups."""
    return policy.partition(",")[0].strip() == FLEET
