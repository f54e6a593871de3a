"""From what a view shows of requests to what classifiers are asked and taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from balanceroute.cluster.events import join_events
from balanceroute.cluster.view import PoolView
from balanceroute.kernels.arrays import Int64Array, RecordArray
from balanceroute.kernels.project import NONE, Projected, apply_events, last_reports
from balanceroute.predict.base import Classifier, Requests


class Lesson(NamedTuple):
    """What has happened to requests, the ends of some among it."""

    events: RecordArray  # REQUEST_EVENT, shape (N,)
    since_tokens: Int64Array  # shape (N,): the age up to which an ended one was known, else NONE


def follow(projected: Projected, events: RecordArray) -> Lesson:
    """Follow events, and return what they teach."""
    return Lesson(events, apply_events(projected, events))


def teach_ends(classifier: Classifier, lessons: Sequence[Lesson]) -> int:
    """Teach a classifier what has ended, and return how many requests that are."""
    if not lessons:
        return 0
    since = np.concatenate([lesson.since_tokens for lesson in lessons])
    # Chosen by number: NumPy takes several times as long to choose records by a mask.
    rows = np.flatnonzero(since != NONE)
    if len(rows) > 0:
        ended = join_events([lesson.events for lesson in lessons])[rows]
        requests = requests_in_flight(ended, ended["generated_tokens"])
        since = np.minimum(since[rows], requests.generated_tokens)
        classifier.learn(requests, since, ended["has_completed"] == 1)
    return len(rows)


def teach_ages(
    projected: Projected,
    classifier: Classifier,
    handles: Int64Array,
    requests: Requests,
    clocks: Int64Array,
) -> None:
    """Teach a classifier how far requests that still run have got since they were last seen."""
    since = last_reports(projected, handles, requests.generated_tokens, clocks)
    classifier.learn(requests, since, np.zeros(len(handles), np.bool_))


def requests_in_flight(records: RecordArray, ages_tokens: Int64Array) -> Requests:
    """Return what a classifier is told of accounts or events, one row each."""
    # Copies: a column of records is strided, and the classifiers' kernels take plain arrays.
    return Requests(
        ids=records["request"].copy(),
        prompt_tokens=records["prompt_tokens"].copy(),
        generated_tokens=np.ascontiguousarray(ages_tokens),
        client_ids=records["client"].copy(),
        max_tokens=records["max_tokens"].copy(),
        prompt_hashes=records["prompt_hash"].copy(),
    )


def requests_waiting(pool: PoolView) -> Requests:
    """Return what a classifier is told of a pool."""
    return Requests(
        ids=np.ascontiguousarray(pool.ids),
        prompt_tokens=np.ascontiguousarray(pool.prompt_tokens),
        generated_tokens=np.zeros(len(pool), np.int64),
        client_ids=np.ascontiguousarray(pool.client_ids),
        max_tokens=np.ascontiguousarray(pool.max_tokens),
        prompt_hashes=np.ascontiguousarray(pool.prompt_hashes),
    )
