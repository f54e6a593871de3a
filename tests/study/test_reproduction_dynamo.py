"""The harness around Dynamo's replay, and what an interrupted reproduction goes on from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from balanceroute.policies import check_policy
from balanceroute.types import Workload
from bench.reproduce import dynamo, kept

# Serves each request at once: 10 ms to the first token and 5 ms for each that follows, on the rank
# of its turn. Like a Python that has Dynamo, it is called with -I, a script and a job.
PYTHON = """#!{python}
import json, sys
import numpy as np
flag, script, path = sys.argv[1:]
assert flag == "-I" and script.endswith("dynamo_replay.py")
job = json.load(open(path))
engine = job["extra_engine_args"]["engine"]
times = np.load(engine["timing_model"]["config"]["path"])
assert engine["num_gpu_blocks"] * engine["block_size"] == 1_600_000
rows = [json.loads(line) for line in open(job["trace"])]
blocks = sum((row["hash_ids"] for row in rows), [])
assert len(set(blocks)) == len(blocks) == sum(-(-row["input_length"] // 512) for row in rows)
with open(job["report_jsonl_path"], "w") as file:
    for i, row in reversed(list(enumerate(rows))):
        first = row["timestamp"] + 10.0
        served = dict(arrival_time_ms=row["timestamp"], first_token_ms=first, readmission_count=i)
        served["last_token_ms"] = first + 5.0 * (row["output_length"] - 1)
        served["output_length"] = row["output_length"]
        served["decode_worker_idx"] = i % job["num_workers"]
        print(json.dumps(served), file=file)
print("a line of a log")
print(times["decode_itl"][0, 0])
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return a stand-in for a Python that has Dynamo."""
    path = tmp_path / "python"
    path.write_text(PYTHON.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_what_dynamo_made_of_each_request_is_read_back(python: Path) -> None:
    """Requests with prompts of 2 and 1 blocks and 3 and 5 tokens, 1 s apart."""
    workload = Workload(
        name="two",
        prompt_tokens=np.array([513, 512], np.int32),
        output_tokens=np.array([3, 5], np.int32),
        arrival_s=np.array([0.0, 1.0]),
    )
    version, served = dynamo._replay(python, dynamo.CASES[0], workload)
    assert version == f"{1e3 * dynamo.STEP_TIME.constant_s}"
    figures = served.figures()
    assert figures["preemptions"] == 1
    expected = {"tok_per_s": 8 / 1.03, "ttft_ms": 10.0, "ttft_p99_ms": 10.0}
    expected |= {"itl_ms": 5.0, "tpot_p99_ms": 5.0, "preemptions": 1}
    assert expected == pytest.approx(figures)
    assert [0, 1] == served.ranks.tolist()


def test_a_python_without_dynamo_is_named(tmp_path: Path) -> None:
    """The message has the path and the reason."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named dynamo' >&2\nexit 1\n")
    python.chmod(0o755)
    workload = Workload(
        name="one",
        prompt_tokens=np.array([5], np.int32),
        output_tokens=np.array([5], np.int32),
        arrival_s=np.zeros(1),
    )
    with pytest.raises(SystemExit, match=r"python cannot run.*: No module named dynamo"):
        dynamo._replay(python, dynamo.CASES[0], workload)


def test_the_rule_of_the_kv_router_keeps_the_contract() -> None:
    """It is a policy like any other, named by its file."""
    check_policy(dynamo.KV_ROUTER, rounds=5)


def test_an_interrupted_reproduction_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is made once; anew if it was cut short, if asked for, or in another version."""
    measured: list[str] = []

    def measure(name: str) -> dict[str, float]:
        def run() -> dict[str, float]:
            measured.append(name)
            return {"ranks": 2.0}

        return kept.kept(run, name, 0)

    monkeypatch.setattr(kept, "OUT", tmp_path / "out")
    assert measure("first") == measure("first") == measure("second") == {"ranks": 2.0}
    assert measured == ["first", "second"]
    file = tmp_path / "out" / kept.RUNS
    file.write_text(file.read_text()[:-20])
    measure("second")
    measure("second")
    assert measured == ["first", "second", "second"]
    kept.forget()
    measure("first")
    monkeypatch.setattr(kept, "__version__", "another")
    measure("first")
    assert measured == ["first", "second", "second", "first", "first"]
