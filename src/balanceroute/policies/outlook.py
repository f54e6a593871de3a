"""What BR-H sees ahead: the published projection and the soft one (design section 5)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels import dropouts, project
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.following import report_due
from balanceroute.kernels.project import FOLLOWED, NONE, Projected
from balanceroute.policies.following import Lessons, requests_of
from balanceroute.policies.projection import Projection
from balanceroute.predict.base import Classifier, expected_steps

MAX_POINTS = 9  # horizons at which the soft projection is evaluated
LOOKS_PER_HORIZON = 4  # at a request whose end is further away
NEVER_STEPS = 1 << 30  # to an end that no horizon asks for


class Outlook(Protocol):
    """Projected loads, kept up to date."""

    def look_ahead(self, horizon: int, gamma: float) -> None:
        """Look so many steps ahead (at least 0) from the next `update` on, discounted by γ^h."""
        ...

    def update(self, view: GroupView) -> None:
        """Follow the group to what `view` shows, and teach the classifier."""
        ...

    def loads(self, view: GroupView) -> Float64Array:
        """Return the loads at K horizons, shape (G, K), tokens; the first is today."""
        ...

    def discounts(self) -> Float64Array:
        """Return the weights of the horizons, shape (K,)."""
        ...

    def gains(self, pool: PoolView) -> Float64Array | None:
        """Return what each request would add, shape (N, K); None: its prompt at each horizon."""
        ...


class SoftOutlook:
    """Requests count at a horizon with the probability that they still run then.

    ``L(h) = Σ (w + h) S(h)``, and a waiting request would add ``(s + h) S(h)``. Evaluated at a few
    horizons, between which what F sums over is taken to be linear; see `quadrature`.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._projection = Projection(classifier, with_refills=False)
        self._discounts: Float64Array = np.ones(1)

    def look_ahead(self, horizon: int, gamma: float) -> None:
        points = horizon_points(horizon)
        self._projection.set_horizons(points)
        self._discounts = quadrature(points, horizon, gamma)

    def update(self, view: GroupView) -> None:
        self._projection.update(view)

    def loads(self, view: GroupView) -> Float64Array:
        return self._projection.loads(view)

    def discounts(self) -> Float64Array:
        return self._discounts

    def gains(self, pool: PoolView) -> Float64Array | None:
        return self._projection.gains(pool, self._projection.horizons)


