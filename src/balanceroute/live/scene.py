"""The group and the pool as a decision log tells them, line by line."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.pool import Pool
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import LogError
from balanceroute.kernels.ledger import ENTRY_ACCOUNT, REQUEST_EVENT, Int64Array, RecordArray
from balanceroute.live.decisions import (
    BEFORE,
    GENERATED,
    KNOWN,
    LOAD,
    NOW,
    POLICY_STREAM,
    ROW_COLUMNS,
    VIEW_COLUMNS,
    Header,
)
from balanceroute.policies.base import Plan, Policy, follows_requests
from balanceroute.policies.registry import make_policy

BASE, NUM_ENTRY_COLUMNS = ROW_COLUMNS.index("base_tokens"), len(ENTRY_ACCOUNT.fields or ())
PLACE_OF = {name: place for place, name in enumerate(VIEW_COLUMNS)}
# An event stands in a line as these, then either where the rest is found or the rest itself.
TOLD = ("kind", "handle", "generated_tokens", "has_completed")
EVENT_COLUMNS = tuple(REQUEST_EVENT.fields or ())
SOURCE, SHORT = len(TOLD), len(TOLD) + 1
FROM_WHOLE = np.array([(*TOLD, *KNOWN).index(name) for name in EVENT_COLUMNS])
FROM_ROW = np.array(  # beside a row: what the line says
    [
        ROW_COLUMNS.index(name) if name in KNOWN else NUM_ENTRY_COLUMNS + TOLD.index(name)
        for name in EVENT_COLUMNS
    ]
)

# Number, tokens, arrival, `TRAITS`, name.
Arrived = tuple[int, int, float, int, int, int, int, int, int, int, str]


class Told(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line of a log as a replay reads it; of what it has no need of, such as ``why``, nothing.

    Attributes are those that `Recorder` writes, under longer names where a line has very short
    ones. `plan` is left as the bytes that are in the log.
    """

    number: int = msgspec.field(name="n", default=-1)
    now_s: float = msgspec.field(name="t", default=0.0)
    immediate: bool | None = None
    out: list[int] = []
    arrived: list[Arrived] = msgspec.field(name="in", default_factory=list)
    ranks: list[list[int]] | None = None
    changes: dict[str, int | list[int]] = msgspec.field(name="d", default_factory=dict)
    num_rows: int | None = msgspec.field(name="rows", default=None)
    events: list[list[int]] = msgspec.field(name="ev", default_factory=list)
    growth: tuple[list[int], int | list[int]] | None = msgspec.field(name="gr", default=None)
    rows: list[list[int]] = msgspec.field(name="set", default_factory=list)
    plan: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    policy: str | None = None
    seed: int = 0
    shadow: str | None = None


