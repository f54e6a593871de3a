"""What has happened to requests, for a policy, and for who learns from it what a step costs."""

from __future__ import annotations

from collections.abc import Callable

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import join_events
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.view import GroupView
from balanceroute.kernels.ledger import RecordArray
from balanceroute.policies.cost_learner import CostLearner

# A learner that has seen so many steps looks at the two ends of one step in so many: by then each
# tells it little, and to look takes as long as a plan, in the process that all tokens pass through.
# A prime number, since engines do some things every few steps.
SETTLED_SAMPLES, STEPS_PER_SAMPLE = 2048, 7


class Telling:
    """Tells a policy what has happened to requests; and a learner too, if there is one.

    Each hears everything once, at its own pace: a policy when it is asked, at any moment of a step,
    the learner at the end of a step, since that is what tells how long one takes; of each to begin
    with, and of few once it knows.

    Parameters
    ----------
    learns_costs : bool
        Whether there is a learner.

    Examples
    --------
    >>> ledger, telling = Ledger(num_ranks=1, keeps_events=True), Telling(learns_costs=False)
    >>> handle = ledger.send(rank=0, prompt_tokens=5)
    >>> len(telling.to_policy(ledger)), len(telling.to_policy(ledger))
    (1, 0)
    """

    def __init__(self, *, learns_costs: bool) -> None:
        self._learner = CostLearner() if learns_costs else None
        self._num_steps = 0
        self._for_policy: list[RecordArray] = []
        self._for_learner: list[RecordArray] = []

    def to_policy(self, ledger: Ledger) -> RecordArray:
        """Return what the policy has not been told."""
        events = self._take(ledger)
        if self._for_policy:
            events, self._for_policy = join_events([*self._for_policy, events]), []
        return events

    def to_learner(
        self, ledger: Ledger, view_of: Callable[[RecordArray], GroupView]
    ) -> StepCosts | None:
        """Have the learner look at the end of a step, and return what it has learned so far.

        `view_of` returns the group as one sees it who is told these events.
        """
        if self._learner is None:
            return None
        self._num_steps += 1
        if self._learner.num_samples >= SETTLED_SAMPLES and self._num_steps % STEPS_PER_SAMPLE > 1:
            return self._learner.costs
        self._for_policy.append(self._take(ledger))
        events, self._for_learner = join_events(self._for_learner), []
        self._learner.see(view_of(events))
        return self._learner.costs

    def _take(self, ledger: Ledger) -> RecordArray:
        events = ledger.take_events()
        if self._learner is not None:
            self._for_learner.append(events)
        return events

    def restart(self, ledger: Ledger) -> None:
        """Tell a new policy of the requests in flight, and of nothing that was before."""
        self._take(ledger)
        self._for_policy = [ledger.retold_events()]
