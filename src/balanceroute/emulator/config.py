"""What an emulated group is told: its ranks and their costs, and the server in front of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError

Role = Literal["plain", "prefill", "decode", "both"]

# Stands for "no KV limit": 17 billion tokens per rank with blocks of 16, and its product with the
# block size is exact as a float, as which metrics show it.
UNLIMITED_BLOCKS = 1 << 30
MAX_PORT = 65_535
DEFAULT_MAX_MODEL_LEN = 131_072
MAX_GROUP_SLOTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Ranks in lockstep.

    Attributes
    ----------
    costs : StepCosts
        What a step costs; ``costs.has_barrier`` must be true.
    num_ranks, num_slots : int
        G and B, at least 1.
    num_blocks : int
        KV blocks of each rank, at least 1.
    block_size : int
        Tokens per KV block, at least 1.
    rank_speeds : tuple of float
        Speed of each rank relative to the nominal one, in (0, 1]; empty for equal ranks.
    max_records : int
        Steps whose figures are kept, at least 2; older ones are dropped.

    Examples
    --------
    >>> EngineConfig(costs=StepCosts(constant_s=0.01, s_per_token=1e-7), num_blocks=100).kv_tokens
    1600
    """

    costs: StepCosts
    num_ranks: int = 8
    num_slots: int = 72
    num_blocks: int = UNLIMITED_BLOCKS
    block_size: int = 16
    rank_speeds: tuple[float, ...] = ()
    max_records: int = 1 << 20

    def __post_init__(self) -> None:
        at_least_one = {
            "ranks": self.num_ranks,
            "slots": self.num_slots,
            "kv-blocks": self.num_blocks,
            "block-size": self.block_size,
        }
        for name, count in at_least_one.items():
            _require_range(name, count, 1)
        if self.max_records < 2:
            raise ConfigError(f"max_records must be at least 2, got {self.max_records}")
        if self.num_ranks * self.num_slots > MAX_GROUP_SLOTS:
            raise ConfigError(
                f"--ranks times --slots must be at most {MAX_GROUP_SLOTS}, "
                f"got {self.num_ranks} times {self.num_slots}"
            )
        self._check_speeds()
        self._check_costs()

    @property
    def kv_tokens(self) -> int:
        """Return the KV tokens of each rank."""
        return self.num_blocks * self.block_size

    def _check_speeds(self) -> None:
        if self.rank_speeds and len(self.rank_speeds) != self.num_ranks:
            raise ConfigError(
                f"--rank-speeds names {len(self.rank_speeds)} ranks, but there are {self.num_ranks}"
            )
        for speed in self.rank_speeds:
            if not 0 < speed <= 1:
                raise ConfigError(
                    "--rank-speeds are relative to the fastest rank, above 0 and at most 1; "
                    f"got {speed:g}"
                )

    def _check_costs(self) -> None:
        costs = self.costs
        if not costs.has_barrier:
            raise ConfigError(
                "an emulated group has a barrier; for ranks without one take --ranks 1 and --groups"
            )
        # A step of no length would never end: steps follow each other at once.
        if not (costs.constant_s > 0 and math.isfinite(costs.constant_s)):
            raise ConfigError(
                f"--step-time needs a constant above 0 seconds, got {costs.constant_s}"
            )
        _require_range("step-time: seconds per token", costs.s_per_token, 0)
        _require_range("step-time: kappa0", costs.kappa0_tokens, 0)
        _require_range("prefill-time", costs.prefill_s_per_token, 0)
        _require_range("prefill-shared", costs.prefill_shared, 0, 1)
        _require_range("mixed-step-time", costs.mixed_step_s, 0)
        if costs.budget_tokens is not None:
            if costs.budget_tokens < self.num_slots:
                raise ConfigError(
                    f"--prefill-budget must be at least --slots ({self.num_slots}), since every "
                    f"running request takes one token of it per step; got {costs.budget_tokens}"
                )
            return
        for name in ("prefill_s_per_token", "prefill_shared", "mixed_step_s"):
            if getattr(costs, name) > 0:
                raise ConfigError(
                    f"{name} above 0 needs --prefill-budget (tokens per step, for example 2048)"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """An engine and the server in front of it.

    Attributes
    ----------
    engine : EngineConfig
        Ranks and costs.
    host : str
        Address to listen on.
    port : int
        Port of the first server; 0 lets the operating system choose each port.
    num_groups : int
        Independent groups on consecutive ports, at least 1.
    has_port_per_rank : bool
        Whether each rank has a port of its own, G consecutive ones per group.
    speedup : float
        Emulated seconds per second, above 0.
    stream_interval : int
        Tokens per chunk of a stream, at least 1; the first token comes at once.
    model : str
        Name that the model is served by.
    max_model_len : int or None
        Prompt and output tokens of a request, at most; None for 131,072, or the KV tokens of a
        rank if those are fewer.
    mean_output_tokens : float
        Mean length of outputs that no request determines, at least 1.
    seed : int
        Seed of output lengths and ids, at least 0.
    roles : tuple of {"plain", "prefill", "decode", "both"}
        Side of a prefill/decode split that each group takes; one for all, or one each.
    kv_hold_timeout_s : float
        Seconds that a prefilled prompt's KV blocks are kept for a decode rank, above 0.

    Examples
    --------
    >>> engine = EngineConfig(costs=StepCosts(constant_s=0.01, s_per_token=1e-7), num_blocks=100)
    >>> ServerConfig(engine=engine).context_tokens
    1600
    """

    engine: EngineConfig
    host: str = "127.0.0.1"
    port: int = 8000
    num_groups: int = 1
    has_port_per_rank: bool = False
    speedup: float = 1.0
    stream_interval: int = 1
    model: str = "emulated"
    max_model_len: int | None = None
    mean_output_tokens: float = 128.0
    seed: int = 0
    roles: tuple[Role, ...] = ("plain",)
    kv_hold_timeout_s: float = 480.0

    def __post_init__(self) -> None:
        _require_range("groups", self.num_groups, 1)
        _require_range("stream-interval", self.stream_interval, 1)
        _require_range("mean-output-tokens", self.mean_output_tokens, 1)
        _require_range("seed", self.seed, 0)
        _require_above_zero("speedup", self.speedup)
        _require_above_zero("kv-hold-timeout-secs", self.kv_hold_timeout_s)
        if not self.model:
            raise ConfigError("--served-model-name must not be empty")
        self._check_ports()
        self._check_roles()
        longest = self.max_model_len
        if longest is None:
            return
        _require_range("max-model-len", longest, 2)
        if longest > self.engine.kv_tokens:
            raise ConfigError(
                f"--max-model-len {longest} needs more than the {self.engine.kv_tokens} KV tokens "
                "of a rank; lower it or raise --kv-blocks"
            )

    @property
    def context_tokens(self) -> int:
        """Return how many prompt and output tokens a request may have."""
        if self.max_model_len is not None:
            return self.max_model_len
        return min(DEFAULT_MAX_MODEL_LEN, self.engine.kv_tokens)

    @property
    def ports_per_group(self) -> int:
        """Return how many servers a group has."""
        return self.engine.num_ranks if self.has_port_per_rank else 1

    def role_of(self, group: int) -> Role:
        """Return the role of a group."""
        return self.roles[group % len(self.roles)]

    def _check_ports(self) -> None:
        num_ports = self.num_groups * self.ports_per_group
        if not 0 <= self.port <= MAX_PORT:
            raise ConfigError(f"--port must be from 0 to {MAX_PORT}, got {self.port}")
        if self.port > 0 and self.port + num_ports - 1 > MAX_PORT:
            raise ConfigError(
                f"--port {self.port} leaves {MAX_PORT - self.port + 1} ports, "
                f"but {num_ports} are needed; lower it"
            )

    def _check_roles(self) -> None:
        for role in self.roles:
            if role not in get_args(Role):
                raise ConfigError(
                    f"--role must be one of {', '.join(get_args(Role))}, got {role!r}"
                )
        if len(self.roles) not in (1, self.num_groups):
            raise ConfigError(
                f"--role names {len(self.roles)} groups, but there are {self.num_groups}; "
                "name one role, or one for each group"
            )


def _require_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    if math.isfinite(value) and least <= value <= most:
        return
    allowed = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise ConfigError(f"--{name} must be a number {allowed}, got {value}")


def _require_above_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"--{name} must be a number above 0, got {value}")
