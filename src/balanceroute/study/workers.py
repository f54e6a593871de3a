"""Cells spread over the cores of this machine, or over a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from balanceroute.errors import ConfigError, MissingExtraError, WorkerError
from balanceroute.study.cell import CellResult, run_cell
from balanceroute.study.plan import Cell


def run_here(cells: Sequence[Cell], num_jobs: int) -> Generator[CellResult, None, None]:
    """Run cells in so many processes, and give each result as soon as it is there.

    Close the iterator early, and what has not begun is not begun.

    Raises
    ------
    ConfigError
        If a cell cannot be simulated.
    WorkerError
        If a process died.
    """
    if num_jobs == 1 or len(cells) < 2:
        yield from map(run_cell, cells)
        return
    # Spawned, since a fork would copy locks that threads of this process hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_jobs, len(cells)), mp_context=context)
    try:
        futures = [pool.submit(run_cell, cell) for cell in cells]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError(
            f"one of {num_jobs} processes died, perhaps for lack of memory; run the same command "
            "again with fewer --jobs, and it goes on where it stopped"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_on_ray(cells: Sequence[Cell], address: str) -> Generator[CellResult, None, None]:
    """Run cells on the cores of a Ray cluster, and give each result as soon as it is there.

    Parameters
    ----------
    cells : sequence of Cell
        Trace files have to be at the same path on every node.
    address : str
        As `ray.init` takes it: ``auto``, ``local`` or ``ray://HOST:PORT``.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "--ray needs Ray; install it with: pip install 'balanceroute[ray]'"
        ) from error
    cluster: Any = ray
    try:
        cluster.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--ray {address}: no cluster answers: {error}") from error
    with closing(_on_cluster(cluster, cells)) as results:
        yield from results


def _on_cluster(cluster: Any, cells: Sequence[Cell]) -> Generator[CellResult, None, None]:
    remote = cluster.remote(num_cpus=1, max_retries=2)(run_cell)
    pending = [remote.remote(cell) for cell in cells]
    try:
        while pending:
            done, pending = cluster.wait(pending, num_returns=1)
            yield from cluster.get(done)
    finally:
        for task in pending:
            cluster.cancel(task)
        cluster.shutdown()
