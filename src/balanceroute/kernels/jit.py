"""The one place that says how kernels are compiled and where the machine code is kept."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.cpu import CPUTargetOptions

F = TypeVar("F", bound=Callable[..., Any])

STAMP = "balanceroute-kernels.sha256"


def kernel(function: F) -> F:
    """Compile `function` with Numba on its first call and keep the machine code on disk.

    Where no cache folder can be written (a read-only image without a home), the kernel is compiled
    in each process, and a warning says how to avoid that.
    """
    return _compiled(function, {"nogil": True, "error_model": "numpy"})


def bare_kernel(function: F) -> F:
    """Compile a kernel that neither makes nor returns arrays, without reference counting.

    Where state is passed on in tuples of arrays, counting references takes longer than the work: a
    step of the simulator is a third faster without. An array made in such a kernel is an error when
    it is compiled, so nothing can leak or be freed too soon. Numba has the option but does not
    document it; a version without it would compile the same kernels with counting.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if hasattr(CPUTargetOptions, "_nrt"):
        options["_nrt"] = False
    return _compiled(function, options)


def _compiled(function: F, options: dict[str, Any]) -> F:
    try:
        compiled: Any = numba.njit(cache=True, **options)(function)
        _drop_stale_code(compiled.stats.cache_path)
    except (RuntimeError, OSError) as error:  # Numba's "no locator available"
        warnings.warn(
            f"kernels are compiled anew in each process ({error}); "
            "set NUMBA_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )
        compiled = numba.njit(**options)(function)
    kept: F = compiled
    return kept


@functools.cache
def _source_digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _drop_stale_code(folder: str) -> None:
    """Empty a cache folder that was filled by other versions of these kernels.

    Numba checks the file of the kernel itself only, but a kernel's machine code contains the
    kernels that it calls, which may live in a file that has changed since.
    """
    stamp = Path(folder) / STAMP
    if stamp.is_file() and stamp.read_text() == _source_digest():
        return
    stamp.parent.mkdir(parents=True, exist_ok=True)
    for path in (*stamp.parent.glob("*.nbi"), *stamp.parent.glob("*.nbc")):
        path.unlink(missing_ok=True)
    stamp.write_text(_source_digest())
