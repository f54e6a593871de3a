"""A file of settings that is followed: whoever writes it anew need not send a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0


async def follow(path: Path, changed: Callable[[], object]) -> None:
    """Call `changed` whenever a file has become another, until this is cancelled.

    Kubernetes replaces a mounted file by turning a link, so it is the file at the end of all links
    that counts, and what is there for a moment is not an error.
    """
    seen = _mark(path)
    while True:
        await asyncio.sleep(LOOK_S)
        mark = _mark(path)
        if mark not in (None, seen):
            seen = mark
            changed()


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_ino, state.st_size
