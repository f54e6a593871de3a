"""How a run against a server stands, on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balanceroute.loadgen import Snapshot

PLAIN_S = 10.0  # from one plain line to the next


@contextmanager
def load_progress(send_s: float) -> Iterator[Callable[[Snapshot], None]]:
    """Give a function that shows how a run stands: a bar, or now and then a line of plain text.

    Parameters
    ----------
    send_s : float
        How long requests are sent, seconds; infinite for as long as there are any.
    """
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(partial(console.print, highlight=False, markup=False, soft_wrap=True))
        return
    with progress.Progress(
        progress.BarColumn(bar_width=20),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.description}"),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("sending", total=1.0)

        def show(snapshot: Snapshot) -> None:
            num_ended = snapshot.num_answered + snapshot.num_failed
            done = max(num_ended / snapshot.num_requests, snapshot.elapsed_s / send_s)
            bar.update(task, completed=min(1.0, done), description=describe(snapshot))

        yield show


def _plain(write: Callable[[str], None]) -> Callable[[Snapshot], None]:
    due_s = PLAIN_S

    def show(snapshot: Snapshot) -> None:
        nonlocal due_s
        if snapshot.elapsed_s >= due_s:
            due_s = snapshot.elapsed_s + PLAIN_S
            write(f"{snapshot.elapsed_s:,.0f} s: {describe(snapshot)}")

    return show


def describe(snapshot: Snapshot) -> str:
    """Return a run's state in one line.

    Examples
    --------
    >>> from balanceroute.loadgen import Snapshot
    >>> describe(Snapshot(elapsed_s=1.0, num_requests=90, num_sent=40, num_answered=30,
    ...                   num_failed=2, tokens_per_s=1234.5, ttft_s=0.25, tpot_s=None))
    '30 of 90 answered, 8 out, 2 failed · 1,234 tok/s · TTFT 250 ms'
    """
    num_out = snapshot.num_sent - snapshot.num_answered - snapshot.num_failed
    counts = f"{snapshot.num_answered:,} of {snapshot.num_requests:,} answered, {num_out:,} out"
    if snapshot.num_failed:
        counts += f", {snapshot.num_failed:,} failed"
    parts = [counts, f"{snapshot.tokens_per_s:,.0f} tok/s"]
    if snapshot.ttft_s is not None:
        parts.append(f"TTFT {1e3 * snapshot.ttft_s:,.0f} ms")
    if snapshot.tpot_s is not None:
        parts.append(f"TPOT {1e3 * snapshot.tpot_s:,.1f} ms")
    return " · ".join(parts)
