"""What the ranks of a group lose at their barrier, estimated from what the router sees of it.

Measured are the seconds between two steps, and the tokens that were passed on in them. How a step's
time divides among the ranks no engine tells; it is estimated from the ledger's loads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.kernels.ledger import RecordArray
from balanceroute.live.group import LiveGroup

Basis = Literal["costs", "fit", "bound"]
BASES: tuple[Basis, ...] = ("costs", "fit", "bound")

FIT_DECAY = 0.998  # per step: half of the weight on the last 350
FEWEST_STEPS = 100.0  # of weight, for a fit
MAX_ERROR_RATIO = 0.25  # standard error of the slope over the slope


@dataclass(slots=True)
class Sums:
    """What has come together since the start.

    Attributes
    ----------
    num_steps : int
        Steps of the group that were seen from both ends.
    imbalance_tokens : float
        Their imbalance `I`, added up.
    rank_s, idle_s, lost_tokens : dict of str to float
        By what the estimates rest on: their seconds, times ranks; of these those waited at the
        barrier; and output tokens that level ranks would have given in the same time.
    """

    num_steps: int = 0
    imbalance_tokens: float = 0.0
    rank_s: dict[str, float] = field(default_factory=dict)
    idle_s: dict[str, float] = field(default_factory=dict)
    lost_tokens: dict[str, float] = field(default_factory=dict)


class LineFit:
    """A step's seconds as ``C + t_l * M``, by least squares on the steps seen last.

    Examples
    --------
    >>> fit = LineFit()
    >>> for step in range(200):
    ...     max_load = 1000.0 + step % 7
    ...     fit.add(max_load, 0.01 + 1e-5 * max_load)
    >>> constant_s, s_per_token = fit.terms
    >>> round(constant_s, 6), round(s_per_token, 9)
    (0.01, 1e-05)
    """

    def __init__(self) -> None:
        self._weight = self._mean_x = self._mean_y = 0.0
        self._xx = self._xy = self._yy = 0.0

    def add(self, max_load: float, duration_s: float) -> None:
        """Take a step in."""
        self._weight = FIT_DECAY * self._weight + 1.0
        dx, dy = max_load - self._mean_x, duration_s - self._mean_y
        self._mean_x += dx / self._weight
        self._mean_y += dy / self._weight
        rest_x, rest_y = max_load - self._mean_x, duration_s - self._mean_y
        self._xx = FIT_DECAY * self._xx + dx * rest_x
        self._xy = FIT_DECAY * self._xy + dx * rest_y
        self._yy = FIT_DECAY * self._yy + dy * rest_y

    @property
    def terms(self) -> tuple[float, float] | None:
        """Return C and t_l, both at least 0; None while the steps do not tell them."""
        if self._weight < FEWEST_STEPS or self._xx <= 0.0 or self._xy <= 0.0:
            return None
        slope = self._xy / self._xx
        rest = max(0.0, self._yy - slope * self._xy) / (self._weight - 2.0)
        if math.sqrt(rest / self._xx) > MAX_ERROR_RATIO * slope:
            return None
        return max(0.0, self._mean_y - slope * self._mean_x), slope


class Barrier:
    """Follows the steps of a group whose ranks end each step together.

    A step of the group is seen when a rank gives tokens again that has given some before. What a
    rank does in a step is told by the costs that the operator has stated (`StepCosts`); without
    them by ``C + t_l * L`` fitted to the steps seen; and until that fits, by the loads alone as if
    a step cost nothing but its tokens, which is the most that can have been lost.

    Parameters
    ----------
    group : LiveGroup
        Whose ledger is read.
    costs : StepCosts or None
        What a step costs, if that is known.
    """

    def __init__(self, group: LiveGroup, costs: StepCosts | None) -> None:
        self._group, self.costs, self._fit = group, costs, LineFit()
        self._seen: set[int] = set()
        self._began_s: float | None = None
        self._due_tokens: NDArray[np.int64] = np.zeros(0, np.int64)
        self._num_generated = 0
        self.sums = Sums()
        self.last_idle_ratio: float | None = None

    @property
    def basis(self) -> Basis:
        """Return what an estimate rests on at present."""
        if self.costs is not None:
            return "costs"
        return "bound" if self._fit.terms is None else "fit"

    def step(self, rank: int, num_steps: int, now_s: float) -> None:
        """Note that a rank has made steps, of which the first tokens have just come."""
        if self._began_s is not None and rank not in self._seen:
            self._seen.add(rank)
            return
        ranks = self._group.ledger.ranks
        if self._began_s is not None and now_s > self._began_s:
            self._take(ranks, now_s - self._began_s, num_steps)
        self._seen = {rank}
        self._began_s, self._due_tokens = now_s, ranks["due_tokens"].copy()
        self._num_generated = int(ranks["generated_tokens"].sum())

    def rest(self) -> None:
        """Note that nothing runs any more: until the next step nobody waits at a barrier."""
        self._began_s = None
        self._seen.clear()

    def _take(self, ranks: RecordArray, duration_s: float, num_steps: int) -> None:
        loads, sums = ranks["load_tokens"], self.sums
        max_load = int(loads.max())
        if max_load <= 0:
            return
        basis = self.basis
        work = self._work(ranks)
        whole, mean = float(work.max()), float(work.mean())
        idle_ratio = self.last_idle_ratio = 1.0 - mean / whole
        num_tokens = int(ranks["generated_tokens"].sum()) - self._num_generated
        rank_s = duration_s * len(ranks)
        sums.num_steps += num_steps
        sums.rank_s[basis] = sums.rank_s.get(basis, 0.0) + rank_s
        sums.imbalance_tokens += num_steps * float(len(ranks) * max_load - int(loads.sum()))
        sums.idle_s[basis] = sums.idle_s.get(basis, 0.0) + rank_s * idle_ratio
        lost = num_tokens * (whole / mean - 1.0)
        sums.lost_tokens[basis] = sums.lost_tokens.get(basis, 0.0) + lost
        if self.costs is None and num_steps == 1 and not self._due_tokens.any():
            self._fit.add(float(max_load), duration_s)

    def _work(self, ranks: RecordArray) -> NDArray[np.float64]:
        """Return the time that each rank is at work in a step, in a unit that they share."""
        loads: NDArray[np.float64] = ranks["load_tokens"].astype(np.float64)
        costs = self.costs
        if costs is None:
            terms = self._fit.terms
            return loads if terms is None else terms[0] + terms[1] * loads
        work = costs.constant_s + costs.s_per_token * (
            costs.kappa0_tokens * ranks["num_running"] + loads
        )
        if costs.budget_tokens is not None and len(self._due_tokens) == len(loads):
            room = np.maximum(costs.budget_tokens - ranks["num_decoding"], 0)
            prefilled = np.minimum(room, self._due_tokens)
            work += costs.own_prefill_s_per_token * prefilled
            work += costs.mixed_step_s * (prefilled > 0)
            shared_s = costs.prefill_shared * costs.prefill_s_per_token
            work += shared_s * float(prefilled.mean())
        return work
