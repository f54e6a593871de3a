"""The simulated group: its arrays, and the kernels called on them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import UNLIMITED_TOKENS, Ledger
from balanceroute.cluster.traits import NO_TRAITS, request_traits
from balanceroute.kernels import delivery, lockstep
from balanceroute.kernels.costs import StepCost
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.logs import REQUEST_LOG, STEP_LOG, Log, SampleLog
from balanceroute.kernels.scheduler import CLOCK, ENGINE, NONE, SEAT, Group
from balanceroute.sim.config import SimConfig
from balanceroute.sim.delivery import AT_ONCE
from balanceroute.sim.gates import gate_state
from balanceroute.types import LoadSamples, RequestRecords, StepRecords, Workload

NUM_SAMPLES = 1024  # rows of load per rank kept for plots
FIRST_LOG_ROWS = 4096
NO_BUDGET = 1 << 62  # decode-only ranks: a prompt is resident at once and costs nothing


class SimGroup:
    """Ranks in lockstep that serve the rows of a workload.

    Parameters
    ----------
    config : SimConfig
        Ranks, limits and costs.
    workload : Workload
        Requests; dispatched by row.
    keeps_events : bool
        Whether the ledger notes what happens to requests.
    requests : REQUEST_LOG array, shape (N,), or None
        Where it is noted what becomes of each row; None: in an array of the group's own.
    num_samples : int
        Rows of loads that are kept, at least 2.
    """

    def __init__(
        self,
        config: SimConfig,
        workload: Workload,
        *,
        keeps_events: bool = False,
        requests: RecordArray | None = None,
        num_samples: int = NUM_SAMPLES,
    ) -> None:
        num_ranks = config.num_ranks
        num_beyond_slots = min(2 * config.pool_target, workload.num_requests)
        capacity = num_ranks * config.num_slots + num_beyond_slots
        self.ledger = Ledger(num_ranks=num_ranks, capacity=capacity, keeps_events=keeps_events)
        self.workload = workload
        known = ["client_ids", "max_tokens", "prompt_hashes"]
        if config.prefix_cache:
            known.append("cached_tokens")
        self._known = {name: workload.columns[name] for name in known if name in workload.columns}
        self._cost = _kernel_cost(config.costs)
        self._gate = gate_state(config.prefill_gate, num_ranks)
        self._engines = _idle_engines(config)
        num_clocks = config.num_groups if config.has_barrier else num_ranks
        self._clocks = np.zeros(num_clocks, CLOCK)
        num_days = int(workload.output_tokens.max()) + 2
        self._calendar = np.full((num_clocks, num_days), NONE, np.int64)
        self._seats = np.zeros(capacity, SEAT)
        self._first_handles = np.zeros(capacity, np.int64)
        self._requests = request_log(workload.num_requests) if requests is None else requests
        counter = np.zeros(1, np.int64)
        samples = SampleLog(
            np.zeros(num_samples),
            np.zeros((num_samples, num_ranks), np.int64),
            counter.copy(),
            np.ones(1, np.int64),
        )
        self._log = Log(np.zeros(FIRST_LOG_ROWS, STEP_LOG), counter, samples)
        self._group = self._assemble()

    @property
    def num_slots(self) -> Int64Array:
        """Return the slots of each rank, shape (G,)."""
        return self._engines["slots"]

    @property
    def kv_tokens(self) -> Int64Array:
        """Return the KV tokens of each rank, shape (G,)."""
        return self._engines["kv_tokens"]

    @property
    def now_s(self) -> float:
        """Return when the last step ended, while some rank is between two steps."""
        return float(self._clocks["now_s"][self._clocks["in_step"] == 0].max())

    @property
    def quiet_until_s(self) -> float:
        """Return until when nothing changes but by sends; 0 if nothing runs or is on its way.

        That is until a step ends, or a request reaches a rank between two steps.
        """
        ends_s = self._clocks["end_s"][self._clocks["in_step"] == 1]
        end_s = float(ends_s.min()) if len(ends_s) > 0 else np.inf
        _, arrives_s = delivery.first_to_get(self._group)
        next_s = min(end_s, float(arrives_s))
        return next_s if next_s < np.inf else 0.0

    @property
    def is_at_boundary(self) -> bool:
        """Tell whether some rank, with a barrier every rank, is between two steps."""
        return not self._clocks["in_step"].all()

    @property
    def num_admitted(self) -> int:
        """Return how many requests of the workload have started so far."""
        return int(self._clocks["num_admitted"].sum())

    def wait_until(self, now_s: float) -> None:
        """Let an idle group's clocks jump to `now_s`."""
        self._clocks["now_s"] = now_s

    def traits(self, rows: Int64Array) -> RecordArray:
        """Return what the workload tells of requests beyond lengths and arrivals."""
        if not self._known:
            return NO_TRAITS
        known = {name: values[rows] for name, values in self._known.items()}
        return request_traits(len(rows), **known)

    def advance(self, until_s: float, pause: int) -> int:
        """Run steps; see `balanceroute.kernels.lockstep.advance`."""
        while True:
            reason = lockstep.advance(
                self._group, self._cost, self._gate, self._log, until_s, pause
            )
            if reason == lockstep.LOG_FULL:
                steps = _widen(self._log.steps, 2 * len(self._log.steps))
                self._log = self._log._replace(steps=steps)
            elif reason == lockstep.EVENTS_FULL:
                self._reserve(0, num_events=self.ledger.num_in_flight)
            else:
                return int(reason)

    def dispatch(
        self,
        requests: Int64Array,
        ranks: Int64Array,
        now_s: float,
        arrives_s: NDArray[np.float64] = AT_ONCE,
    ) -> None:
        """Send rows of the workload to ranks at `now_s`, in order; see `Delivery` for times."""
        self._reserve(len(requests), num_events=len(requests))
        prompts, outputs = self.workload.prompt_tokens, self.workload.output_tokens
        traits = self.traits(requests)
        lockstep.dispatch(self._group, requests, ranks, prompts, outputs, traits, now_s, arrives_s)

    def fill(self, rows: Int64Array, ranks: Int64Array, ages: Int64Array) -> None:
        """Start copies of workload rows on ranks as if they had been running for a while."""
        self._reserve(len(rows), num_events=len(rows))
        prompts, outputs = self.workload.prompt_tokens, self.workload.output_tokens
        traits = self.traits(rows)
        lockstep.fill(self._group, rows, ranks, prompts, outputs, traits, ages)

    def fill_stationary(self, rng: np.random.Generator, ends: Int64Array | None = None) -> None:
        """Fill every slot as an observer finds it in the long run.

        Drawing one output token of the workload uniformly draws its request in proportion to its
        output length, and an age uniform in that length. `ends` are the running sums of the output
        lengths, where they are known.
        """
        num_ranks = len(self._engines)
        num_slots = int(self.num_slots.sum())
        ends = np.cumsum(self.workload.output_tokens, dtype=np.int64) if ends is None else ends
        tokens = rng.integers(ends[-1], size=num_slots)
        rows = np.searchsorted(ends, tokens, side="right")
        ages = tokens - (ends[rows] - self.workload.output_tokens[rows])
        self.fill(rows, np.arange(num_slots) % num_ranks, ages)

    def step_records(self) -> StepRecords:
        """Return what the steps so far have logged."""
        steps = self._log.steps[: int(self._log.num_steps[0])]
        return StepRecords(**{name: steps[name] for name in STEP_LOG.names or ()})

    def request_records(self, arrival_s: NDArray[np.float64]) -> RequestRecords:
        """Return what became of each request, given when it arrived."""
        return RequestRecords(
            arrival_s=arrival_s,
            prompt_tokens=self.workload.prompt_tokens,
            output_tokens=self.workload.output_tokens,
            **{name: self._requests[name] for name in REQUEST_LOG.names or ()},
        )

    def samples(self) -> LoadSamples:
        """Return the load of each rank at some steps."""
        samples = self._log.samples
        size = int(samples.size[0])
        return LoadSamples(time_s=samples.time_s[:size], load_tokens=samples.load_tokens[:size])

    def _reserve(self, num_requests: int, *, num_events: int) -> None:
        """Make room in the ledger, and wherever else there is a row for each handle."""
        self.ledger.reserve(num_requests)
        self.ledger.reserve_events(num_events)
        if self.ledger.accounts is self._group.accounts:
            return
        if self.ledger.capacity > len(self._seats):
            self._seats = _widen(self._seats, self.ledger.capacity)
            self._first_handles = _widen(self._first_handles, self.ledger.capacity)
        self._group = self._assemble()

    def _assemble(self) -> Group:
        return Group(
            self.ledger.accounts,
            self._engines,
            self._seats,
            self._clocks,
            self._requests,
            self._calendar,
            self._first_handles,
        )


def request_log(num_requests: int) -> RecordArray:
    """Return a log of requests of which nothing has happened to any."""
    log = np.zeros(num_requests, REQUEST_LOG)
    for name in ("admitted_s", "first_token_s", "finished_s"):
        log[name] = np.nan
    log["rank"] = NONE
    return log


def _kernel_cost(costs: StepCosts) -> StepCost:
    figures = {name: value for name, value in asdict(costs).items() if name in StepCost._fields}
    return StepCost(**figures | {"budget_tokens": costs.budget_tokens or NO_BUDGET})


def _idle_engines(config: SimConfig) -> RecordArray:
    engines = np.zeros(config.num_ranks, ENGINE)
    engines["slots"] = config.num_slots
    engines["kv_tokens"] = config.kv_tokens or UNLIMITED_TOKENS
    engines["speed"] = config.rank_speeds or 1.0
    for name in ("run_tail", "prefill_head", "wait_head", "wait_tail"):
        engines[name] = NONE
    return engines


def _widen(records: RecordArray, num_rows: int) -> RecordArray:
    wider: RecordArray = np.zeros(num_rows, records.dtype)
    wider[: len(records)] = records
    return wider
