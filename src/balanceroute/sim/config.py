"""What a simulation is told: the group, its step time, and how requests come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError
from balanceroute.sim.gates import make_gate
from balanceroute.sim.ranges import require_choice, require_range
from balanceroute.sim.step_time import STEP_TIME_PRESETS as STEP_TIME_PRESETS
from balanceroute.sim.step_time import StepTime as StepTime

Arrivals = Literal["saturated", "trace", "poisson"]
Start = Literal["stationary", "empty"]
BindingChoice = Literal["pooled", "immediate"]

MAX_COUNT = 1_000_000_000_000  # of anything; sums of such counts fit int64
MAX_GROUP_SLOTS = 10_000_000  # about a gigabyte of accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """One simulated deployment.

    Attributes
    ----------
    step_time : StepTime
        Cost of a decode step.
    num_ranks, num_slots : int
        G and B, at least 1.
    num_groups : int
        Groups of consecutive ranks, each with a barrier of its own, which one brain serves.
    kv_tokens : int or None
        KV tokens each rank can hold; None for no limit.
    rank_speeds : tuple of float
        Speed of each rank relative to the nominal one, in (0, 1]; empty for equal ranks.
    has_barrier : bool
        Whether a step ends for all ranks when the slowest is done. False: independent ranks, as
        those of a dense model without tensor parallelism across them.
    prefill_budget_tokens : int or None
        Tokens a rank may compute in a step, where ranks prefill too; None for decode-only ranks.
    prefill_s_per_token : float
        t_p, seconds per prompt token computed.
    prefill_shared : float
        sigma, the part of t_p that the ranks of a group work off together, in [0, 1].
    mixed_step_s : float
        m, seconds that a rank's step takes longer because it prefills at all.
    prefix_cache : bool
        Whether the workload's `cached_tokens` are resident on admission, without being computed.
    prefill_gate : str or None
        ``NAME[,key=value…]`` of the rule by which the engine's ranks wait for each other before
        they prefill (`balanceroute.sim.gates`); None: they do not wait.
    arrivals : {"saturated", "trace", "poisson"}
        A pool that never runs dry, the trace's own times, or a Poisson process.
    pool_size : int or None
        Saturated: requests that wait; None for 4 G.
    binding : {"pooled", "immediate"} or None
        None: pooled when saturated, else what each policy does by nature.
    start : {"stationary", "empty"} or None
        None: stationary when saturated, else empty.
    warmup_steps : int or None
        Steps that the figures leave out. None: when saturated, until G * B requests have been
        admitted, else none.
    staleness_s : float
        Age that the ranks' state reaches before the router sees it anew, at least 0.
    delivery_s, delivery_jitter_s : float
        Seconds that a request is on its way from the router to its rank, and the most that chance
        adds to it, uniformly; at least 0. Each rank gets its requests in the order of the sends.
    """

    step_time: StepTime
    num_ranks: int = 16
    num_slots: int = 72
    num_groups: int = 1
    kv_tokens: int | None = None
    rank_speeds: tuple[float, ...] = ()
    has_barrier: bool = True
    prefill_budget_tokens: int | None = None
    prefill_s_per_token: float = 0.0
    prefill_shared: float = 0.0
    mixed_step_s: float = 0.0
    prefix_cache: bool = False
    prefill_gate: str | None = None
    arrivals: Arrivals = "saturated"
    pool_size: int | None = None
    binding: BindingChoice | None = None
    start: Start | None = None
    warmup_steps: int | None = None
    staleness_s: float = 0.0
    delivery_s: float = 0.0
    delivery_jitter_s: float = 0.0

    def __post_init__(self) -> None:
        self._check_counts()
        require_range("staleness", self.staleness_s, 0.0)
        require_range("delivery-time", self.delivery_s, 0.0)
        require_range("delivery-jitter", self.delivery_jitter_s, 0.0)
        require_range("prefill-time", self.prefill_s_per_token, 0.0)
        require_range("prefill-shared", self.prefill_shared, 0.0, 1.0)
        require_range("mixed-step-time", self.mixed_step_s, 0.0)
        require_choice("arrivals", self.arrivals, get_args(Arrivals))
        require_choice("binding", self.binding, (*get_args(BindingChoice), None))
        require_choice("start", self.start, (*get_args(Start), None))
        self._check_groups()
        self._check_speeds()
        self._check_prefill()
        self._check_gate()

    def _check_counts(self) -> None:
        at_least_one = {
            "ranks": self.num_ranks,
            "slots": self.num_slots,
            "kv-tokens": self.kv_tokens,
            "prefill-budget": self.prefill_budget_tokens,
            "pool": self.pool_size,
        }
        for name, count in at_least_one.items():
            if count is not None and count < 1:
                raise ConfigError(f"--{name} must be at least 1, got {count}")
            if count is not None and count > MAX_COUNT:
                raise ConfigError(f"--{name} must be at most {MAX_COUNT}, got {count}")
        if self.num_ranks * self.num_slots > MAX_GROUP_SLOTS:
            raise ConfigError(
                f"--ranks times --slots must be at most {MAX_GROUP_SLOTS}, "
                f"got {self.num_ranks} times {self.num_slots}"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"--warmup-steps must be at least 0, got {self.warmup_steps}")

    def _check_groups(self) -> None:
        if not (self.num_groups >= 1 and self.num_ranks % self.num_groups == 0):
            raise ConfigError(
                f"--groups must be at least 1 and divide --ranks ({self.num_ranks}), "
                f"got {self.num_groups}"
            )
        if self.num_groups > 1 and not self.has_barrier:
            raise ConfigError("--groups are for ranks that wait for each other: no --no-barrier")

    def _check_speeds(self) -> None:
        if self.rank_speeds and len(self.rank_speeds) != self.num_ranks:
            raise ConfigError(
                f"--rank-speeds names {len(self.rank_speeds)} ranks, but there are {self.num_ranks}"
            )
        for speed in self.rank_speeds:
            if not 0 < speed <= 1:
                raise ConfigError(
                    f"--rank-speeds are relative to the fastest rank, above 0 and at most 1; "
                    f"got {speed:g}"
                )

    def _check_prefill(self) -> None:
        budget = self.prefill_budget_tokens
        if budget is not None and budget < self.num_slots:
            raise ConfigError(
                f"--prefill-budget must be at least --slots ({self.num_slots}), since every "
                f"running request takes one token of it per step; got {budget}"
            )
        needs_budget = {
            "prefill-time": self.prefill_s_per_token > 0,
            "prefill-shared": self.prefill_shared > 0,
            "mixed-step-time": self.mixed_step_s > 0,
            "prefix-cache": self.prefix_cache,
            "prefill-gate": self.prefill_gate is not None,
        }
        for name, is_used in needs_budget.items():
            if is_used and budget is None:
                raise ConfigError(
                    f"--{name} needs --prefill-budget (tokens per step, for example 2048)"
                )
        if self.prefill_shared > 0 and not self.has_barrier:
            raise ConfigError(
                "--prefill-shared is work that ranks do together, so it must be 0 with "
                f"--no-barrier; got {self.prefill_shared:g}"
            )

    def _check_gate(self) -> None:
        if self.prefill_gate is None:
            return
        if make_gate(self.prefill_gate).needs_kv_tokens and self.kv_tokens is None:
            raise ConfigError(f"--prefill-gate {self.prefill_gate} needs --kv-tokens")
        if not self.has_barrier:
            raise ConfigError(
                "--prefill-gate is for ranks that wait for each other: no --no-barrier"
            )
        if self.num_groups > 1:
            raise ConfigError("--prefill-gate is for one group; leave out --groups")

    @property
    def costs(self) -> StepCosts:
        """Return what a step costs, as policies are told it."""
        return StepCosts(
            constant_s=self.step_time.constant_s,
            s_per_token=self.step_time.s_per_token,
            kappa0_tokens=self.step_time.kappa0_tokens,
            prefill_s_per_token=self.prefill_s_per_token,
            prefill_shared=self.prefill_shared,
            mixed_step_s=self.mixed_step_s,
            budget_tokens=self.prefill_budget_tokens,
            has_barrier=self.has_barrier,
        )

    @property
    def ranks_per_barrier(self) -> int:
        """Return how many ranks step together."""
        return self.num_ranks // self.num_groups if self.has_barrier else 1

    @property
    def is_saturated(self) -> bool:
        """Tell whether the pool never runs dry."""
        return self.arrivals == "saturated"

    @property
    def pool_target(self) -> int:
        """Return how many requests wait when saturated."""
        return 4 * self.num_ranks if self.pool_size is None else self.pool_size

    @property
    def starts_stationary(self) -> bool:
        """Tell whether the slots are filled before the first step."""
        return (self.start or ("stationary" if self.is_saturated else "empty")) == "stationary"

    def binding_of(self, natural: str) -> BindingChoice:
        """Return the binding of a policy whose own is `natural`."""
        if self.binding is not None:
            return self.binding
        return "immediate" if natural == "immediate" and not self.is_saturated else "pooled"
