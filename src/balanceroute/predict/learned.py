"""A hazard learnt by gradient boosting, in tables so that it is as fast as a life table."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ModelError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.cells import count_cells, find_cells
from balanceroute.kernels.hazard import NUM_BUCKETS
from balanceroute.kernels.lifetable import NONE, Columns
from balanceroute.predict import boosting
from balanceroute.predict.base import Requests, checked_horizon
from balanceroute.predict.cells import NUM_LEVELS, HazardCells, Pace, fit_cells
from balanceroute.predict.survival import DEFAULT_MEMORY_REQUESTS, Survival
from balanceroute.predict.tables import columns_of, log_survival_from, mean_remaining_from
from balanceroute.predict.upkeep import (
    MAX_CLASSES,
    MAX_MEMORY_REQUESTS,
    Arrays,
    check_count,
    fill_from_arrays,
    make_room,
    new_tables,
    to_arrays,
)

logger = logging.getLogger(__name__)

DEFAULT_REFIT_REQUESTS = 5000
FIRST_FIT_REQUESTS = 1000
DEFAULT_MAX_CELLS = 2048


class Learned:
    """Gradient boosting on age, prompt length, tenant, limit and the pace of recent ends.

    Trees learn by which factor the hazard of a cell of requests exceeds that of all requests at
    the same age. They are fitted again and again to counts that fade, and turned into a table per
    cell. Until the first fit, and for cells that it did not see, `Survival` answers.

    Parameters
    ----------
    memory : int
        Counts fade by a factor e in so many ended requests. At least 1.
    refit_requests : int
        Ended requests from one fit to the next; the first comes after 1,000 or so many. A fit
        takes some tenths of a second. At least 1.
    max_cells : int
        Cells that are counted, at most: tenant, bucket of the limit, bucket of the prompt's length
        (eight to an octave) and pace. At least 1.

    Examples
    --------
    >>> Learned().settings
    {'memory': 50000, 'refit_requests': 5000, 'max_cells': 2048}
    """

    def __init__(
        self,
        *,
        memory: int = DEFAULT_MEMORY_REQUESTS,
        refit_requests: int = DEFAULT_REFIT_REQUESTS,
        max_cells: int = DEFAULT_MAX_CELLS,
    ) -> None:
        check_count("refit_requests", refit_requests, MAX_MEMORY_REQUESTS)
        check_count("max_cells", max_cells, MAX_CLASSES)
        self.settings: dict[str, str | int] = {
            "memory": memory,
            "refit_requests": refit_requests,
            "max_cells": max_cells,
        }
        self._survival = Survival(memory=memory)
        self._counts = new_tables(max_cells, memory)
        self._pace = Pace(memory)
        self._cells: HazardCells | None = None
        self._num_new_ends = 0
        self._refit_requests = refit_requests
        self._has_warned = False

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        columns = columns_of(requests)
        hazards, rows, is_known = self._rows(columns)
        if hazards is None:
            return self._survival.survival(requests, horizons)
        log_survival = log_survival_from(hazards, rows, columns, horizons)
        survival: Float64Array = np.exp(log_survival, out=log_survival)
        if not is_known.all():
            rest = requests.select(~is_known)
            survival[~is_known] = self._survival.survival(rest, horizons)
        return survival

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        return 1.0 - self.survival(requests, np.array([checked_horizon(horizon)]))[:, 0]

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        columns = columns_of(requests)
        hazards, rows, is_known = self._rows(columns)
        if hazards is None:
            return self._survival.mean_remaining(requests, horizon)
        means = mean_remaining_from(hazards, rows, columns, horizon)
        if not is_known.all():
            rest = requests.select(~is_known)
            means[~is_known] = self._survival.mean_remaining(rest, horizon)
        return means

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        self._survival.learn(requests, since_tokens, has_ended)
        columns, since = columns_of(requests), np.ascontiguousarray(since_tokens, np.int64)
        has_ended = np.ascontiguousarray(has_ended, np.bool_)
        make_room(self._counts)
        count_cells(self._counts, columns, since, has_ended, self._pace.level)
        num_ends = int(has_ended.sum())
        self._pace.see(num_ends, int((columns.ages - since).sum()))
        self._num_new_ends += num_ends
        if self._num_new_ends >= self._next_fit():
            self.refit()

    def refit(self) -> None:
        """Fit the trees to what has been counted; `MissingExtraError` without scikit-learn.

        Without it, what was loaded from a file goes on answering, and a warning says so once.
        """
        if self._cells is not None and not boosting.is_installed():
            if not self._has_warned:
                logger.warning(
                    "the learned classifier stays as it was loaded, because scikit-learn is not "
                    "installed; to let it learn on, pip install 'balanceroute[learned]'"
                )
            self._has_warned = True
            return
        self._cells = fit_cells(self._counts, self._survival.end_probs()) or self._cells
        self._num_new_ends = 0

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt, for a file; the trees as the tables that they give."""
        arrays = {f"survival_{name}": array for name, array in self._survival.to_arrays().items()}
        arrays |= {f"counts_{name}": array for name, array in to_arrays(self._counts).items()}
        arrays |= {"pace": self._pace.state, "num_new_ends": np.array([self._num_new_ends])}
        if self._cells is None:
            return arrays
        hazards = np.stack([self._cells.at(level) for level in range(NUM_LEVELS)])
        return arrays | {"cell_keys": self._cells.keys, "cell_hazards": hazards}

    def fill_from_arrays(self, arrays: Arrays) -> None:
        """Take over what `to_arrays` gave; `ModelError` if it does not fit."""
        self._survival.fill_from_arrays(_part(arrays, "survival_"))
        fill_from_arrays(self._counts, _part(arrays, "counts_"))
        pace, num_new = arrays.get("pace"), arrays.get("num_new_ends")
        if pace is None or pace.shape != (4,) or num_new is None or num_new.shape != (1,):
            raise ModelError("columns pace and num_new_ends must have 4 values and 1")
        self._pace.state, self._num_new_ends = pace.astype(np.float64), int(num_new[0])
        if "cell_keys" in arrays:
            self._cells = _cells_from(arrays)

    def _next_fit(self) -> int:
        if self._cells is None:
            return min(FIRST_FIT_REQUESTS, self._refit_requests)
        return self._refit_requests

    def _rows(self, columns: Columns) -> tuple[Float64Array | None, Int64Array, BoolArray]:
        """Return the hazards per cell, each request's row and whether it has one."""
        rows = np.empty(len(columns.ages), np.int64)
        if self._cells is None or not find_cells(self._cells.keys, columns, rows):
            return None, rows, np.zeros(len(rows), np.bool_)
        return self._cells.at(self._pace.level), rows, rows != NONE


def _part(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _cells_from(arrays: Arrays) -> HazardCells:
    keys, hazards = arrays["cell_keys"], arrays.get("cell_hazards")
    shape = (NUM_LEVELS, len(keys), NUM_BUCKETS + 1)
    if keys.dtype != np.int64 or hazards is None or hazards.shape != shape or not len(keys):
        raise ModelError(f"column cell_hazards must have the shape {shape}, at least one cell")
    is_known = np.ones(NUM_LEVELS, np.bool_)
    return HazardCells(keys=keys, hazards=hazards, is_known=is_known, model=None)
