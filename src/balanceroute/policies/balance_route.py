"""BR-0: place by the rise of the group's maximum (BalanceRoute, arXiv 2605.06113)."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np

from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import ConfigError
from balanceroute.kernels.br0 import plan_singles, plan_subsets
from balanceroute.kernels.ledger import Int64Array
from balanceroute.kernels.subset import ENUMERATION_LIMIT
from balanceroute.kernels.window import AGE_BITS
from balanceroute.policies.base import Binding, Plan
from balanceroute.policies.classic import LeastTokens

SelectBy = Literal["stages", "margin"]
MAX_R_MAX = 32  # requests; the sums that so many can reach stay in the millions


class Br0:
    """Place requests where the group's largest load rises least and the rest fill up to it.

    BR-0 of [1]_, in its published two stages or by largest margin (design section 4).

    Under immediate binding there is nothing to choose among requests; F then ties on every rank
    that the request fits, the tie goes to the lowest load, and BR-0 becomes `least_tokens`. So it
    does with a single rank, where F is 0 for every request and the oldest goes first.

    Parameters
    ----------
    select_by : {"stages", "margin"}
        ``"stages"``: as published. ``"margin"``: always the rank with the largest margin, then the
        request with the largest F over all that wait; as good or better, O(log N) per request.
    s_greedy : int
        Stage 1 runs while more than this many slots of the group are free; at least 0.
    r_max : int
        Requests that stage 2 looks at for a rank, 1 to 32. Up to 4 are enumerated, more go through
        the sums they can reach.
    window : int
        Oldest waiting requests that are looked at, at least 1; bounds the time of a plan under a
        long backlog.

    References
    ----------
    .. [1] BalanceRoute, arXiv 2605.06113, Eq. (1) and Algorithm 1.
    """

    binding: ClassVar[Binding] = "pooled"

    def __init__(
        self,
        *,
        select_by: SelectBy = "stages",
        s_greedy: int = 7,
        r_max: int = 4,
        window: int = 8192,
    ) -> None:
        if select_by not in get_args(SelectBy):
            raise ConfigError(f"select_by must be 'stages' or 'margin', got {select_by!r}")
        if s_greedy < 0:
            raise ConfigError(f"s_greedy must be at least 0, got {s_greedy}")
        if not 1 <= r_max <= MAX_R_MAX:
            raise ConfigError(f"r_max must be in 1..{MAX_R_MAX}, got {r_max}")
        if window < 1:
            raise ConfigError(f"window must be at least 1, got {window}")
        self._select_by = select_by
        self._s_greedy = s_greedy
        self._r_max = r_max
        self._window = window
        self._turn = 0
        self._least_tokens = LeastTokens()

    def plan(self, view: GroupView, pool: PoolView) -> Plan:
        """Fill the free slots so that the imbalance falls most."""
        if view.is_immediate or view.num_ranks == 1:
            return self._least_tokens.plan(view, pool)
        prompts = pool.prompt_tokens[: self._window]
        if self._select_by == "stages":
            return self._plan_in_stages(view, prompts)
        load, sends, free_kv = view.committed_tokens, view.max_sends, view.free_kv_tokens
        return Plan(*plan_singles(load, sends, free_kv, sorted_keys(prompts), False, 0, 0))

    def _plan_in_stages(self, view: GroupView, prompts: Int64Array) -> Plan:
        load, sends, free_kv = view.committed_tokens, view.max_sends, view.free_kv_tokens
        first_rank = self._turn % view.num_ranks
        self._turn += 1
        is_taken = np.zeros(len(prompts), np.int64)
        singles = None
        if sends.sum() > self._s_greedy:
            keys = sorted_keys(prompts)
            singles = plan_singles(load, sends, free_kv, keys, True, self._s_greedy, first_rank)
            is_taken[singles[0]] = 1
        is_wide = True if self._r_max > ENUMERATION_LIMIT else None
        subsets = plan_subsets(
            load, sends, free_kv, prompts, is_taken, self._r_max, first_rank, is_wide
        )
        if singles is None:
            return Plan(*subsets)
        requests, ranks = (np.concatenate(parts) for parts in zip(singles, subsets, strict=True))
        return Plan(requests, ranks)


def sorted_keys(prompt_tokens: Int64Array) -> Int64Array:
    """Return ``prompt tokens << 32 | position``, ascending: by size, then oldest first.

    Examples
    --------
    >>> sorted_keys(np.array([7, 5, 5])) & 0xFFFFFFFF
    array([1, 2, 0])
    """
    keys: Int64Array = prompt_tokens << AGE_BITS
    keys |= np.arange(len(keys))
    keys.sort()
    return keys
