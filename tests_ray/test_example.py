"""The example, run as its users run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_serve.py"


def test_the_example_runs() -> None:
    """It serves all of its requests by both routers, and prints a load for each."""
    run = subprocess.run(  # noqa: S603  # our own example
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == run.returncode, run.stderr[-2000:]
    printed = run.stdout.splitlines()
    assert 2 == sum(" times " in line for line in printed), run.stdout
