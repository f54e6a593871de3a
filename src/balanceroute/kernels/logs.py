"""What a group writes as it runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.scheduler import Group

#: What each step leaves behind: the columns of `balanceroute.types.StepRecords`.
STEP_LOG = np.dtype(
    [
        ("start_s", np.float64),
        ("duration_s", np.float64),
        ("max_load_tokens", np.int64),
        ("min_load_tokens", np.int64),
        ("sum_load_tokens", np.int64),
        ("refill_max_load_tokens", np.int64),
        ("refill_sum_load_tokens", np.int64),
        ("max_work_s", np.float64),
        ("mean_work_s", np.float64),
        ("sum_usage_pow", np.float64),
        ("num_tokens", np.int64),
        ("num_running", np.int64),
        ("num_waiting", np.int64),
    ]
)

#: What becomes of each request of the workload, shape (N,).
REQUEST_LOG = np.dtype(
    [
        ("admitted_s", np.float64),
        ("first_token_s", np.float64),
        ("finished_s", np.float64),
        ("rank", np.int32),
        ("num_preemptions", np.int32),
    ]
)


class SampleLog(NamedTuple):
    """Loads per rank at every `stride`-th step; thinned by two whenever it is full."""

    time_s: NDArray[np.float64]  # shape (capacity,)
    load_tokens: Int64Array  # shape (capacity, G)
    size: Int64Array  # shape (1,)
    stride: Int64Array  # shape (1,)


class Log(NamedTuple):
    """What a group writes as it runs."""

    steps: RecordArray  # STEP_LOG, shape (capacity,)
    num_steps: Int64Array  # shape (1,), rows in use
    samples: SampleLog


@bare_kernel
def sample_loads(group: Group, samples: SampleLog, step: int, now_s: float) -> None:
    """Note every rank's load if this step of the log is one to be sampled."""
    if step % samples.stride[0] != 0:
        return
    if samples.size[0] == len(samples.time_s):
        kept = (samples.size[0] + 1) // 2
        for row in range(kept):
            samples.time_s[row] = samples.time_s[2 * row]
            for g in range(len(group.engines)):
                samples.load_tokens[row, g] = samples.load_tokens[2 * row, g]
        samples.size[0] = kept
        samples.stride[0] *= 2
        if step % samples.stride[0] != 0:
            return
    row = samples.size[0]
    samples.time_s[row] = now_s
    for g in range(len(group.engines)):
        samples.load_tokens[row, g] = group.accounts.ranks[g].load_tokens
    samples.size[0] += 1
