"""Requests for the tests of classifiers, and a slow life table to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.hazard import NUM_BUCKETS, bucket_of, bucket_start
from balanceroute.predict import Classifier, Requests

STARTS = np.array([bucket_start(bucket) for bucket in range(NUM_BUCKETS + 1)])
WIDTHS = np.diff(STARTS)
PRIOR = 1 - ((STARTS[:-1] + 256) / (STARTS[1:] + 256)) ** (1 / WIDTHS)
NO_FORGETTING = 10**18  # exp(1 / memory) is 1 in floating point
MAX_END_PROB = 1 - 2.0**-20

Ints = NDArray[np.integer[Any]] | list[int]


def make_requests(
    ages: Ints,
    prompts: Ints | int = 100,
    clients: Ints | int = -1,
    limits: Ints | int = 0,
    hashes: Ints | int = 0,
    ids: Ints | int = -1,
) -> Requests:
    """Build requests from columns or single values."""

    def column(values: Ints | int) -> NDArray[np.int64]:
        return np.array(np.broadcast_to(np.asarray(values, np.int64), (len(ages),)))

    return Requests(
        ids=column(ids),
        prompt_tokens=column(prompts),
        generated_tokens=column(ages),
        client_ids=column(clients),
        max_tokens=column(limits),
        prompt_hashes=column(hashes),
    )


def learn_whole(classifier: Classifier, outputs: Ints, **columns: Any) -> None:
    """Teach requests that were watched from start to end."""
    requests = make_requests(outputs, **columns)
    classifier.learn(requests, np.zeros(len(outputs), np.int64), np.ones(len(outputs), np.bool_))


def shrunk(
    ends: NDArray[np.float64], tokens: NDArray[np.float64], parent: NDArray[np.float64], k: float
) -> NDArray[np.float64]:
    """Return probabilities of an end by the three scales, with NumPy."""
    probs = parent.copy()
    for scale in (NUM_BUCKETS, 8, 1):
        expected = (tokens * probs).reshape(-1, scale).sum(axis=1)
        ended = ends.reshape(-1, scale).sum(axis=1)
        probs = probs * np.repeat((ended + k) / (expected + k), scale)
    return np.minimum(probs, MAX_END_PROB)


def counts_of(
    requests: Requests, since: NDArray[np.int64], has_ended: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ends and tokens per bucket, token by token."""
    ends, tokens = np.zeros(NUM_BUCKETS), np.zeros(NUM_BUCKETS)
    rows = zip(requests.generated_tokens, requests.max_tokens, since, has_ended, strict=True)
    for age, limit, start, is_end in rows:
        until = min(age, limit - 1) if limit else age
        for token in range(start, until):
            tokens[bucket_of(token)] += 1
        if is_end and until == age:
            ends[bucket_of(age - 1)] += 1
    return ends, tokens


def survival_by_token(
    end_probs: NDArray[np.float64], age: int, limit: int, horizon: int
) -> NDArray[np.float64]:
    """Return P(D > a + h | D > a) for h = 0..horizon, token by token."""
    survival = np.ones(horizon + 1)
    for h in range(1, horizon + 1):
        is_over = limit and age + h >= limit
        survival[h] = 0 if is_over else survival[h - 1] * (1 - end_probs[bucket_of(age + h - 1)])
    return survival
