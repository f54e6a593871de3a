"""Dynamo's mocker and our simulator on the same requests: ranks without a barrier that prefill too.

None of Dynamo is here: a Python that has it is named. `dynamo_replay` runs in that Python, on a
trace and a table of step times that are written for it, and what became of each request is read
back. ``python -m bench.reproduce.dynamo PYTHON`` prints the comparison.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balanceroute.report.experiment import Experiment
from balanceroute.report.runs import run_policy
from balanceroute.sim.config import SimConfig, StepTime
from balanceroute.sim.warm import warm
from balanceroute.types import Workload

SOURCE = "azure-2023-conv"
NUM_REQUESTS = 4000
NUM_RANKS, NUM_SLOTS = 8, 48
BUDGET_TOKENS = 8192
PREFILL_S_PER_TOKEN = 2e-5
STEP_TIME = StepTime.parse("paper", num_slots=NUM_SLOTS)
BLOCK_TOKENS, TRACE_BLOCK_TOKENS = 16, 512
AMPLE_KV_TOKENS, SCARCE_KV_TOKENS = 1_600_000, 40_000
FAR = 1e7  # tokens at which the tables of step times end; they are lines


@dataclass(frozen=True, slots=True)
class Case:
    """One rule of each simulator, under one load.

    Attributes
    ----------
    theirs : str
        Router mode of Dynamo.
    ours : str
        The policy that comes nearest.
    rate_per_s : float
        Poisson arrivals.
    kv_tokens : int
        What a rank can hold.
    """

    theirs: str
    ours: str
    rate_per_s: float
    kv_tokens: int = AMPLE_KV_TOKENS


KV_ROUTER = f"{Path(__file__).with_name('kv_router.py')}:KvRouter"
CASES = (
    Case("round_robin", "round_robin", 20.0),
    Case("round_robin", "round_robin", 60.0),
    Case("round_robin", "round_robin", 60.0, SCARCE_KV_TOKENS),
    Case("kv_router", KV_ROUTER, 60.0),
    Case("kv_router", "least_tokens", 60.0),
)


@dataclass(frozen=True, slots=True)
class Served:
    """What became of each request, shape (N,), in order of arrival."""

    arrival_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finished_s: NDArray[np.float64]
    ranks: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    preemptions: NDArray[np.int64]

    def figures(self) -> dict[str, float]:
        """Return throughput, time to first token and time between tokens."""
        ttft_ms = 1e3 * (self.first_token_s - self.arrival_s)
        gaps = self.output_tokens - 1
        decode_ms = 1e3 * (self.finished_s - self.first_token_s)
        tpot_ms = decode_ms[gaps > 0] / gaps[gaps > 0]
        return {
            "tok_per_s": float(self.output_tokens.sum() / self.finished_s.max()),
            "ttft_ms": float(ttft_ms.mean()),
            "ttft_p99_ms": float(np.percentile(ttft_ms, 99)),
            "itl_ms": float(decode_ms.sum() / gaps.sum()),
            "tpot_p99_ms": float(np.percentile(tpot_ms, 99)),
            "preemptions": int(self.preemptions.sum()),
        }


def compare(python: Path) -> list[dict[str, object]]:
    """Return both simulators' figures, case by case."""
    rows: list[dict[str, object]] = []
    for case in CASES:
        config = _config(case)
        workload = _requests(config, case.rate_per_s)
        version, theirs = _replay(python, case, workload)
        ours = _simulate(case, config, workload)
        rows.append(
            {
                "version": version,
                "theirs": case.theirs,
                "ours": case.ours.replace(KV_ROUTER, "the same rule"),
                "rate_per_s": case.rate_per_s,
                "kv_tokens": case.kv_tokens,
                "figures": [theirs.figures(), ours.figures()],
                "same_rank": float(np.mean(theirs.ranks == ours.ranks)),
                "apart_ms": _apart_ms(theirs, ours),
            }
        )
    return rows


def _apart_ms(theirs: Served, ours: Served) -> dict[str, float]:
    """Return how far apart the two put each request's first and last token, in the median."""
    return {
        name: float(1e3 * np.median(np.abs(getattr(theirs, name) - getattr(ours, name))))
        for name in ("first_token_s", "finished_s")
    }


def _config(case: Case) -> SimConfig:
    return SimConfig(
        step_time=STEP_TIME,
        num_ranks=NUM_RANKS,
        num_slots=NUM_SLOTS,
        kv_tokens=case.kv_tokens,
        has_barrier=False,
        prefill_budget_tokens=BUDGET_TOKENS,
        prefill_s_per_token=PREFILL_S_PER_TOKEN,
        arrivals="poisson",
        binding="immediate",
    )


