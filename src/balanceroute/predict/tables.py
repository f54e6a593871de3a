"""Life tables of classes that are added as they appear, fade, and are forgotten."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.kernels.hazard import log_survival_at, mean_ends
from balanceroute.kernels.lifetable import ALL, NONE, Columns, first_bad, first_bad_end, observe
from balanceroute.kernels.shrinkage import look_up, write_log_survival
from balanceroute.predict.base import Requests, checked_horizon
from balanceroute.predict.upkeep import (
    MAX_CLASSES,
    MAX_MEMORY_REQUESTS,
    NUM_ROOTS,
    Arrays,
    check_count,
    fill_from_arrays,
    make_room,
    new_tables,
    to_arrays,
)


def columns_of(requests: Requests) -> Columns:
    """Return the columns that kernels read, or raise `ConfigError` on a negative length."""
    columns = unchecked_columns_of(requests)
    if first_bad(columns) != NONE:
        raise bad_length(columns)
    return columns


def unchecked_columns_of(requests: Requests) -> Columns:
    """Return the columns for kernels that see for themselves whether a length is negative."""
    return Columns(
        prompt_tokens=np.ascontiguousarray(requests.prompt_tokens, np.int64),
        ages=np.ascontiguousarray(requests.generated_tokens, np.int64),
        clients=np.ascontiguousarray(requests.client_ids, np.int64),
        limits=np.ascontiguousarray(requests.max_tokens, np.int64),
        hashes=np.ascontiguousarray(requests.prompt_hashes, np.int64),
    )


def bad_length(columns: Columns) -> ConfigError:
    """Return the error that says which request has a negative length."""
    row = first_bad(columns)
    return ConfigError(
        f"request {row}: prompt_tokens, generated_tokens and max_tokens must be at least 0, "
        f"got {columns.prompt_tokens[row]}, {columns.ages[row]} and {columns.limits[row]}"
    )


def log_survival_from(
    hazards: Float64Array, rows: Int64Array, columns: Columns, horizons: Int64Array
) -> Float64Array:
    """Return the logarithm of `Classifier.survival` of requests whose hazards stand in `rows`."""
    survival = np.empty((len(rows), len(horizons)))
    horizons = np.ascontiguousarray(horizons, np.int64)
    log_survival_at(hazards, rows, columns.ages, columns.limits, horizons, survival)
    return survival


def mean_remaining_from(
    hazards: Float64Array, rows: Int64Array, columns: Columns, horizon: int
) -> Float64Array:
    """Return `Classifier.mean_remaining` of requests whose hazards stand in `rows`."""
    means = np.empty(len(rows))
    mean_ends(hazards, rows, columns.ages, columns.limits, checked_horizon(horizon), means)
    return means


class ClassTables:
    """A classifier by life tables; the others differ in which classes they tell apart.

    Parameters
    ----------
    by_class, by_prompt : bool
        Tell tenants and shapes apart; tell prompts apart by their hashes.
    memory : int
        Counts fade by a factor e in so many ended requests. At least 1.
    capacity : int
        Classes at most, of all levels together. When there is no room for another, the quarter
        that was not seen for longest is forgotten; what it taught the levels above it stays.
        Until the end of the call that filled the tables, new classes go by their parents.
    """

    def __init__(
        self, *, memory: int, capacity: int, by_class: bool = True, by_prompt: bool = False
    ) -> None:
        check_count("memory", memory, MAX_MEMORY_REQUESTS)
        check_count("capacity", capacity, 2 * MAX_CLASSES)
        self._tables = new_tables(capacity, memory)
        self._levels = (by_class, by_prompt)

    @property
    def num_classes(self) -> int:
        """Return how many classes there are, besides that of all requests."""
        return int(self._tables.tally["num_rows"][0]) - NUM_ROOTS

    def survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        """See `Classifier.survival`."""
        columns = unchecked_columns_of(requests)
        horizons = np.ascontiguousarray(horizons, np.int64)
        survival = np.empty((len(columns.ages), len(horizons)))
        make_room(self._tables)
        if not write_log_survival(self._tables, columns, *self._levels, horizons, survival):
            raise bad_length(columns)
        return np.exp(survival, out=survival)

    def p_finish(self, requests: Requests, horizon: int) -> Float64Array:
        """See `Classifier.p_finish`."""
        return 1.0 - self.survival(requests, np.array([checked_horizon(horizon)]))[:, 0]

    def mean_remaining(self, requests: Requests, horizon: int) -> Float64Array:
        """See `Classifier.mean_remaining`."""
        columns = columns_of(requests)
        return mean_remaining_from(self._tables.hazards, self._rows(columns), columns, horizon)

    def learn(self, requests: Requests, since_tokens: Int64Array, has_ended: BoolArray) -> None:
        """See `Classifier.learn`."""
        columns = unchecked_columns_of(requests)
        since = np.ascontiguousarray(since_tokens, np.int64)
        has_ended = np.ascontiguousarray(has_ended, np.bool_)
        if not len(since) == len(has_ended) == len(columns.ages):
            raise ConfigError(
                f"learn got {len(columns.ages)} requests, {len(since)} values of since_tokens and "
                f"{len(has_ended)} of has_ended"
            )
        make_room(self._tables)
        if observe(self._tables, columns, since, has_ended, *self._levels):
            return
        row = first_bad_end(columns_of(requests), since, has_ended)
        raise ConfigError(
            f"request {row}: since_tokens must be in 0..generated_tokens, and a request that "
            f"has ended has at least one token; got {since[row]} and {columns.ages[row]}"
        )

    def end_probs(self) -> Float64Array:
        """Return the probability per bucket that a token is the last, of all classes together."""
        anybody = np.zeros(1, np.int64)
        columns = Columns(anybody, anybody, anybody, anybody, anybody)
        look_up(self._tables, columns, False, False, np.empty(1, np.int64))
        end_probs: Float64Array = self._tables.end_probs[ALL]
        return end_probs

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that was learnt, for a file."""
        return to_arrays(self._tables)

    def fill_from_arrays(self, arrays: Arrays) -> None:
        """Take over what `to_arrays` gave; `ModelError` if it does not fit."""
        fill_from_arrays(self._tables, arrays)

    def _rows(self, columns: Columns) -> Int64Array:
        make_room(self._tables)
        rows = np.empty(len(columns.ages), np.int64)
        look_up(self._tables, columns, *self._levels, rows)
        return rows
