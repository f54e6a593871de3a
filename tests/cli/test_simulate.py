"""`balanceroute simulate` and `policies` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from balanceroute.policies.registry import BUILT_IN
from tests.cli.command import Run

TINY = ["br-production", "--ranks", "2", "--slots", "4", "--requests", "200"]


def without_times(document: dict[str, object]) -> str:
    """Return a result as text, less what depends on the wall clock."""
    runs = document["runs"]
    assert isinstance(runs, list)
    for each in runs:
        del each["metrics"]["wall_s"], each["metrics"]["decision_us"]
    return json.dumps(document)


def test_json_is_the_documented_result_and_nothing_else(run: Run) -> None:
    """Standard output parses as the schema, with one run per policy, and stderr is empty."""
    outcome = run("simulate", *TINY, "--policy", "vllm", "--policy", "br_0", "--json")
    document = json.loads(outcome.out)
    assert (0, "") == (outcome.code, outcome.err)
    assert "balanceroute.simulation.v1" == document["schema"]
    assert ["vllm", "br_0"] == [each["policy"] for each in document["runs"]]
    assert {
        "efficiency",
        "mean_imbalance_tokens",
        "mean_imbalance_before_refill_tokens",
        "mean_spread_tokens",
        "idle_ratio",
        "balance_ratio",
        "throughput_tok_per_s",
        "tpot_s",
        "ttft_s",
        "wait_s",
        "longest_wait_ratio",
        "preemptions",
        "energy_j",
        "num_steps",
        "num_requests",
        "num_tokens",
        "decision_us",
        "wall_s",
    } <= set(document["runs"][0]["metrics"])


def test_same_seed_gives_the_same_json_apart_from_times(run: Run) -> None:
    """Every policy, stationary start and drawn requests included, repeats itself exactly."""
    policies = [part for name in BUILT_IN for part in ("--policy", name)]
    first, second = (
        json.loads(run("simulate", *TINY, *policies, "--seed", "3", "--json").out) for _ in range(2)
    )
    assert without_times(first) == without_times(second)


def test_another_seed_gives_another_result(run: Run) -> None:
    """The seed reaches the draw."""
    first, second = (
        json.loads(run("simulate", *TINY, "--seed", seed, "--json").out) for seed in ("1", "2")
    )
    assert first["workload"]["fingerprint"] != second["workload"]["fingerprint"]


def test_defaults_are_the_three_policies_on_16_ranks_of_72_slots(run: Run) -> None:
    """What the help promises: vllm, round_robin and br_auto, a saturated pool of 4 G."""
    document = json.loads(run("simulate", "azure-2024-code", "--json").out)
    assert ["vllm", "round_robin", "br_auto"] == [each["policy"] for each in document["runs"]]
    group = document["group"]
    assert (16, 72, 64, "saturated") == tuple(
        group[key] for key in ("ranks", "slots", "pool", "arrivals")
    )


def test_repeats_take_the_following_seeds(run: Run) -> None:
    """Three repeats of one policy from seed 5 on."""
    outcome = run("simulate", *TINY, "--policy", "fcfs", "--seed", "5", "--repeats", "3", "--json")
    assert [5, 6, 7] == [each["seed"] for each in json.loads(outcome.out)["runs"]]


def test_out_holds_the_result_and_one_page_that_asks_nobody(run: Run, tmp_path: Path) -> None:
    """`--out` writes the JSON and a report without a reference to another host."""
    out = tmp_path / "new" / "folder"
    outcome = run("simulate", *TINY, "--policy", "fcfs", "--out", str(out))
    assert 0 == outcome.code
    assert {"result.json", "report.html"} == {path.name for path in out.iterdir()}
    assert "balanceroute.simulation.v1" == json.loads((out / "result.json").read_text())["schema"]
    page = (out / "report.html").read_text()
    assert 'src="http' not in page
    assert "simulate br-production" in page


def test_table_fits_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of the ordinary output is wider than a plain terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    outcome = run("simulate", *TINY, "--policy", "vllm", "--policy", "br_0,select_by=margin")
    assert 80 >= max(len(line) for line in outcome.out.splitlines())


def test_mixed_steps_are_part_of_the_result(run: Run, tmp_path: Path) -> None:
    """The group says what prefill costs; a cache that holds half of each prompt saves half of it.

    One rank, and a step that costs nothing but 1 s and the prefill: 16 prompts of 64 tokens.
    """
    trace = tmp_path / "cached.csv"
    rows = "".join(f"{10 * row},64,1,32\n" for row in range(16))
    trace.write_text("arrival_s,prompt_tokens,output_tokens,cached_tokens\n" + rows)
    command = ["simulate", str(trace), "--ranks", "1", "--slots", "2", "--arrivals", "trace"]
    command += ["--step-time", "1,0", "--policy", "fcfs", "--json", "--prefill-budget", "64"]
    command += ["--prefill-time", "0.01", "--prefill-shared", "0.25", "--mixed-step-time", "0.5"]
    cold, warm = (
        json.loads(run(*command, cache).out) for cache in ("--no-prefix-cache", "--prefix-cache")
    )
    names = ("prefill_budget_tokens", "prefill_shared", "mixed_step_s", "prefix_cache")
    assert [64, 0.25, 0.5, False] == [cold["group"][name] for name in names]
    assert warm["group"]["prefix_cache"]
    ttft_s = [document["runs"][0]["metrics"]["ttft_s"]["mean"] for document in (cold, warm)]
    assert [1.0 + 0.64 + 0.5, 1.0 + 0.32 + 0.5] == pytest.approx(ttft_s)


def test_a_prefill_gate_is_part_of_the_result(run: Run) -> None:
    """The group names the gate as it was written, and the gate changes what happens."""
    command = ["simulate", *TINY, "--policy", "vllm", "--json"]
    command += ["--prefill-budget", "2048", "--prefill-time", "2e-5"]
    free, gated = (
        json.loads(run(*command, *gate).out)
        for gate in ([], ["--prefill-gate", "trtllm,batching_wait_iters=0"])
    )
    assert free["group"]["prefill_gate"] is None
    assert "trtllm,batching_wait_iters=0" == gated["group"]["prefill_gate"]
    idle = [document["runs"][0]["metrics"]["idle_ratio"] for document in (free, gated)]
    assert idle[1] < idle[0]


def test_delivery_is_part_of_the_result(run: Run, tmp_path: Path) -> None:
    """The group says how long requests are on their way, and each waits so much longer.

    One rank, which is idle whenever a request comes, and steps of 1 s; times to the first token are
    1 s, the 2 s on the way, and up to half a second more.
    """
    trace = tmp_path / "rare.csv"
    rows = "".join(f"{10 * row},64,1\n" for row in range(16))
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    command = ["simulate", str(trace), "--ranks", "1", "--slots", "2", "--arrivals", "trace"]
    command += ["--step-time", "1,0", "--policy", "fcfs", "--json", "--delivery-time", "2"]
    even, uneven = (
        json.loads(run(*command, "--delivery-jitter", jitter).out) for jitter in ("0", "0.5")
    )
    groups = [document["group"] for document in (even, uneven)]
    assert [2.0, 2.0] == [group["delivery_s"] for group in groups]
    assert [0.0, 0.5] == [group["delivery_jitter_s"] for group in groups]
    ttft_s = [document["runs"][0]["metrics"]["ttft_s"] for document in (even, uneven)]
    assert pytest.approx(3.0) == ttft_s[0]["mean"] == ttft_s[0]["p99"]
    assert 3.0 < ttft_s[1]["p50"] < ttft_s[1]["p99"] < 3.5


def test_small_file_is_drawn_from_with_a_note(run: Run, tmp_path: Path) -> None:
    """A file too small to fill the slots is drawn from, and the output says so."""
    trace = tmp_path / "small.csv"
    trace.write_text("prompt_tokens,output_tokens\n10,5\n20,3\n30,0\n")
    document = json.loads(run("simulate", str(trace), "--ranks", "2", "--slots", "2", "--json").out)
    assert "with_replacement" == document["workload"]["sampling"]
    assert 2 == document["workload"]["num_source_requests"]
    assert "1 row without output tokens left out." == document["workload"]["notes"][0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["br-prodution"], "did you mean 'br-production'?"),
        ([*TINY, "--ranks", "0"], "--ranks must be at least 1, got 0"),
        ([*TINY, "--slots", "0"], "--slots must be at least 1, got 0"),
        ([*TINY, "--kv-tokens", "5000"], "raise --kv-tokens to at least"),
        ([*TINY, "--policy", "br0"], "unknown policy 'br0'; did you mean 'br_0'?"),
        ([*TINY, "--policy", "br_0,rmax=3"], "did you mean 'r_max'?"),
        ([*TINY, "--policy", "br_0,r_max=many"], "must be of type int, got 'many'"),
        ([*TINY, "--policy", "vllm,snapshot_s=-1"], "snapshot_s must be at least 0"),
        ([*TINY, "--policy", "vllm", "--policy", "vllm"], "a policy is named twice"),
        ([*TINY, "--step-time", "papre"], "did you mean 'paper'?"),
        ([*TINY, "--step-time", "0,0"], "cannot both be 0"),
        ([*TINY, "--step-time", "-1,0.1"], "must be a number of at least 0, got -1.0"),
        ([*TINY, "--arrivals", "trace"], "has no arrival times"),
        ([*TINY, "--arrivals", "poisson"], "give one with --rate"),
        ([*TINY, "--arrivals", "often"], "--arrivals must be one of saturated, trace, poisson"),
        ([*TINY, "--rate-scale", "nan"], "--rate-scale must be a number above 0, got nan"),
        ([*TINY, "--rate-scale", "2"], "--rate-scale is for --arrivals trace or poisson"),
        ([*TINY, "--rate", "0", "--arrivals", "poisson"], "--rate must be a number above 0"),
        ([*TINY, "--rate", "5"], "--rate is for --arrivals poisson"),
        ([*TINY, "--pool", "5", "--arrivals", "poisson", "--rate", "5"], "--pool is for"),
        ([*TINY, "--staleness", "-1"], "--staleness must be a number of at least 0"),
        ([*TINY, "--delivery-time", "-1"], "--delivery-time must be a number of at least 0"),
        ([*TINY, "--delivery-jitter", "nan"], "--delivery-jitter must be a number of at least 0"),
        ([*TINY, "--seed", "-1"], "--seed must be at least 0"),
        ([*TINY, "--repeats", "0"], "--repeats must be at least 1"),
        ([*TINY, "--rank-speeds", "1,1,1"], "names 3 ranks, but there are 2"),
        ([*TINY, "--rank-speeds", "1,fast"], "must be numbers"),
        ([*TINY, "--rank-speeds", "1,0"], "above 0 and at most 1; got 0"),
        ([*TINY, "--prefill-budget", "3"], "--prefill-budget must be at least --slots"),
        ([*TINY, "--prefill-time", "1e-5"], "--prefill-time needs --prefill-budget"),
        ([*TINY, "--prefill-shared", "2"], "--prefill-shared must be a number from 0 to 1, got 2"),
        ([*TINY, "--prefill-shared", "0.5"], "--prefill-shared needs --prefill-budget"),
        ([*TINY, "--mixed-step-time", "-1"], "--mixed-step-time must be a number of at least 0"),
        ([*TINY, "--mixed-step-time", "1e-3"], "--mixed-step-time needs --prefill-budget"),
        ([*TINY, "--prefix-cache"], "--prefix-cache needs --prefill-budget"),
        ([*TINY, "--prefill-gate", "sglang"], "--prefill-gate needs --prefill-budget"),
        (
            [*TINY, "--prefill-budget", "64", "--prefill-gate", "trtlm"],
            "unknown prefill gate 'trtlm'; did you mean 'trtllm'?",
        ),
        (
            [*TINY, "--prefill-budget", "64", "--prefill-gate", "trtllm,timeout=5"],
            "unknown setting 'timeout' for prefill gate trtllm; did you mean 'timeout_iters'?",
        ),
        (
            [*TINY, "--prefill-budget", "64", "--prefill-gate", "vllm", "--no-barrier"],
            "--prefill-gate is for ranks that wait for each other",
        ),
        (
            [*TINY, "--prefix-cache", "--prefill-budget", "64"],
            "br-production does not say what is cached of each prompt",
        ),
        ([*TINY, "--format", "azure"], "--format is for files"),
        (["br-production", "--requests", "9"], "nothing is left to measure"),
        (["/dev/null"], "balanceroute: error:"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Run, arguments: list[str], expected: str
) -> None:
    """What was wrong and the cure on one line of stderr, nothing on stdout, no traceback."""
    outcome = run("simulate", *arguments)
    assert (2, "") == (outcome.code, outcome.out)
    assert 1 == len(outcome.err.splitlines())
    assert expected in outcome.err


def test_failed_write_leaves_nothing(run: Run, tmp_path: Path) -> None:
    """`--out` below a file cannot work: exit code 2, and the file is as it was."""
    file = tmp_path / "file"
    file.write_text("kept")
    outcome = run("simulate", *TINY, "--policy", "fcfs", "--out", str(file))
    assert 2 == outcome.code
    assert "kept" == file.read_text()
    assert [file] == list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", [["--json"], []])
def test_full_disk_behind_standard_output_is_an_error(form: list[str]) -> None:
    """Output that the disk has no room for ends in one line and exit code 2."""
    executable = str(Path(sys.executable).with_name("balanceroute"))
    command = [executable, "simulate", *TINY, *form]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # our own command
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    assert 2 == done.returncode
    assert "balanceroute: error: standard output cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_policies_lists_every_registered_one(run: Run) -> None:
    """Names, binding and settings of all of them, as JSON."""
    rows = json.loads(run("policies", "--json").out)
    assert list(BUILT_IN) == [row["name"] for row in rows][: len(BUILT_IN)]
    br_0 = next(row for row in rows if row["name"] == "br_0")
    assert {"select_by": "stages", "s_greedy": 7, "r_max": 4, "window": 8192} == br_0["settings"]


def test_help_loads_nothing_heavy() -> None:
    """`--help` answers without NumPy, Numba or pyarrow."""
    probe = (
        "import sys; import balanceroute.cli; "
        "print([name for name in ('numpy', 'numba', 'pyarrow', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run(  # our own interpreter
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[]" == done.stdout.strip()