def horizon_points(horizon: int) -> Int64Array:
    """Return at most `MAX_POINTS` steps, evenly spaced from 0 to the horizon or just beyond.

    Examples
    --------
    >>> horizon_points(3), horizon_points(20)
    (array([0, 1, 2, 3]), array([ 0,  3,  6,  9, 12, 15, 18, 21]))
    """
    spacing = max(1, -(-horizon // (MAX_POINTS - 1)))
    points: Int64Array = np.arange(-(-horizon // spacing) + 1) * spacing
    return points


def discounts_of(horizon: int, gamma: float) -> Float64Array:
    """Return γ^h for h = 0..H.

    Examples
    --------
    >>> discounts_of(2, 0.5)
    array([1.  , 0.5 , 0.25])
    """
    discounts: Float64Array = np.power(float(gamma), np.arange(horizon + 1))
    return discounts


def quadrature(points: Int64Array, horizon: int, gamma: float) -> Float64Array:
    """Return weights w with ``Σ_{h=0..H} γ^h f(h) = Σ_k w_k f(h_k)`` if f is linear in between.

    Exact for any f where the points are all the steps, as they are up to H = 8.

    Examples
    --------
    >>> quadrature(np.arange(3), 2, 0.5)
    array([1.  , 0.5 , 0.25])

    Of the steps 0, 1, 2, 3 with weight 1 each, step 1 goes to the points 0 and 2 in equal parts,
    and step 3 to 2 and 4.

    >>> quadrature(np.array([0, 2, 4]), 3, 1.0)
    array([1.5, 2. , 0.5])
    """
    steps = np.arange(horizon + 1)
    spacing = int(points[1]) if len(points) > 1 else 1
    discounts, share = discounts_of(horizon, gamma), steps % spacing / spacing
    below = np.bincount(steps // spacing, discounts * (1.0 - share), len(points))
    above = np.bincount(steps // spacing + 1, discounts * share, len(points) + 1)
    weights: Float64Array = np.asarray(below + above[: len(points)], np.float64)
    return weights


class HardOutlook:
    """Requests count in full until they are expected to end, and then not at all: as published.

    Requests are looked at anew when that moment has come, or after a quarter of the horizon.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._horizon = 0
        self._discounts: Float64Array = np.ones(1)
        self._lessons, self._projected = Lessons(), _no_shares(0)
        self._dropouts = dropouts.no_dropouts(0, 0, 0)

    def look_ahead(self, horizon: int, gamma: float) -> None:
        num_ranks = len(self._dropouts.num_reqs)
        followed = self._projected.followed
        followed["due_clock"] = project.NOW
        self._horizon = horizon
        self._discounts = discounts_of(horizon, gamma)
        self._dropouts = dropouts.no_dropouts(len(followed), num_ranks, horizon)

    def update(self, view: GroupView) -> None:
        if view.entries is None or view.clocks is None:
            raise ConfigError("this view shows no requests; set follows_requests on the policy")
        self._reserve(len(view.entries), view.num_ranks)
        dropouts.leave_ended(self._dropouts, view.events)
        self._lessons.follow(self._projected, view.events)
        self._lessons.teach(self._classifier)
        clocks = np.ascontiguousarray(view.clocks)
        handles, told = report_due(self._projected, view.entries, clocks)
        if len(handles) > 0:
            self._look_at(handles, told, clocks)

    def loads(self, view: GroupView) -> Float64Array:
        clocks = np.zeros(view.num_ranks, np.int64) if view.clocks is None else view.clocks
        loads = dropouts.loads_ahead(self._dropouts, np.ascontiguousarray(clocks))
        loads += (view.committed_tokens - loads[:, 0])[:, None]
        return loads

    def discounts(self) -> Float64Array:
        return self._discounts

    def gains(self, pool: PoolView) -> Float64Array | None:
        return None

    def _look_at(self, handles: Int64Array, told: Int64Array, clocks: Int64Array) -> None:
        self._lessons.add(told)
        self._lessons.teach(self._classifier)
        requests = requests_of(told)
        steps, longest_wait = np.full(len(handles), float(NEVER_STEPS)), NEVER_STEPS
        if self._horizon > 0:
            longest_wait = max(1, self._horizon // LOOKS_PER_HORIZON)
            p_finish = self._classifier.p_finish(requests, self._horizon)
            mean_steps = self._classifier.mean_remaining(requests, self._horizon)
            steps = expected_steps(p_finish, mean_steps, self._horizon)
        dropouts.enter(
            self._dropouts,
            self._projected.followed,
            handles,
            requests.prompt_tokens + requests.generated_tokens,
            steps,
            clocks,
            longest_wait,
        )

    def _reserve(self, capacity: int, num_ranks: int) -> None:
        size = len(self._projected.followed)
        if capacity <= size:
            return
        projected = _no_shares(capacity)
        projected.followed[:size] = self._projected.followed
        wider = dropouts.no_dropouts(capacity, num_ranks, self._horizon)
        wider.counted[:size] = self._dropouts.counted
        if size > 0:
            old = self._dropouts
            wider = wider._replace(num_reqs=old.num_reqs, base_tokens=old.base_tokens)
        self._projected, self._dropouts = projected, wider


def _no_shares(capacity: int) -> Projected:
    """Return a record of who is followed, without a horizon of its own."""
    followed = np.zeros(capacity, FOLLOWED)
    followed["rank"] = NONE
    nothing = np.zeros((capacity, 0))
    return Projected(followed, nothing, nothing, np.zeros((0, 0)), np.zeros((0, 0)))
