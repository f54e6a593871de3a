"""BR-H: BR-0 with the loads of the steps to come (BalanceRoute, arXiv 2605.06113)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.arrays import Float64Array, Int64Array
from balanceroute.kernels.brh import Ranks, assign_ahead, plan_singles_ahead, plan_subsets_ahead
from balanceroute.kernels.discounted import Ahead
from balanceroute.kernels.ledger import ENDED
from balanceroute.kernels.subset import ENUMERATION_LIMIT
from balanceroute.policies.balance_route import sorted_keys
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import LeastTokens
from balanceroute.policies.outlook import HardOutlook, Outlook, SoftOutlook
from balanceroute.policies.pace import FEWEST_ENDS, MEMORY_ENDS
from balanceroute.policies.projection import trusted_classifier

ProjectionKind = Literal["soft", "hard"]
Auto = Literal["auto"]

DEFAULT_HORIZON = 80  # steps; the paper's
MAX_HORIZON = 256  # steps
MAX_R_MAX = 12  # requests; the soft projection tries every set of them
HORIZON_DISCOUNT = 2.5  # a tuned horizon ends where γ^h = exp(-2.5) = 0.08
TOLERATED_RATIO = 1.25  # by which the rate of refills may change before γ and H follow


class BrH:
    """Place requests where they raise the group's largest load least, in this step and later ones.

    BR-H of [1]_: the stages of `Br0`, with F summed over a horizon of projected loads and
    discounted (design section 5). With ``horizon=0`` it places as `Br0` does and predicts nothing.

    Under immediate binding each request goes to the rank with the largest F, ties to the lowest
    load. With a single rank it is `least_tokens`, as `Br0` is.

    Parameters
    ----------
    projection : {"soft", "hard"}
        ``"soft"``: a request counts at a horizon with the probability that it still runs.
        ``"hard"``: in full until it is expected to end, then not at all, as published.
    alpha : float
        α, worth of a token added; above 0.
    beta : float or None
        β, cost of a token beyond the margin, at least 0; None takes the number of ranks.
    horizon : int or None
        H, steps looked ahead, 0 to 256. None: 80, or as ``gamma="auto"`` says.
    gamma : float or "auto"
        γ, discount per step, above 0 and at most 1. ``"auto"``: exp(-ρ) with ρ the refills per rank
        and step, and H = ceil(2.5 / ρ), at most `horizon`; 0 until enough requests have ended.
    classifier : str
        Who predicts the ends of requests (`balanceroute.predict`).
    s_greedy : int
        Stage 1 runs while more than this many slots of the group are free; at least 0.
    r_max : int
        Requests that stage 2 looks at for a rank, 1 to 12.
    window : int
        Oldest waiting requests that are looked at, at least 1.
    rng, output_tokens
        Given to classifiers that need them; see `make_classifier`.

    References
    ----------
    .. [1] BalanceRoute, arXiv 2605.06113, Eq. (2) and Algorithm 2.
    """

    binding: ClassVar[Binding] = "pooled"
    follows_requests: ClassVar[bool] = True

    def __init__(
        self,
        *,
        projection: ProjectionKind = "soft",
        alpha: float = 1.0,
        beta: float | None = None,
        horizon: int | None = None,
        gamma: float | Auto = 0.86,
        classifier: str = "survival",
        s_greedy: int = 7,
        r_max: int = 4,
        window: int = 8192,
        rng: np.random.Generator | None = None,
        output_tokens: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        if projection not in get_args(ProjectionKind):
            raise ConfigError(f"projection must be 'soft' or 'hard', got {projection!r}")
        _check_f_score(alpha, beta, horizon, gamma)
        if s_greedy < 0:
            raise ConfigError(f"s_greedy must be at least 0, got {s_greedy}")
        if not 1 <= r_max <= MAX_R_MAX:
            raise ConfigError(f"r_max must be in 1..{MAX_R_MAX}, got {r_max}")
        if window < 1:
            raise ConfigError(f"window must be at least 1, got {window}")
        self._alpha, self._beta = float(alpha), beta
        self._s_greedy, self._r_max, self._window = s_greedy, r_max, window
        self._pace: RefillPace | None = None
        self._max_horizon = MAX_HORIZON if horizon is None else horizon
        trusted = trusted_classifier(classifier, rng=rng, output_tokens=output_tokens)
        self._outlook: Outlook | None = None
        if horizon != 0:
            self._outlook = SoftOutlook(trusted) if projection == "soft" else HardOutlook(trusted)
            if isinstance(gamma, str):
                self._pace = RefillPace()
            else:
                self._outlook.look_ahead(DEFAULT_HORIZON if horizon is None else horizon, gamma)
        self._turn = 0
        self._least_tokens = LeastTokens()

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill the free slots so that the imbalance of this step and later ones falls most."""
        if self._outlook is not None:
            self._follow(self._outlook, view)
        if view.num_ranks == 1:
            return self._least_tokens.plan(view, pool)
        if view.is_immediate:
            return self._plan_at_once(view, pool)
        return self._plan_in_stages(view, pool.oldest(self._window))

    def _follow(self, outlook: Outlook, view: GroupView) -> None:
        """Bring the projection up to date, and its horizon in line with the rate of refills."""
        if self._pace is not None:
            self._pace.see(view)
            if self._pace.has_moved():
                horizon, gamma = tuned(self._pace.settle())
                outlook.look_ahead(min(horizon, self._max_horizon), gamma)
        outlook.update(view)

    def _plan_at_once(self, view: GroupView, pool: PoolView) -> Plan:
        ahead, gains = self._ahead(view, pool)
        prompts = np.ascontiguousarray(pool.prompt_tokens)
        if gains is None:
            gains = np.repeat(prompts[:, None], len(ahead.discounts), axis=1).astype(np.float64)
        return Plan.oldest(assign_ahead(_ranks(view), ahead, prompts, gains))

    def _plan_in_stages(self, view: GroupView, pool: PoolView) -> Plan:
        ranks = _ranks(view)
        num_free = int(ranks.max_sends.sum())
        is_greedy = num_free > self._s_greedy
        if not is_greedy:
            pool = pool.oldest(num_free + self._r_max)  # stage 2 cannot look further
        first_rank = self._turn % view.num_ranks
        self._turn += 1
        ahead, gains = self._ahead(view, pool)
        prompts = np.ascontiguousarray(pool.prompt_tokens)
        is_taken = np.zeros(len(pool), np.int64)
        parts: list[tuple[Int64Array, Int64Array]] = []
        if is_greedy:
            keys = sorted_keys(prompts if gains is None else prompts[:0])
            parts.append(
                plan_singles_ahead(
                    ranks, ahead, prompts, keys, gains, is_taken, self._s_greedy, first_rank
                )
            )
        is_wide = True if self._r_max > ENUMERATION_LIMIT else None
        parts.append(
            plan_subsets_ahead(
                ranks, ahead, prompts, gains, is_taken, self._r_max, first_rank, is_wide
            )
        )
        requests, where = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return Plan(requests, where)

    def _ahead(self, view: GroupView, pool: PoolView) -> tuple[Ahead, Float64Array | None]:
        """Return the loads to come, and what each waiting request would add to them."""
        beta = float(view.num_ranks if self._beta is None else self._beta)
        loads, discounts, gains = (
            view.committed_tokens.astype(np.float64)[:, None],
            np.ones(1),
            None,
        )
        if self._outlook is not None and len(self._outlook.discounts()) > 1:
            loads, discounts = self._outlook.loads(view), self._outlook.discounts()
            gains = self._outlook.gains(pool)
        return Ahead(loads, loads.max(axis=0), discounts, self._alpha, beta), gains


