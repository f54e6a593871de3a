"""`balanceroute serve` in front of real servers, for tests."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests_vllm.servers import Server, free_port, stop, wait_until_up

COMMAND = [str(Path(sys.executable).parent / "balanceroute"), "serve"]
REFUSAL_S = 60.0


@contextlib.contextmanager
def running_router(folder: Path, *arguments: str) -> Iterator[Server]:
    """Start a router and stop it in the end."""
    port = free_port()
    log = folder / f"router-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*COMMAND, "--port", str(port), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    router = Server(process, port, log)
    try:
        wait_until_up(router)
        yield router
    finally:
        stop(router)


def refusal(*arguments: str) -> tuple[int, str]:
    """Return the exit status and the message of a router that is set up wrongly."""
    ran = subprocess.run(
        [*COMMAND, "--port", str(free_port()), *arguments],
        capture_output=True,
        text=True,
        timeout=REFUSAL_S,
        check=False,
    )
    return ran.returncode, ran.stderr
