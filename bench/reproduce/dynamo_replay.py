"""Replay a Mooncake trace on Dynamo's simulated ranks; run by a Python that has Dynamo, not ours.

``python -I dynamo_replay.py JOB.json`` reads the arguments of `dynamo.replay.run_trace_replay` and
leaves what became of each request in the file that they name. Without -I it would import its
neighbour dynamo.py.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the job and print the version of Dynamo."""
    replay: Any = importlib.import_module("dynamo.replay")
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    replay.run_trace_replay(job.pop("trace"), **job)
    print(version("ai-dynamo"))


if __name__ == "__main__":
    main()