def _ranks(view: GroupView) -> Ranks:
    return Ranks(view.committed_tokens, view.max_sends, view.free_kv_tokens)


def _check_f_score(
    alpha: float, beta: float | None, horizon: int | None, gamma: float | Auto
) -> None:
    if not 0.0 < alpha < math.inf:
        raise ConfigError(f"alpha must be above 0 and finite, got {alpha}")
    if beta is not None and not 0.0 <= beta < math.inf:
        raise ConfigError(f"beta must be at least 0 and finite, got {beta}")
    if horizon is not None and not 0 <= horizon <= MAX_HORIZON:
        raise ConfigError(f"horizon must be in 0..{MAX_HORIZON} steps, got {horizon}")
    if isinstance(gamma, str):
        if gamma not in get_args(Auto):
            raise ConfigError(f"gamma must be a number or 'auto', got {gamma!r}")
    elif not 0.0 < gamma <= 1.0:
        raise ConfigError(f"gamma must be above 0 and at most 1, or 'auto', got {gamma}")


def tuned(refills: float) -> tuple[int, float]:
    """Return H and γ for so many refills per rank and step (design section 6).

    What a rank will soon get the chance to repair need not be looked ahead to.

    Examples
    --------
    >>> tuned(0.5)
    (5, 0.6065306597126334)
    """
    return min(math.ceil(HORIZON_DISCOUNT / refills), MAX_HORIZON), math.exp(-refills)


class RefillPace:
    """ρ, the refills per rank and step, as the requests that end per step that a rank makes."""

    def __init__(self) -> None:
        self._clocks: Int64Array | None = None
        self._num_steps = 0.0
        self._num_ends = 0.0
        self._settled = math.nan

    def see(self, view: GroupView) -> None:
        """Take in the events of a view."""
        if view.clocks is None:
            return
        if self._clocks is not None:
            self._num_steps += float((view.clocks - self._clocks).sum())
            self._num_ends += float((view.events["kind"] == ENDED).sum())
        self._clocks = view.clocks.copy()
        if self._num_ends > MEMORY_ENDS:
            self._num_steps *= 0.5
            self._num_ends *= 0.5

    def has_moved(self) -> bool:
        """Tell whether enough has been seen, and ρ is no longer near what was settled for."""
        if self._num_ends < FEWEST_ENDS or self._num_steps <= 0.0:
            return False
        ratio = self._num_ends / self._num_steps / self._settled
        return not 1.0 / TOLERATED_RATIO < ratio < TOLERATED_RATIO

    def settle(self) -> float:
        """Return ρ, and hold on to it until `has_moved`."""
        self._settled = self._num_ends / self._num_steps
        return self._settled
