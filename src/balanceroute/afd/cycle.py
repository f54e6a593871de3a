"""How long a cycle of a bundle takes: r attention workers, f FFN workers, m microbatches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from balanceroute.afd.loads import WorkerLoad
from balanceroute.afd.normal import normal_excess
from balanceroute.afd.profile import DeviceProfile
from balanceroute.errors import ConfigError
from balanceroute.kernels import pipeline

MAX_MICROBATCHES, MAX_SLOTS = 3, 16_384
# Parts that the largest load's distribution is cut into, per number of microbatches.
NUM_BINS = {2: 32, 3: 12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What one cycle is made of, whatever the number of attention workers.

    A cycle takes one microbatch through attention, the network and FFN once; each of its requests
    gets one token. Methods take r, attention workers per bundle, whole or not.

    Attributes
    ----------
    profile : DeviceProfile
        What the stages cost.
    num_slots : int
        B, requests per attention worker and microbatch, 1 to 16,384.
    num_microbatches : int
        m, microbatches in flight, 1 to 3. An attention worker holds m·B requests.
    num_ffn_workers : int
        f, FFN workers of the bundle, at least 1; they share the requests equally.
    """

    profile: DeviceProfile
    num_slots: int
    num_microbatches: int = 2
    num_ffn_workers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_slots <= MAX_SLOTS:
            raise ConfigError(f"--slots must be 1 to {MAX_SLOTS}, got {self.num_slots}")
        if not 1 <= self.num_microbatches <= MAX_MICROBATCHES:
            raise ConfigError(
                f"--microbatches must be 1 to {MAX_MICROBATCHES}, got {self.num_microbatches}"
            )
        if self.num_ffn_workers < 1:
            raise ConfigError(f"--ffn-workers must be at least 1, got {self.num_ffn_workers}")

    def attention_s(self, load_tokens: float) -> float:
        """Return t_A of a worker with B requests that hold `load_tokens` together."""
        return self.attention_constant_s + self.profile.attention.s_per_token * load_tokens

    @property
    def attention_constant_s(self) -> float:
        """Return β_A, what attention on B requests takes before it reads any token."""
        attention = self.profile.attention
        return attention.constant_s + attention.s_per_request * self.num_slots

    def ffn_s(self, num_workers: float) -> float:
        """Return t_F = α_F·rB/f + β_F."""
        ffn = self.profile.ffn
        return ffn.constant_s + ffn.s_per_request * self._requests_per_ffn(num_workers)

    def network_s(self, num_workers: float) -> float:
        """Return t_C, both ways."""
        network = self.profile.network
        is_shared = network.carries == "bundle"
        requests = self._requests_per_ffn(num_workers) if is_shared else self.num_slots
        return network.constant_s + network.s_per_request * requests

    def _requests_per_ffn(self, num_workers: float) -> float:
        return num_workers * self.num_slots / self.num_ffn_workers


def mean_field_s(bundle: Bundle, theta_tokens: float, num_workers: float) -> float:
    """Return the cycle time without chance, τ = max(t_A(B·θ), t_C, t_F).

    Of [1]_; with a network that carries a worker's requests it is that of version 1.

    References
    ----------
    .. [1] arXiv 2601.21351, from version 2 on: mean-field cycle time.
    """
    attention_s = bundle.attention_s(bundle.num_slots * theta_tokens)
    return max(attention_s, bundle.network_s(num_workers), bundle.ffn_s(num_workers))


def gaussian_s(bundle: Bundle, theta_tokens: float, nu_tokens: float, num_workers: float) -> float:
    """Return E[τ] with normal attention loads, the barrier-aware refinement.

    Implements E[τ] = g + σ·∫_z^∞ (1 − Φ(x)^r) dx of [1]_ with g = max(t_C, t_F), z = (g − μ)/σ,
    μ = t_A(B·θ), σ = α_A·√B·ν. Without spread it is `mean_field_s`.

    References
    ----------
    .. [1] arXiv 2601.21351, from version 2 on: Gaussian barrier-aware refinement.
    """
    mean_s = bundle.attention_s(bundle.num_slots * theta_tokens)
    spread_s = bundle.profile.attention.s_per_token * math.sqrt(bundle.num_slots) * nu_tokens
    others_s = max(bundle.network_s(num_workers), bundle.ffn_s(num_workers))
    if spread_s == 0:
        return max(mean_s, others_s)
    return others_s + spread_s * normal_excess((others_s - mean_s) / spread_s, num_workers)


def barrier_s(bundle: Bundle, load: WorkerLoad, num_workers: float) -> float:
    """Return E[τ] of the same cycle with the loads' own distribution instead of a normal one."""
    others_s = max(bundle.network_s(num_workers), bundle.ffn_s(num_workers))
    slope = bundle.profile.attention.s_per_token
    from_tokens = (others_s - bundle.attention_constant_s) / slope
    return others_s + slope * load.excess(from_tokens, num_workers)


def pipeline_s(bundle: Bundle, load: WorkerLoad, num_workers: float) -> float:
    """Return E[τ] with m microbatches in flight, per microbatch (ours).

    Loads change little in the time of m cycles, so the pipeline is always near the period that it
    would settle into with the loads of the moment (`balanceroute.kernels.pipeline.period_s`). That
    period is averaged over the largest loads of m independent microbatches. One microbatch gives
    t_A + t_C + t_F; many approach the paper's cycle.
    """
    network_s, ffn_s = bundle.network_s(num_workers), bundle.ffn_s(num_workers)
    if bundle.num_microbatches == 1:
        return bundle.attention_s(load.expected_max(num_workers)) + network_s + ffn_s
    probs, tokens = load.max_bins(num_workers, NUM_BINS[bundle.num_microbatches])
    attention_s = bundle.attention_constant_s + bundle.profile.attention.s_per_token * tokens
    return float(
        pipeline.mean_period_s(attention_s, probs, bundle.num_microbatches, ffn_s, network_s / 2)
    )
