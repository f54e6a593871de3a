"""Small workloads, bundles and profiles for the tests of AFD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from balanceroute.afd.cycle import Bundle
from balanceroute.afd.profile import AttentionCost, DeviceProfile, FfnCost, NetworkCost
from balanceroute.types import Workload


def requests(prompts: Sequence[int], outputs: Sequence[int], name: str = "test") -> Workload:
    """Return requests of these lengths."""
    return Workload(
        name=name,
        prompt_tokens=np.array(prompts, np.int32),
        output_tokens=np.array(outputs, np.int32),
    )


def drawn(seed: int = 0, num_requests: int = 4000, mean_output: float = 40.0) -> Workload:
    """Return requests with geometric outputs and prompts of two kinds."""
    rng = np.random.default_rng(seed)
    prompts = rng.choice([20, 400], size=num_requests, p=[0.7, 0.3])
    outputs = rng.geometric(1 / mean_output, size=num_requests)
    return requests(prompts.tolist(), outputs.tolist())


def profile(**stages: Any) -> DeviceProfile:
    """Return a profile with unit devices; `stages` replace its stages."""
    plain = DeviceProfile(
        model="m",
        device="d",
        attention=AttentionCost(s_per_token=1e-6, constant_s=1e-3),
        ffn=FfnCost(s_per_request=1e-5, constant_s=5e-3),
        network=NetworkCost(s_per_request=1e-6, constant_s=2e-4),
    )
    return msgspec.structs.replace(plain, **stages)


def bundle(num_slots: int = 32, **settings: Any) -> Bundle:
    """Return a bundle on `profile()` unless `settings` have another."""
    return Bundle(**{"profile": profile(), "num_slots": num_slots, **settings})
