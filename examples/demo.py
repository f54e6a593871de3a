"""What `make demo` does: two presets, four policies, a table and a report each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PRESETS = ("br-production", "mooncake-conversation")
POLICIES = ("vllm", "round_robin", "least_tokens", "br_auto")
NUM_RANKS = 8
OUT = Path("demo-out")


def main() -> None:
    """Run `balanceroute simulate` on each preset and say where the reports are."""
    command = Path(sys.executable).with_name("balanceroute")
    for preset in PRESETS:
        arguments = ["simulate", preset, "--ranks", str(NUM_RANKS)]
        for policy in POLICIES:
            arguments += ["--policy", policy]
        arguments += ["--out", str(OUT / preset)]
        print(f"$ balanceroute {' '.join(arguments)}\n", flush=True)
        subprocess.run([command, *arguments], check=True)  # noqa: S603  # our own command
        print()
    print("Open the reports in a browser; no network is needed.")
    print("Your own trace: .venv/bin/balanceroute simulate FILE --ranks G --slots B")


if __name__ == "__main__":
    main()
