"""How kernels are compiled, and when kept machine code is thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.cpu import CPUTargetOptions

from balanceroute.kernels import jit


def double(value: int) -> int:
    return 2 * value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nbi", "a.1.nbc", "other.txt"):
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path) -> list[str]:
    """Return the files of a folder but for the stamp."""
    return sorted(path.name for path in folder.iterdir() if path.name != jit.STAMP)


def test_code_of_other_kernels_is_dropped(folder: Path) -> None:
    """A folder with another stamp, or none, loses its machine code and nothing else."""
    (folder / jit.STAMP).write_text("of an earlier version")
    jit._drop_stale_code.__wrapped__(str(folder))
    assert ["other.txt"] == names(folder)


def test_code_of_these_kernels_is_kept(folder: Path) -> None:
    """The second process finds the stamp that the first has left."""
    jit._drop_stale_code.__wrapped__(str(folder))
    (folder / "b.nbi").touch()
    jit._drop_stale_code.__wrapped__(str(folder))
    assert ["b.nbi", "other.txt"] == names(folder)


def test_without_a_cache_folder_kernels_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only image compiles in each process, and says so once per kernel."""

    def njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        assert options == {"nogil": True, "error_model": "numpy"}
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    with pytest.warns(RuntimeWarning, match="set NUMBA_CACHE_DIR to a writable folder"):
        kept = jit.kernel(double)
    assert 4 == kept(2)


def test_a_bare_kernel_cannot_make_an_array() -> None:
    """Without reference counting nobody would free it, so it is not compiled."""
    options: dict[str, Any] = {"_nrt": False}
    made = numba.njit(**options)(lambda: np.zeros(3)[0])
    with pytest.raises(numba.TypingError, match="zeros"):
        made()


def test_bare_kernels_do_without_an_unknown_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Numba that no longer has the option compiles them as it does the others."""
    compiled: list[dict[str, Any]] = []

    def njit(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("nothing is to be written here")
        compiled.append(options)
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    for target_options in (CPUTargetOptions, object):
        monkeypatch.setattr(jit, "CPUTargetOptions", target_options)
        with pytest.warns(RuntimeWarning):
            jit.bare_kernel(double)
    plain = {"nogil": True, "error_model": "numpy"}
    assert [plain | {"_nrt": False}, plain] == compiled
