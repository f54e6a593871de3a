"""Prefill gates of engines by name, with the settings that operators know."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.kernels.gates import (
    GROUP_GATE,
    NUM_ATTEMPTS,
    RANK_GATE,
    SGLANG,
    TRTLLM,
    VLLM,
    Gate,
    GateRules,
)
from balanceroute.specs import parse_setting, read_settings, unknown

SGLANG_MAX_DELAY_MS = 5000.0  # what SGLang takes if nobody says
MAX_STEPS = 1_000_000_000


class PrefillGate(Protocol):
    """When an engine lets its ranks prefill."""

    @property
    def needs_kv_tokens(self) -> bool:
        """Tell whether the rule asks how full a rank's KV tokens are."""
        ...

    def rules(self) -> GateRules:
        """Return the rule and its settings as kernels take them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangDelayer:
    """SGLang's prefill delayer.

    While some rank can prefill and another cannot, no rank admits a request, until all can or
    `max_delay_passes` is reached; prefills under way go on. Where all can, it waits as long as the
    fullest rank has fewer free slots than the largest recent prefill batch of any rank had requests
    (or a queue is too short), within the same limit, except for the first time ever. [1]_

    Attributes
    ----------
    max_delay_passes : int
        Steps; the last of so many admits. At least 1, which never holds anything.
    token_usage_low_watermark : float or None
        In (0, 1]: if a rank that can prefill uses less of its KV tokens, nothing is held.
    queue_min_ratio : float or None
        Above 0: where all ranks can prefill, also wait until the longest queue has this part of
        the requests that the fullest rank decodes, but no more than the largest recent batch.
    max_delay_ms : float or None
        Above 0: how long a queue that is too short is waited for; None takes 5,000. Needs
        `queue_min_ratio`.

    Notes
    -----
    Where no rank runs anything nothing is held: SGLang's loop would turn without a forward pass,
    which takes hardly any time. SGLang's ranks prefill and decode in turns, these in one step.

    References
    ----------
    .. [1] SGLang 0.5.23, ``srt/managers/prefill_delayer.py``, switched on there by
       ``--enable-prefill-delayer``; the settings are the options ``--prefill-delayer-…``.
    """

    max_delay_passes: int = 30
    token_usage_low_watermark: float | None = None
    queue_min_ratio: float | None = None
    max_delay_ms: float | None = None

    def __post_init__(self) -> None:
        _require_steps("sglang", "max_delay_passes", self.max_delay_passes, 1)
        watermark = self.token_usage_low_watermark
        if watermark is not None and not 0 < watermark <= 1:
            raise ConfigError(
                "prefill gate sglang: token_usage_low_watermark must be above 0 and at most 1, "
                f"got {watermark:g}"
            )
        for name in ("queue_min_ratio", "max_delay_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"prefill gate sglang: {name} must be above 0, got {value:g}")
        if self.max_delay_ms is not None and self.queue_min_ratio is None:
            raise ConfigError("prefill gate sglang: max_delay_ms needs queue_min_ratio")

    @property
    def needs_kv_tokens(self) -> bool:
        """Tell whether there is a watermark."""
        return self.token_usage_low_watermark is not None

    def rules(self) -> GateRules:
        """Return the rule and its settings as kernels take them."""
        return GateRules(
            kind=SGLANG,
            max_delay_passes=self.max_delay_passes,
            low_watermark=self.token_usage_low_watermark or 0.0,
            queue_min_ratio=self.queue_min_ratio or 0.0,
            max_delay_s=(self.max_delay_ms or SGLANG_MAX_DELAY_MS) / 1000,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrtllmBalance:
    """TensorRT-LLM's attention-DP balance.

    Nobody prefills until every rank can, or for `timeout_iters` steps, and once every rank can for
    `batching_wait_iters` steps more. If some rank decodes nothing, nothing is held. What is held is
    all prefill, that under way included. [1]_

    Attributes
    ----------
    enable_balance : bool
        False holds nothing. It is off by default in TensorRT-LLM; naming the gate switches it on.
    timeout_iters, batching_wait_iters : int
        Steps, at least 0.
    min_generation_requests : int
        While some rank decodes fewer than this, the next setting takes the place of
        `timeout_iters`. 0 for never.
    low_occupancy_timeout_iters : int
        Steps, from 0 to `timeout_iters`.

    References
    ----------
    .. [1] TensorRT-LLM, ``_torch/pyexecutor/py_executor.py`` at commit 0004396 of main (later than
       August 2026); "ADP Balance Strategy", blog 10 of its documentation. The first three settings
       are those of ``attention_dp_config``, the others the environment's ``TLLM_ADP_BALANCE_…``.
    """

    enable_balance: bool = True
    timeout_iters: int = 50
    batching_wait_iters: int = 10
    min_generation_requests: int = 0
    low_occupancy_timeout_iters: int = 0

    def __post_init__(self) -> None:
        for name in (
            "timeout_iters",
            "batching_wait_iters",
            "min_generation_requests",
            "low_occupancy_timeout_iters",
        ):
            _require_steps("trtllm", name, getattr(self, name), 0)
        if self.low_occupancy_timeout_iters > self.timeout_iters:
            raise ConfigError(
                "prefill gate trtllm: low_occupancy_timeout_iters must be at most timeout_iters "
                f"({self.timeout_iters}), got {self.low_occupancy_timeout_iters}"
            )

    @property
    def needs_kv_tokens(self) -> bool:
        """Tell that the rule does not ask for KV tokens."""
        return False

    def rules(self) -> GateRules:
        """Return the rule and its settings as kernels take them."""
        if not self.enable_balance:
            return GateRules()
        return GateRules(
            kind=TRTLLM,
            timeout_iters=self.timeout_iters,
            batching_wait_iters=self.batching_wait_iters,
            min_generation_reqs=self.min_generation_requests,
            low_occupancy_timeout_iters=self.low_occupancy_timeout_iters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmInterval:
    """vLLM's prefill schedule interval.

    Ranks prefill in every so many steps of the group, counted from when it was last idle. In the
    others a rank holds all prefill, that under way included, unless it decodes nothing or its last
    admissions left requests in its queue. [1]_

    Attributes
    ----------
    prefill_schedule_interval : int
        Steps, at least 1; 1, which is vLLM's default, holds nothing.

    Notes
    -----
    vLLM goes on to count for up to 16 steps of a group that has become idle, and admits a request
    with a single token left to compute in every step.

    References
    ----------
    .. [1] vLLM 0.32.0, ``v1/engine/core.py`` and ``v1/core/sched/scheduler.py``; pull request
       44558, June 2026.
    """

    prefill_schedule_interval: int = 1

    def __post_init__(self) -> None:
        name = "prefill_schedule_interval"
        _require_steps("vllm", name, self.prefill_schedule_interval, 1)

    @property
    def needs_kv_tokens(self) -> bool:
        """Tell that the rule does not ask for KV tokens."""
        return False

    def rules(self) -> GateRules:
        """Return the rule and its settings as kernels take them."""
        return GateRules(kind=VLLM, interval=self.prefill_schedule_interval)


GATES: dict[str, type[SglangDelayer] | type[TrtllmBalance] | type[VllmInterval]] = {
    "sglang": SglangDelayer,
    "trtllm": TrtllmBalance,
    "vllm": VllmInterval,
}


def make_gate(spec: str) -> PrefillGate:
    """Build a gate from ``NAME[,key=value…]``.

    Raises
    ------
    ConfigError
        For an unknown name or setting (with the nearest known one), or a value out of range.

    Examples
    --------
    >>> make_gate("trtllm,timeout_iters=20")
    TrtllmBalance(enable_balance=True, timeout_iters=20, batching_wait_iters=10,
    min_generation_requests=0, low_occupancy_timeout_iters=0)
    >>> make_gate("sgl")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: unknown prefill gate 'sgl'; did you mean 'sglang'?
    Known: sglang, trtllm, vllm
    """
    name, *settings = (part.strip() for part in spec.split(","))
    if name not in GATES:
        raise ConfigError(unknown("prefill gate", name, GATES))
    owner, hints = f"prefill gate {name}", typing.get_type_hints(GATES[name])
    texts = read_settings(owner, settings, hints)
    values = {key: parse_setting(owner, key, text, hints[key]) for key, text in texts.items()}
    return GATES[name](**values)


def gate_state(spec: str | None, num_ranks: int) -> Gate:
    """Return a gate for kernels that has seen nothing yet; without a `spec` it holds nothing."""
    rules = GateRules() if spec is None else make_gate(spec).rules()
    attempts = np.zeros((num_ranks, NUM_ATTEMPTS), np.int64)
    return Gate(rules, np.zeros(1, GROUP_GATE), np.zeros(num_ranks, RANK_GATE), attempts)


def _require_steps(gate: str, name: str, value: int, least: int) -> None:
    if not least <= value <= MAX_STEPS:
        raise ConfigError(
            f"prefill gate {gate}: {name} must be from {least} to {MAX_STEPS}, got {value}"
        )
