"""BF-IO: the best that one step can do, solved to the optimum (arXiv 2601.17855)."""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.policies import solver
from balanceroute.policies.auto import PLANS_PER_FUTURE, BrAuto
from balanceroute.policies.balance_route import Br0
from balanceroute.policies.base import Binding, Plan, Policy, follows_requests
from balanceroute.policies.outlook import quadrature
from balanceroute.policies.projection import GRID_PARTS, Projection, trusted_classifier
from balanceroute.policies.step_program import (
    StepProblem,
    read_plan,
    step_imbalance,
    write_program,
    write_solution,
)

WarmStart = Literal["br_0", "br_auto"]

MAX_HORIZON = 256  # steps

logger = logging.getLogger(__name__)


class BfIo:
    """Place requests so that the imbalance of this step and the next H is as small as can be.

    BF-IO of [1]_: a mixed-integer program (docs/policies/bf_io.md), solved anew at every step with
    what is known by then. It is a yardstick for the other policies rather than a rule for
    production: a plan takes milliseconds to seconds.

    Where the solver does not come to an end, or the program is too large to be tried, the plan is
    the best one known, which is the warm start's or better. The first time of each kind, a warning
    is logged; `num_unproven` goes on counting.

    Parameters
    ----------
    horizon : int
        H, steps looked ahead, 0 to 256.
    classifier : str
        Who predicts the ends of requests for H above 0 (`balanceroute.predict`); ``oracle`` knows
        them, as [1]_ assumes.
    spacing : int
        Steps from one horizon that is evaluated to the next, at least 1; imbalance is taken to be
        linear in between. 1 evaluates all of them, as published.
    refills : bool
        Count what the slots that fall free within the horizon will hold next; False counts them as
        empty, as published. Needs a spacing that is a multiple of 4.
    warm_start : {"br_0", "br_auto"}
        Whose plan the search starts from; ``br_0`` selects by margin.
    window : int
        Oldest waiting requests that are looked at, at least 1.
    max_pairs : int
        Pairs of a waiting request and a rank with a free slot above which nothing is solved.
    max_nodes : int
        Nodes of the search tree after which it ends, at least 1.
    time_limit_s : float
        Seconds after which it ends, above 0. What a plan that meets this limit is depends on the
        machine and on what else it does; on an idle one `max_nodes` normally comes first.
    rng, output_tokens
        Given to classifiers that need them; see `make_classifier`.

    Attributes
    ----------
    num_solved, num_unproven : int
        Plans proven optimal, and those that were not.

    References
    ----------
    .. [1] BF-IO, "A Universal Load Balancing Principle…", arXiv 2601.17855.
    """

    binding: ClassVar[Binding] = "pooled"
    follows_requests: bool

    def __init__(
        self,
        *,
        horizon: int = 0,
        classifier: str = "survival",
        spacing: int = 1,
        refills: bool = False,
        warm_start: WarmStart = "br_0",
        window: int = 128,
        max_pairs: int = 2048,
        max_nodes: int = 200,
        time_limit_s: float = 5.0,
        rng: np.random.Generator | None = None,
        output_tokens: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        solver.require()
        if not 0 <= horizon <= MAX_HORIZON:
            raise ConfigError(f"horizon must be in 0..{MAX_HORIZON} steps, got {horizon}")
        for name, limit in (
            ("spacing", spacing),
            ("window", window),
            ("max_pairs", max_pairs),
            ("max_nodes", max_nodes),
        ):
            if limit < 1:
                raise ConfigError(f"{name} must be at least 1, got {limit}")
        if refills and (horizon == 0 or spacing % GRID_PARTS > 0):
            raise ConfigError(
                f"refills needs a horizon and a spacing that is a multiple of {GRID_PARTS}, got "
                f"horizon={horizon} and spacing={spacing}"
            )
        if not 0.0 < time_limit_s < math.inf:
            raise ConfigError(f"time_limit_s must be above 0 and finite, got {time_limit_s}")
        self._window, self._max_pairs = window, max_pairs
        self._max_nodes, self._time_limit_s = max_nodes, time_limit_s
        self._horizons = np.arange(-(-horizon // spacing) + 1) * spacing
        self._weights = quadrature(self._horizons, horizon, 1.0)
        self._projection: Projection | None = None
        if horizon > 0:
            ends = trusted_classifier(classifier, rng=rng, output_tokens=output_tokens)
            self._projection = Projection(ends, with_refills=refills)
            self._projection.set_horizons(self._horizons)
        self._start = _starter(warm_start, window)
        self.follows_requests = horizon > 0 or follows_requests(self._start)
        self._num_plans = 0
        self._reported: set[str] = set()
        self.num_solved = 0
        self.num_unproven = 0

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill the free slots as well as one step can."""
        if self._projection is not None:
            self._follow(self._projection, view, pool)
        if not view.is_immediate:
            pool = pool.oldest(max(self._window, int(view.max_sends.sum())))
        start = self._start.plan(view, pool)
        if view.num_ranks == 1 or len(start) == 0:
            return start
        num_pairs = len(pool) * int(np.count_nonzero(view.max_sends))
        if num_pairs > self._max_pairs:
            self._report_unproven(
                "size", f"{num_pairs} pairs of request and rank are more than {self._max_pairs}"
            )
            return start
        return self.improve(self.problem(view, pool), start)

    def problem(self, view: GroupView, pool: PoolView) -> StepProblem:
        """Return what is solved; `plan` has followed the requests if there is a horizon."""
        if self._projection is None:
            loads = view.committed_tokens.astype(np.float64)[:, None]
            gains = pool.prompt_tokens.astype(np.float64)[:, None]
        else:
            loads = self._projection.loads(view)
            gains = self._projection.gains(pool, self._horizons)
        return StepProblem(
            loads=loads,
            weights=self._weights,
            gains=gains,
            prompt_tokens=np.ascontiguousarray(pool.prompt_tokens),
            max_sends=np.minimum(view.max_sends, len(pool)),
            free_kv_tokens=view.free_kv_tokens,
        )

    def _follow(self, projection: Projection, view: GroupView, pool: PoolView) -> None:
        if self._num_plans % PLANS_PER_FUTURE == 0:
            projection.set_future(pool, self._horizons)
        self._num_plans += 1
        projection.update(view)

    def improve(self, problem: StepProblem, start: Plan) -> Plan:
        """Return the best plan that the solver finds, the warm start's if it finds no better."""
        program, kinds, pairs = write_program(problem, start)
        answer = solver.solve(
            program,
            write_solution(start, problem, kinds, pairs, program.unit),
            time_limit_s=self._time_limit_s,
            max_nodes=self._max_nodes,
        )
        if answer.status == "optimal":
            self.num_solved += 1
        else:
            self._report_unproven(
                answer.status,
                f"max_nodes={self._max_nodes} or time_limit_s={self._time_limit_s:g} came first"
                if answer.status == "limit"
                else "the solver gave up",
            )
        if answer.columns is None:
            return start
        counts = np.rint(answer.columns[program.num_continuous :]).astype(np.int64)
        plan = read_plan(counts, kinds, pairs)
        # The start wins ties, so that not each version of the solver breaks them in its own way.
        is_better = (
            step_imbalance(problem, plan) <= step_imbalance(problem, start) - solver.GAP_TOKENS
        )
        return plan if is_better and _is_allowed(plan, start, problem) else start

    def _report_unproven(self, kind: str, reason: str) -> None:
        """Count a plan that is not proven optimal; the first time for each reason, say so."""
        if kind not in self._reported:
            self._reported.add(kind)
            logger.warning(
                "bf_io: a plan is the best one known and not proven optimal, because %s. Further "
                "cases are counted and not reported",
                reason,
            )
        self.num_unproven += 1


def _is_allowed(plan: Plan, start: Plan, problem: StepProblem) -> bool:
    """Tell whether a plan read from floating-point numbers keeps the limits all the same."""
    num_ranks = len(problem.loads)
    sends = np.bincount(plan.ranks, minlength=num_ranks)
    tokens = np.zeros(num_ranks, np.int64)
    np.add.at(tokens, plan.ranks, problem.prompt_tokens[plan.requests])
    return bool(
        len(plan) == len(start)
        and (sends <= problem.max_sends).all()
        and (tokens <= problem.free_kv_tokens).all()
    )


def _starter(name: WarmStart, window: int) -> Policy:
    if name not in get_args(WarmStart):
        raise ConfigError(f"warm_start must be 'br_0' or 'br_auto', got {name!r}")
    return Br0(select_by="margin", window=window) if name == "br_0" else BrAuto(window=window)
