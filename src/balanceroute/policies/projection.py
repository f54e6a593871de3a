"""What the ranks will hold some steps ahead, as a policy keeps it up to date."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels import following, project
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.project import FOLLOWED, NONE, Projected
from balanceroute.policies.following import Lessons, requests_of, requests_waiting
from balanceroute.predict.base import Classifier, Requests
from balanceroute.predict.checked import Checked
from balanceroute.predict.registry import make_classifier
from balanceroute.predict.survival import Survival

NO_REQUESTS = "this view shows no requests; set follows_requests on the policy"
GRID_PARTS = 4  # points per horizon at which refilled slots are worked out
MAX_SAMPLE = 64  # waiting requests that stand for those to come


def trusted_classifier(
    spec: str,
    *,
    rng: np.random.Generator | None = None,
    output_tokens: NDArray[np.integer[Any]] | None = None,
) -> Classifier:
    """Build a classifier by name whose answers a plan may rest on, whatever it is.

    See `make_classifier` for the arguments and the errors. The answers of `Survival` are sound by
    construction; those of the others are checked each time.
    """
    classifier = make_classifier(spec, rng=rng, output_tokens=output_tokens)
    return classifier if isinstance(classifier, Survival) else Checked(classifier)


class Projection:
    """Projected load by rank and horizon (design section 5), from a classifier that learns along.

    Keeps, for each request in flight, its share of the load ahead, and changes only the shares of
    requests that come, end, or have grown by an eighth since they were last looked at.

    Parameters
    ----------
    classifier : Classifier
        Says who still runs at a horizon; is taught what is seen.
    with_refills : bool
        Count what an ended request's slot will hold next; False counts it as empty.
    """

    def __init__(self, classifier: Classifier, *, with_refills: bool) -> None:
        self._classifier = classifier
        self._with_refills = with_refills
        self._longest_wait = 1 << 62
        self.horizons = np.zeros(1, np.int64)
        self._refilled = np.zeros(1)
        self._lessons = Lessons()
        self._state = _nothing(0, 0, 1)

    def set_horizons(self, horizons: Int64Array, longest_wait: int = 1 << 62) -> None:
        """Look so many steps ahead from the next `update` on; ascending from 0, evenly spaced."""
        self.horizons = horizons
        self._longest_wait = longest_wait
        if len(self._refilled) != len(horizons):
            self._refilled = np.zeros(len(horizons))
        old = self._state.followed
        self._state = _nothing(len(old), len(self._state.rank_fixed), len(horizons))
        self._state.followed[:] = old
        self._state.followed["due_clock"] = project.NOW

    def note(self, view: GroupView) -> None:
        """Follow the requests that came, moved or ended; a view shows its events once only."""
        if view.entries is None:
            raise ConfigError(NO_REQUESTS)
        self._reserve(len(view.entries), view.num_ranks)
        if len(view.events) > 0:
            self._lessons.follow(self._state, view.events)

    def teach(self) -> int:
        """Teach the classifier what was noted since the last time; return how many have ended.

        Takes the same time for one as for dozens, so it need not be done at every plan.
        """
        return self._lessons.teach(self._classifier)

    def look(self, view: GroupView) -> None:
        """Bring the shares up to date, as of a view that has been noted, and note ages."""
        self._look(view, teaches_first=False)

    def _look(self, view: GroupView, *, teaches_first: bool) -> None:
        if view.entries is None or view.clocks is None:
            raise ConfigError(NO_REQUESTS)
        clocks = np.ascontiguousarray(view.clocks)
        handles, told = following.report_due(self._state, view.entries, clocks)
        if len(handles) == 0:
            return
        self._lessons.add(told)
        if teaches_first:
            self.teach()
        survival = self._survival(requests_of(told), self.horizons)
        project.put(
            self._state,
            handles,
            told,
            clocks,
            self.horizons,
            survival,
            self._refilled,
            self._longest_wait,
        )

    def update(self, view: GroupView) -> int:
        """Do all three, and teach ages before they are asked for; return how many have ended."""
        self.note(view)
        num_ends = self.teach()
        self._look(view, teaches_first=True)
        return num_ends

    def set_future(self, pool: PoolView, horizons: Int64Array) -> None:
        """Expect requests like those that wait to refill the slots, as seen at these horizons.

        The spacing of the horizons is a multiple of `GRID_PARTS`.
        """
        self._refilled = np.zeros(len(horizons))
        if not self._with_refills or len(horizons) < 2 or len(pool) == 0:
            return
        sample = slice(0, len(pool), -(-len(pool) // MAX_SAMPLE))
        num_parts = (len(horizons) - 1) * GRID_PARTS
        grid = np.arange(num_parts + 1) * (horizons[1] // GRID_PARTS)
        requests = requests_waiting(pool, sample)
        survival = self._classifier.survival(requests, grid)
        self._refilled[:-1] = project.refilled_from(
            requests.prompt_tokens, grid, survival, GRID_PARTS
        )

    def loads(self, view: GroupView) -> Float64Array:
        """Return the projected load, shape (G, K), tokens; the first column is that of today.

        Requests that `view` does not show yet, since it is older than they are, count with their
        prompts at every horizon.
        """
        clocks = np.zeros(view.num_ranks, np.int64) if view.clocks is None else view.clocks
        loads: Float64Array = project.loads_now(
            self._state, np.ascontiguousarray(clocks), view.committed_tokens
        )
        return loads

    def gains(
        self, pool: PoolView, horizons: Int64Array, request_tokens: float = 0.0
    ) -> Float64Array:
        """Return the load that each waiting request would add at each horizon, shape (N, K)."""
        survival = self._survival(requests_waiting(pool), horizons)
        gains: Float64Array = project.gains_of(
            pool.prompt_tokens, horizons, survival, self._refilled, request_tokens
        )
        return gains

    def _survival(self, requests: Requests, horizons: Int64Array) -> Float64Array:
        if len(horizons) == 1:  # the present alone: nobody needs to be asked
            return np.ones((len(requests), 1))
        return self._classifier.survival(requests, horizons)

    def _reserve(self, capacity: int, num_ranks: int) -> None:
        old = self._state
        size = len(old.followed)
        if capacity <= size:
            return
        wider = _nothing(capacity, num_ranks, len(self.horizons))
        for name in ("followed", "growing", "fixed"):
            getattr(wider, name)[:size] = getattr(old, name)
        if size > 0:
            sums = {"rank_growing": old.rank_growing, "rank_fixed": old.rank_fixed}
            wider = wider._replace(**sums)
        self._state = wider


def _nothing(capacity: int, num_ranks: int, num_horizons: int) -> Projected:
    followed = np.zeros(capacity, FOLLOWED)
    followed["rank"] = NONE
    shares, sums = (capacity, num_horizons), (num_ranks, num_horizons)
    return Projected(followed, np.zeros(shares), np.zeros(shares), np.zeros(sums), np.zeros(sums))
