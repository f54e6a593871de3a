"""An emulated group: ranks that schedule by themselves and end each step together.

No clock and no network: who drives the engine says when a step begins, is told how long it takes,
and says that it has ended. The same calls give the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from balanceroute.cluster.costs import StepCosts
from balanceroute.emulator.choice import Snapshot, choose_rank
from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.rank import Rank
from balanceroute.emulator.records import StepLog
from balanceroute.emulator.request import Request, State
from balanceroute.errors import ConfigError
from balanceroute.kernels.load import USAGE_EXPONENT, rank_work_s

NO_BUDGET = 1 << 62  # decode-only ranks: a prompt is resident at once and costs nothing


@dataclass(slots=True)
class Trouble:
    """What is wrong with a rank.

    Attributes
    ----------
    slowdown : float
        Factor on the time of its own work, at least 1.
    is_dead : bool
        Whether it computes nothing.
    blocks_barrier : bool
        Whether the others wait for it at the barrier when it is dead.
    """

    slowdown: float = 1.0
    is_dead: bool = False
    blocks_barrier: bool = True


@dataclass(slots=True)
class Totals:
    """Sums over the steps since the start, seconds; `mean_work_s` of means over the ranks."""

    num_steps: int = 0
    step_s: float = 0.0
    max_work_s: float = 0.0
    mean_work_s: float = 0.0


class Engine:
    """G ranks in lockstep.

    Parameters
    ----------
    config : EngineConfig
        Ranks, limits and costs.

    Examples
    --------
    A step takes 1 s plus 1 ms per token of the fuller rank:

    >>> costs = StepCosts(constant_s=1.0, s_per_token=1e-3)
    >>> engine = Engine(EngineConfig(costs=costs, num_ranks=2, num_slots=1))
    >>> for prompt_tokens, output_tokens in [(10, 2), (30, 1)]:
    ...     engine.submit(Request(prompt_tokens=prompt_tokens, output_tokens=output_tokens))
    >>> engine.begin_step(0.0)
    1.03
    >>> [(request.rank, request.is_finished) for request in engine.end_step()]
    [(0, False), (1, True)]
    >>> round(engine.begin_step(1.03), 6)
    1.011
    >>> [request.is_finished for request in engine.end_step()]
    [True]
    >>> engine.begin_step(2.041) is None
    True
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        speeds = config.rank_speeds or (1.0,) * config.num_ranks
        self.ranks = [
            Rank(
                num_slots=config.num_slots,
                num_blocks=config.num_blocks,
                block_size=config.block_size,
                speed=speed,
            )
            for speed in speeds
        ]
        self.troubles = [Trouble() for _ in self.ranks]
        self.num_inflight = [0] * config.num_ranks
        self.totals = Totals()
        self.log = StepLog(config.max_records)
        self._budget = config.costs.budget_tokens or NO_BUDGET
        self._next_rank = 0
        self._snapshots = [Snapshot(0, 0, 0.0) for _ in self.ranks]
        self._in_step = False
        self._own_works_s()  # the first call compiles, which no step shall wait for

    @property
    def num_steps_ended(self) -> int:
        """Return how many steps have ended."""
        return self.log.num_steps - self._in_step

    def submit(self, request: Request) -> None:
        """Queue a request on its rank, or on one that vLLM's rule chooses.

        Raises
        ------
        ConfigError
            If the request could never run: its rank is not there, or its tokens do not fit one.
        """
        config = self.config
        if min(request.prompt_tokens, request.output_tokens) < 1:
            raise ConfigError(
                f"a request needs at least 1 prompt and 1 output token, got "
                f"{request.prompt_tokens} and {request.output_tokens}"
            )
        if request.prompt_tokens + request.output_tokens > config.kv_tokens:
            raise ConfigError(
                f"a request of {request.prompt_tokens} prompt and {request.output_tokens} output "
                f"tokens does not fit the {config.kv_tokens} KV tokens of a rank"
            )
        if request.rank is None:
            request.rank = choose_rank(
                self._snapshots, self.num_inflight, first_rank=self._next_rank
            )
            self._next_rank = (request.rank + 1) % config.num_ranks
        elif not 0 <= request.rank < config.num_ranks:
            raise ConfigError(f"rank {request.rank} is not in [0, {config.num_ranks})")
        self.num_inflight[request.rank] += 1
        self.ranks[request.rank].enqueue(request)

    def abort(self, request: Request) -> None:
        """Forget a request wherever it is; its slot and blocks are free at once."""
        if request.state in (State.NEW, State.ENDED):
            return
        assert request.rank is not None
        if request.state is not State.HELD:
            self.num_inflight[request.rank] -= 1
        self.ranks[request.rank].drop(request)

    def release(self, request: Request) -> None:
        """Give back the KV blocks of a finished request that held them."""
        if request.state is State.HELD:
            self.abort(request)

    def begin_step(self, start_s: float) -> float | None:
        """Let every rank schedule; return how long the step takes, in seconds.

        Parameters
        ----------
        start_s : float
            When it begins, for the records.

        Returns
        -------
        float or None
            None if there is nothing to do, or if a dead rank keeps the others from going on.
        """
        assert not self._in_step, "a step is under way"
        if any(trouble.is_dead and trouble.blocks_barrier for trouble in self.troubles):
            return None
        live = [rank for rank, it in zip(self.ranks, self.troubles, strict=True) if not it.is_dead]
        for rank in live:
            rank.schedule(self._budget)
        if not any(rank.num_running for rank in live):
            return None
        self._in_step = True
        return self._measure(start_s)

    def end_step(self) -> list[Request]:
        """End the step under way; return the requests that got a token, rank by rank.

        Those of them that are finished have left their rank.
        """
        assert self._in_step, "no step is under way"
        self._in_step = False
        outputs: list[Request] = []
        for rank, trouble in zip(self.ranks, self.troubles, strict=True):
            if not trouble.is_dead:
                rank.end_step(outputs)
        for request in outputs:
            if request.is_finished:
                assert request.rank is not None
                self.num_inflight[request.rank] -= 1
        loads = [rank.load_tokens for rank in self.ranks]
        self.log.amend({"refill_max_load_tokens": max(loads), "refill_sum_load_tokens": sum(loads)})
        self._snapshots = [
            Snapshot(rank.num_waiting, rank.num_running, rank.kv_usage) for rank in self.ranks
        ]
        return outputs

    def _measure(self, start_s: float) -> float:
        """Log the step that begins and return how long it takes."""
        costs, ranks = self.config.costs, self.ranks
        own_s, shared_s = self._own_works_s(), self._shared_work_s()
        # In this order, so that the sums are the simulator's to the last bit.
        slowest_s, mean_s = max(own_s) + shared_s, sum(own_s) / len(own_s) + shared_s
        duration_s = costs.constant_s + slowest_s
        loads = [rank.load_tokens for rank in ranks]
        self.log.append(
            {
                "start_s": start_s,
                "duration_s": duration_s,
                "max_load_tokens": max(loads),
                "min_load_tokens": min(loads),
                "sum_load_tokens": sum(loads),
                "max_work_s": slowest_s,
                "mean_work_s": mean_s,
                "sum_usage_pow": sum_usage_pow([work_s + shared_s for work_s in own_s], slowest_s),
                "num_tokens": sum(rank.num_decoding for rank in ranks),
                "num_running": sum(rank.num_running for rank in ranks),
                "num_waiting": sum(rank.num_waiting for rank in ranks),
            }
        )
        self.totals.num_steps += 1
        self.totals.step_s += duration_s
        self.totals.max_work_s += slowest_s
        self.totals.mean_work_s += mean_s
        return duration_s

    def _own_works_s(self) -> list[float]:
        """Return what each rank's own requests add to the step; a dead rank adds nothing."""
        return [
            0.0 if it.is_dead else _own_work_s(rank, self.config.costs, rank.speed / it.slowdown)
            for rank, it in zip(self.ranks, self.troubles, strict=True)
        ]

    def _shared_work_s(self) -> float:
        """Return what the prefill that the ranks do together adds to the step."""
        costs = self.config.costs
        num_tokens = sum(rank.prefill_tokens for rank in self.ranks)
        return costs.prefill_shared * costs.prefill_s_per_token * num_tokens / len(self.ranks)


def sum_usage_pow(works_s: list[float], slowest_s: float) -> float:
    """Return the sum over ranks of ``(work / slowest rank's work) ** 0.7``, for the energy model.

    Examples
    --------
    >>> sum_usage_pow([1.0, 0.0, 1.0], 1.0)
    2.0
    """
    if slowest_s <= 0.0:
        return 0.0
    return sum(float(max(0.0, work_s / slowest_s) ** USAGE_EXPONENT) for work_s in works_s)


def _own_work_s(rank: Rank, costs: StepCosts, speed: float) -> float:
    work_s: float = rank_work_s(
        rank.load_tokens,
        rank.num_running,
        rank.prefill_tokens,
        costs.constant_s,
        costs.s_per_token,
        costs.kappa0_tokens,
        costs.prefill_s_per_token,
        costs.prefill_shared,
        costs.mixed_step_s,
        speed,
    )
    return work_s
