"""Settings that a running router cannot change."""

from __future__ import annotations

from collections.abc import Iterable

from balanceroute.errors import ConfigError
from balanceroute.live.config import ServeConfig

FIXED = (
    "processes",
    "shadow",
    "decision_log",
    "decision_log_max_bytes",
    "decision_log_files",
    "host",
    "port",
    "admin_port",
    "max_body_bytes",
    "max_header_bytes",
    "max_headers",
    "step_time",
    "settle_secs",
    "prefill_budget",
    "prefill_time",
    "prefill_shared",
    "mixed_step_time",
    "prefill_urls",
    "prefill_max_kv_usage",
    "tokenizer",
    "count_by",
    "tokenize_timeout_secs",
    "decisions",
    "grpc_port",
    "grpc_socket",
    "prefix_blocks",
    "otlp_traces_endpoint",
)


def expect_same(before: ServeConfig, after: ServeConfig, names: Iterable[str]) -> None:
    """Raise `ConfigError` if one of these settings has changed."""
    for name in names:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ConfigError(
                f"{name} cannot change while the router runs (from {old!r} to {new!r}); "
                "start it anew"
            )
