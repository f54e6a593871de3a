"""What a step costs, learned from the views that a policy is handed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from balanceroute.kernels import boundary
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.ledger import SENT, WAITING
from balanceroute.policies.cost_fit import Samples, Step

VIEWS_DISTRUSTED = 64  # after one that was older than it said


class CostLearner:
    """Learns what a step of a group with a barrier costs, from the views that a policy is handed.

    Two views at consecutive step boundaries show how long the step between them took and what each
    rank did in it. Over such steps the costs are fitted as the least squares of relative errors in
    the time of the slowest rank, none negative; which rank is slowest, and which steps something
    else has held up, is decided in turns with it. A kappa0 or m that does not clearly help (by the
    Bayesian information criterion) is 0; and sigma is 0 or 1, whichever fits better, unless
    something between them clearly helps.

    Parameters
    ----------
    budget_tokens : int or None
        The engine's token budget per step and rank, at least 1. None: the most tokens that a rank
        has been seen to compute in a step, which is the budget once one was full.

    Raises
    ------
    ConfigError
        If `budget_tokens` is less than 1.

    Notes
    -----
    Kept are 512 steps, as evenly as can be of five amounts of prefill, so that neither pure decode
    steps nor full ones crowd out the others. If the newest deviate from what fits all of them, the
    costs have changed, and older ones are dropped. The work of a fit is spread over calls.

    Nothing is learned from steps not seen from both ends, nor where requests were preempted or
    aborted, nor under immediate binding, nor from stale views, as far as they can be told: those
    that count other requests in flight than there are, or show a busy group at a standstill.

    Some costs cannot be told apart, whatever the method; the time of the steps seen is right all
    the same. C and kappa0, if all ranks always run equally many requests: then kappa0 is 0. C and
    m, if the slowest rank prefills in every step: what m has to be is uncertain, and 0 if it can
    be. Both parts of t_p, if ranks always prefill equally much, or there is one: then sigma is 0.
    C, t_l and t_p, if the slowest rank always does as much, as with every budget always full: then
    each gets a similar part of the time, so far as noise hides the small differences. In noisy
    time a kappa0 or m that matters little stays 0, and t_l or t_p takes its part.

    Examples
    --------
    A rank whose steps take 10 ms, 0.1 us per resident token and 20 us per prompt token:

    >>> from balanceroute.cluster.ledger import Ledger
    >>> ledger, learner, now_s = Ledger(num_ranks=1, keeps_events=True), CostLearner(), 0.0
    >>> one = np.array([100])
    >>> for step in range(64):
    ...     view = GroupView.of_accounts(ledger.ranks, ledger.ranks, now_s=now_s,
    ...                                  is_immediate=False, num_slots=one, kv_capacity_tokens=one)
    ...     events, clocks = ledger.take_events(), ledger.ranks["clock"].copy()
    ...     learner.see(view.with_requests(ledger.accounts.entries, clocks, events))
    ...     prompt_tokens = 100 + step**2 % 1000
    ...     handle = ledger.send(rank=0, prompt_tokens=prompt_tokens)
    ...     ledger.start(handle)
    ...     ledger.prefill(handle, prompt_tokens)
    ...     now_s += 0.01 + 1e-7 * int(ledger.ranks["load_tokens"][0]) + 2e-5 * prompt_tokens
    ...     ledger.step(rank=0)
    >>> costs = learner.costs
    >>> round(costs.constant_s, 6), round(costs.s_per_token, 9), round(costs.prefill_s_per_token, 7)
    (0.01, 1e-07, 2e-05)
    """

    def __init__(self, budget_tokens: int | None = None) -> None:
        if budget_tokens is not None and budget_tokens < 1:
            raise ConfigError(f"budget_tokens must be at least 1, got {budget_tokens}")
        self._budget_tokens = budget_tokens
        self._most_tokens = 0
        self._before: _Boundary | None = None
        self._has_cache = False
        self._num_distrusted = 0
        self._samples: Samples | None = None
        self._costs: StepCosts | None = None

    @property
    def costs(self) -> StepCosts | None:
        """Return what a step costs, as last fitted; None until enough steps were seen.

        Enough are a few dozen, eight with prefill among them if there was any. Where prefill has
        cost nothing so far, `budget_tokens` is the constructor's.
        """
        return self._costs

    @property
    def num_samples(self) -> int:
        """Return how many steps the costs are learned from so far."""
        return 0 if self._samples is None else self._samples.num_seen

    def see(self, view: GroupView) -> None:
        """Take in a view; to be called with each one that the policy is handed.

        Raises
        ------
        ConfigError
            If the view shows no requests.
        """
        if view.clocks is None or view.entries is None:
            raise ConfigError("this view shows no requests; set follows_requests on the policy")
        before, clocks = self._before, view.clocks.copy()
        if before is not None and len(before.clocks) != len(clocks):
            before = None  # ranks have come
        told = boundary.tell(
            clocks if before is None else before.clocks,
            clocks,
            view.num_running_reqs,
            view.num_waiting_reqs,
            view.num_inflight_reqs,
            view.entries,
            view.events,
        )
        self._has_cache |= bool(told & boundary.HAS_CACHE)
        due_tokens = self._computable_tokens(view)
        is_busy = bool(told & boundary.IS_BUSY)
        step = None
        # Where a group is idle now, it may have been so for a while.
        if before is not None and self._is_step(before, view, told) and is_busy:
            step = self._step_between(before, view, due_tokens)
        num_decoding = None if step is None else step.num_decoding_after
        generated = view.generated_tokens.copy()
        self._before = _Boundary(view.now_s, is_busy, clocks, due_tokens, generated, num_decoding)
        if before is None or step is None:
            return
        if before.num_decoding is not None:
            computed = step.prefilled_tokens + before.num_decoding
            self._most_tokens = max(self._most_tokens, int(computed.max()))
        if self._samples is None or self._samples.num_ranks != view.num_ranks:
            self._samples = Samples(view.num_ranks)
        terms = self._samples.add(step, view.speeds)
        if terms is not None:
            self._costs = self._costs_of(terms, self._samples)

    def _computable_tokens(self, view: GroupView) -> Float64Array:
        """Return the due tokens without those in a cache, which get resident at no cost."""
        assert view.entries is not None
        due_tokens = view.due_tokens.astype(np.float64)
        if self._has_cache:
            waiting = np.flatnonzero(view.entries["state"] == WAITING)
            ranks, cached = view.entries["rank"][waiting], view.entries["cached_tokens"][waiting]
            due_tokens -= _per_rank(ranks, cached, view.num_ranks)
        return due_tokens

    def _is_step(self, before: _Boundary, view: GroupView, told: int) -> bool:
        """Tell whether exactly one step lies between two views, and both can be trusted."""
        is_later = view.now_s > before.now_s
        stands_still = is_later and before.is_busy and not told & boundary.HAS_STEPPED
        if told & boundary.IS_OLD or stands_still:
            self._num_distrusted = VIEWS_DISTRUSTED
            if self._costs is None:
                self._samples = None  # they were no better
        elif self._num_distrusted > 0:
            self._num_distrusted -= 1
        is_one_step = is_later and bool(told & boundary.IS_ONE_STEP)
        return is_one_step and not view.is_immediate and self._num_distrusted == 0

    def _step_between(
        self, before: _Boundary, view: GroupView, due_tokens: Float64Array
    ) -> Step | None:
        """Return the step between two views; None if requests left otherwise than by ending."""
        assert view.entries is not None
        events, num_ranks = view.events, view.num_ranks
        ranks, prompts, ended = events["rank"], events["prompt_tokens"], events["has_completed"]
        sent = events["kind"] == SENT
        if np.count_nonzero(sent) + np.count_nonzero(ended) < len(events):
            return None
        to_compute = prompts * sent
        if self._has_cache:
            to_compute -= view.entries["cached_tokens"][events["handle"]] * sent
        ended_tokens = ended * (prompts + events["generated_tokens"])
        num_ended = _per_rank(ranks, ended, num_ranks)
        generated = view.generated_tokens - before.generated_tokens
        prefilled = before.due_tokens + _per_rank(ranks, to_compute, num_ranks) - due_tokens
        if prefilled.min() < 0.0:
            return None
        return Step(
            view.now_s - before.now_s,
            num_ended + view.num_running_reqs,
            _per_rank(ranks, ended_tokens, num_ranks) + view.load_tokens - generated,
            prefilled,
            generated - num_ended,
        )

    def _costs_of(self, terms: Float64Array, samples: Samples) -> StepCosts:
        constant, request, token, prefill, mixed, shared = terms.tolist()
        budget_tokens = self._budget_tokens
        if budget_tokens is None and prefill + mixed + shared > 0.0:
            budget_tokens = self._most_tokens or None
        return StepCosts(
            constant_s=constant,
            s_per_token=token,
            kappa0_tokens=request / token if request > 0.0 else 0.0,
            prefill_s_per_token=prefill + shared,
            prefill_shared=shared / (prefill + shared) if shared > 0.0 else 0.0,
            mixed_step_s=mixed,
            budget_tokens=budget_tokens,
            num_samples=samples.num_kept,
        )


class _Boundary(NamedTuple):
    """What is kept of a view; arrays have shape (G,)."""

    now_s: float
    is_busy: bool
    clocks: Int64Array
    due_tokens: Float64Array  # without those in a cache
    generated_tokens: Int64Array
    num_decoding: Float64Array | None  # None: unknown


def _per_rank(ranks: Int64Array, values: Int64Array, num_ranks: int) -> Float64Array:
    """Return the sum of the values of each rank."""
    sums: Float64Array = np.bincount(ranks, values, num_ranks).astype(np.float64, copy=False)
    return sums