read_line = msgspec.json.Decoder(Told).decode
read_plan = msgspec.json.Decoder(tuple[list[int], list[int]]).decode
write_plan = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One decision, as it was logged and as the policy says it now.

    Attributes
    ----------
    line : Told
        As logged.
    view, pool
        What the policy is handed; they change with the next decision.
    then : Plan
        As logged.
    plan : Plan
        Of now.
    """

    line: Told
    view: GroupView
    pool: PoolView
    then: Plan
    plan: Plan

    @property
    def bytes_now(self) -> bytes:
        """Return the plan of now as the log writes plans."""
        return write_plan([self.plan.requests.tolist(), self.plan.ranks.tolist()])

    @property
    def bytes_then(self) -> bytes:
        """Return the plan as it is in the log."""
        return bytes(self.line.plan)


@dataclass(eq=False, slots=True)
class Scene:
    """The group and the pool as the log tells them."""

    header: Header
    pool: Pool = field(default_factory=Pool)
    ranks: NDArray[np.int64] = field(init=False)
    rows: RecordArray = field(init=False)
    is_immediate: bool = False
    policy: Policy | None = None
    _follows_requests: bool = False
    _placed: Int64Array | None = None  # by the decision before, still in the pool

    def __post_init__(self) -> None:
        self.ranks = np.zeros((len(VIEW_COLUMNS), self.header.num_ranks), np.int64)
        self.rows = np.zeros(0, ENTRY_ACCOUNT)

    def set_policy(self, spec: str, seed: int) -> None:
        """Let a policy choose from now on."""
        self.policy = make_policy(spec, rng=np.random.default_rng((seed, POLICY_STREAM)))
        self._follows_requests = follows_requests(self.policy)

    def replay(self, line: Told) -> Replayed:
        """Let the policy plan what a line tells of, after what was done in truth before."""
        if self.policy is None:
            raise LogError("the log names no policy before its first decision; it is damaged")
        if line.immediate is not None:
            self.is_immediate = line.immediate
        self._change_pool(line)
        self._change_ranks(line)
        self.rows = _with_room(self.rows, line.num_rows)
        events = self._change_rows(line)
        view, pool = self._view(line.now_s, events), self.pool.view()
        plan = self.policy.plan(view, pool)
        requests, ranks = read_plan(line.plan)
        then = Plan(np.array(requests, np.int64), np.array(ranks, np.int64))
        self._placed = then.requests
        return Replayed(line=line, view=view, pool=pool, then=then, plan=plan)

    def _change_pool(self, line: Told) -> None:
        if self._placed is not None and len(self._placed) > 0:
            self.pool.take(self._placed)
        if line.out:
            self.pool.take(np.flatnonzero(np.isin(self.pool.view().ids, line.out)))
        for number, tokens, arrived_s, *known, _ in line.arrived:
            client, max_tokens, prompt_hash, priority, rank, saved, session = known
            traits = (client, max_tokens, prompt_hash, rank, saved, 0, priority, session)
            self.pool.append_one(number, tokens, arrived_s, traits)

    def _change_ranks(self, line: Told) -> None:
        if line.ranks is not None:
            self.ranks = np.array(line.ranks, np.int64)
        else:
            self.ranks = self.ranks.copy()  # a policy may keep the view before
        if line.changes:
            num_ranks = self.ranks.shape[1]
            places = [PLACE_OF[name] for name in line.changes]
            told = line.changes.values()
            self.ranks[places] += [
                its if isinstance(its, list) else [its] * num_ranks for its in told
            ]
        if generated := line.changes.get(VIEW_COLUMNS[GENERATED]):
            self.ranks[LOAD] += generated

    def _change_rows(self, line: Told) -> RecordArray:
        """Bring the requests in flight up to date; return what has happened to them."""
        table = self.rows.view(np.int64).reshape(len(self.rows), NUM_ENTRY_COLUMNS)
        if not line.events:
            _change(table, line)
            return NO_EVENTS
        told = [
            event if len(event) == SHORT else [*event[: len(TOLD)], NOW] for event in line.events
        ]
        own = np.array(told, np.int64)
        handles, sources = own[:, 1], own[:, SOURCE]
        # Most handles are not used again so soon that the row was another request's before.
        before = table.take(handles, axis=0) if sources.any() else None
        _change(table, line)
        rows = table.take(handles, axis=0)
        if before is not None:
            rows = np.where(sources[:, None] == BEFORE, before, rows)
        found = np.concatenate([rows, own], axis=1).take(FROM_ROW, axis=1)
        for place, event in enumerate(line.events):
            if len(event) != SHORT:
                found[place] = np.array(event)[FROM_WHOLE]
        events: RecordArray = found.view(REQUEST_EVENT)[:, 0]
        return events

    def _view(self, now_s: float, events: RecordArray) -> GroupView:
        costs, follows = self.header.costs, self._follows_requests
        slots, capacities, generated, loads, due, prompts, running, waiting, clocks = self.ranks
        return GroupView(
            now_s=now_s,
            is_immediate=self.is_immediate,
            num_slots=slots,
            kv_capacity_tokens=capacities,
            load_tokens=loads,
            due_tokens=due,
            resident_prompt_tokens=prompts,
            generated_tokens=generated,
            num_running_reqs=running,
            num_waiting_reqs=waiting,
            num_inflight_reqs=running + waiting,
            kappa0_tokens=costs.kappa0_tokens if costs is not None else 0.0,
            costs=costs,
            entries=self.rows if follows else None,
            clocks=clocks if follows else None,
            events=events if follows else NO_EVENTS,
        )


def _with_room(rows: RecordArray, num_rows: int | None) -> RecordArray:
    """Return the rows, in an array as long as a line says."""
    if num_rows is None or num_rows == len(rows):
        return rows
    longer = np.zeros(num_rows, ENTRY_ACCOUNT)
    longer[: len(rows)] = rows
    return longer


def _change(table: NDArray[np.int64], line: Told) -> None:
    if line.growth is not None:
        runs, growth = line.growth
        is_grown = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        table[: len(is_grown), BASE][is_grown] += growth
    if line.rows:
        places: list[int] = []
        values: list[int] = []
        for handle, mask, *now in line.rows:
            first = handle * NUM_ENTRY_COLUMNS
            places += [first + column for column in _columns(mask)]
            values += now
        table.reshape(-1)[places] = values


@functools.cache
def _columns(mask: int) -> list[int]:
    return [column for column in range(len(ROW_COLUMNS)) if mask >> column & 1]
