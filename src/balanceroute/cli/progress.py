"""A bar on standard error for whatever takes more than a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

DELAY_S = 1.0  # what is done sooner shows no bar


class Show(Protocol):
    """Move the bar: what is being done, how much of it is done, and how much that is in all."""

    def __call__(self, what: str, done: float, total: float = 1.0) -> None: ...


@contextmanager
def progress_bar(*, is_bytes: bool = False) -> Iterator[Show]:
    """Give a function that shows progress with the time left; nothing where no one is watching."""
    from rich import progress
    from rich.console import Console

    columns: list[progress.ProgressColumn] = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
    ]
    if is_bytes:
        columns.append(progress.TransferSpeedColumn())
    columns.append(progress.TimeRemainingColumn())
    console = Console(stderr=True)
    bar = progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
    task = bar.add_task("", total=1.0)
    # By a timer, because the first compilation takes seconds during which nobody calls `show`.
    curtain = threading.Timer(DELAY_S, bar.start)
    curtain.daemon = True
    curtain.start()

    def show(what: str, done: float, total: float = 1.0) -> None:
        if done < bar.tasks[task].completed:
            bar.reset(task)
        bar.update(task, description=what, completed=done, total=total)

    try:
        yield show
    finally:
        curtain.cancel()
        curtain.join()
        if bar.live.is_started:  # stopping one that never started would print an empty line
            bar.stop()
