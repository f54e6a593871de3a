"""Run what is missing of a study and write its tables: what ``study`` does."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from balanceroute.errors import ConfigError
from balanceroute.study.cell import CellResult
from balanceroute.study.plan import Cell, Study
from balanceroute.study.store import Store
from balanceroute.study.table import Row, table_of, write_tables
from balanceroute.study.workers import run_here, run_on_ray

RESULTS_NAME = "cells.jsonl"

#: How many cells are done, and how many there are.
Progress = Callable[[int, int], None]


def run_study(
    study: Study,
    folder: Path,
    *,
    num_jobs: int = 1,
    ray_address: str | None = None,
    on_progress: Progress | None = None,
) -> list[Row]:
    """Run the cells of a study that `folder` has no results of, and write its tables.

    Interrupted or killed, it goes on where it stopped when it is run again with the same study and
    folder. Results of other studies in the folder are used where their cells are the same.

    Parameters
    ----------
    study : Study
        What to run.
    folder : Path
        For cells.jsonl, table.csv, table.parquet and timings.csv.
    num_jobs : int
        Processes, at least 1.
    ray_address : str or None
        Of a Ray cluster to run on instead.
    on_progress : callable or None
        Told how many cells are done of how many.

    Returns
    -------
    list of Row
        The table.

    Raises
    ------
    ConfigError
        If a cell cannot be simulated; what is done by then is kept.
    OutputError
        If a file cannot be written.
    """
    if num_jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {num_jobs}")
    cells = study.cells()
    with Store(folder / RESULTS_NAME, (cell.key for cell in cells)) as store:
        missing = [cell for cell in cells if cell.key not in store.results]
        if on_progress is not None:
            on_progress(len(cells) - len(missing), len(cells))
        with closing(_results(missing, num_jobs, ray_address)) as results:
            for result in results:
                store.add(result)
                if on_progress is not None:
                    on_progress(len(store.results), len(cells))
        rows = table_of(study.points(), store.results)
    write_tables(rows, folder)
    return rows


def _results(
    cells: list[Cell], num_jobs: int, ray_address: str | None
) -> Generator[CellResult, None, None]:
    if not cells:
        return
    if ray_address is not None:
        yield from run_on_ray(cells, ray_address)
    else:
        yield from run_here(cells, num_jobs)