def _requests(config: SimConfig, rate_per_s: float) -> Workload:
    experiment = Experiment(
        source=SOURCE,
        config=config,
        policies=("round_robin",),
        num_requests=NUM_REQUESTS,
        rate_per_s=rate_per_s,
    )
    _, workload = experiment.requests(0)
    return workload


def _simulate(case: Case, config: SimConfig, workload: Workload) -> Served:
    warm(case.ours, config)
    _, records = run_policy(case.ours, workload, config, seed=0)
    requests = records.requests
    return Served(
        arrival_s=requests.arrival_s,
        first_token_s=requests.first_token_s,
        finished_s=requests.finished_s,
        ranks=requests.rank.astype(np.int64),
        output_tokens=requests.output_tokens.astype(np.int64),
        preemptions=requests.num_preemptions.astype(np.int64),
    )


def _replay(python: Path, case: Case, workload: Workload) -> tuple[str, Served]:
    """Run Dynamo's replay and return its version and what became of each request."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_trace(folder / "trace.jsonl", workload)
        _write_step_times(folder / "times.npz")
        job = _job(folder, case)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [str(python), "-I", str(Path(__file__).with_name("dynamo_replay.py"))]
        done = subprocess.run(
            [*command, str(folder / "job.json")], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            raise SystemExit(f"{python} cannot run Dynamo's replay: {last}")
        return done.stdout.split()[-1], _read_served(folder / "served.jsonl", workload)


def _job(folder: Path, case: Case) -> dict[str, object]:
    """Return the arguments of `run_trace_replay`."""
    timing = {"provider": "dynamo_profile", "config": {"path": str(folder / "times.npz")}}
    engine = {
        "backend": "vllm",
        "num_gpu_blocks": case.kv_tokens // BLOCK_TOKENS,
        "block_size": BLOCK_TOKENS,
        "max_num_seqs": NUM_SLOTS,
        "max_num_batched_tokens": BUDGET_TOKENS,
        "enable_prefix_caching": False,  # a preempted request would find its own prompt again
        "timing_model": {"type": "external", **timing},
    }
    return {
        "trace": str(folder / "trace.jsonl"),
        "extra_engine_args": {"engine": engine},
        "num_workers": NUM_RANKS,
        "router_mode": case.theirs,
        "trace_block_size": TRACE_BLOCK_TOKENS,
        "report_jsonl_path": str(folder / "served.jsonl"),
    }


def _write_trace(path: Path, workload: Workload) -> None:
    """Write a Mooncake trace in which no block of a prompt is another's."""
    assert workload.arrival_s is not None
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens)
    used = 0
    with path.open("w", encoding="utf-8") as file:
        for arrival_s, prompt, output in zip(*columns, strict=True):
            blocks = -(-int(prompt) // TRACE_BLOCK_TOKENS)
            row = {
                "timestamp": 1e3 * float(arrival_s),
                "input_length": int(prompt),
                "output_length": int(output),
                "hash_ids": list(range(used, used + blocks)),
            }
            used += blocks
            file.write(json.dumps(row) + "\n")


def _write_step_times(path: Path) -> None:
    """Write our step times as the tables that the mocker looks up, in milliseconds.

    It adds the time of the prompt tokens of a step to that of the running requests. Our prompt
    tokens are resident while they are computed, so that each costs the time per token as well.
    """
    token_ms = 1e3 * STEP_TIME.s_per_token
    constant_ms = 1e3 * STEP_TIME.constant_s
    ends = np.array([0.0, FAR])
    np.savez(
        path,
        prefill_isl=ends,
        prefill_ttft_ms=(1e3 * PREFILL_S_PER_TOKEN + token_ms) * ends,
        decode_active_kv_tokens=ends,
        decode_context_length=ends,
        decode_itl=np.repeat(constant_ms + token_ms * ends[:, None], 2, axis=1),
    )


def _read_served(path: Path, workload: Workload) -> Served:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: float(row["arrival_time_ms"]))
    outputs = np.array([row["output_length"] for row in rows], np.int64)
    if not np.array_equal(outputs, workload.output_tokens):
        raise SystemExit("Dynamo's replay has not served every request whole")

    def seconds(name: str) -> NDArray[np.float64]:
        return 1e-3 * np.array([row[name] for row in rows], np.float64)

    return Served(
        arrival_s=seconds("arrival_time_ms"),
        first_token_s=seconds("first_token_ms"),
        finished_s=seconds("last_token_ms"),
        ranks=np.array([row["decode_worker_idx"] for row in rows], np.int64),
        output_tokens=outputs,
        preemptions=np.array([row["readmission_count"] for row in rows], np.int64),
    )


def main() -> None:
    """Print the comparison as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path, help="a Python that has Dynamo")
    json.dump(compare(parser.parse_args().python), sys.stdout, indent=2)


if __name__ == "__main__":
    main()
