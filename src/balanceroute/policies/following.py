"""From what a view shows of requests to what classifiers are asked and taught."""

from __future__ import annotations

import numpy as np

from balanceroute.cluster.view import PoolView
from balanceroute.kernels import following
from balanceroute.kernels.arrays import Int64Array, RecordArray
from balanceroute.kernels.project import (
    AGE,
    CLIENT,
    HAS_COMPLETED,
    LIMIT,
    NUM_COLUMNS,
    PROMPT_HASH,
    PROMPT_TOKENS,
    REQUEST,
    SINCE,
    Projected,
)
from balanceroute.predict.base import Classifier, Requests

FEWEST_COLUMNS = 64  # that there is room for
EVERYBODY = slice(None)


class Lessons:
    """What has been seen of requests, until a classifier is taught it.

    To teach one request takes nearly as long as to teach dozens.
    """

    def __init__(self) -> None:
        self._told = np.empty((NUM_COLUMNS, FEWEST_COLUMNS), np.int64)
        self._num_told = self._num_ends = 0

    def follow(self, projected: Projected, events: RecordArray) -> None:
        """Follow events, and note the ends among them."""
        self._make_room(len(events))
        before = self._num_told
        self._num_told = following.apply_events(projected, events, self._told, before)
        self._num_ends += self._num_told - before

    def add(self, told: Int64Array) -> None:
        """Note how far requests have got that still run, as `report_due` returns it."""
        self._make_room(told.shape[1])
        before, self._num_told = self._num_told, self._num_told + told.shape[1]
        self._told[:, before : self._num_told] = told

    def teach(self, classifier: Classifier) -> int:
        """Teach a classifier what was noted since the last time; return how many have ended."""
        if self._num_told > 0:
            told = self._told[:, : self._num_told].copy()  # the classifier's own from now on
            classifier.learn(requests_of(told), told[SINCE], told[HAS_COMPLETED] == 1)
        num_ends, self._num_ends, self._num_told = self._num_ends, 0, 0
        return num_ends

    def _make_room(self, num_requests: int) -> None:
        most = self._num_told + num_requests
        if most > self._told.shape[1]:
            told = np.empty((NUM_COLUMNS, 2 * most), np.int64)
            told[:, : self._num_told] = self._told[:, : self._num_told]
            self._told = told


def requests_of(told: Int64Array) -> Requests:
    """Return what a classifier is asked of requests; see `kernels.project` for the rows."""
    return Requests(
        ids=told[REQUEST],
        prompt_tokens=told[PROMPT_TOKENS],
        generated_tokens=told[AGE],
        client_ids=told[CLIENT],
        max_tokens=told[LIMIT],
        prompt_hashes=told[PROMPT_HASH],
    )


def requests_waiting(pool: PoolView, rows: slice = EVERYBODY) -> Requests:
    """Return what a classifier is told of a pool, or of some of it."""
    prompt_tokens = np.ascontiguousarray(pool.prompt_tokens[rows])
    return Requests(
        ids=np.ascontiguousarray(pool.ids[rows]),
        prompt_tokens=prompt_tokens,
        generated_tokens=np.zeros(len(prompt_tokens), np.int64),
        client_ids=np.ascontiguousarray(pool.client_ids[rows]),
        max_tokens=np.ascontiguousarray(pool.max_tokens[rows]),
        prompt_hashes=np.ascontiguousarray(pool.prompt_hashes[rows]),
    )
