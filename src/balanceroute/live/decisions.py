"""What a policy sees and says, as lines that hold just what has changed since the line before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.kernels.ledger import ENTRY_ACCOUNT, Int64Array, RecordArray
from balanceroute.policies.base import Plan

FORMAT = 2
POLICY_STREAM = 2  # which random numbers of a seed the policy uses, as in the simulator
VIEW_COLUMNS = (
    "num_slots",
    "kv_capacity_tokens",
    "generated_tokens",
    "load_tokens",
    "due_tokens",
    "resident_prompt_tokens",
    "num_running_reqs",
    "num_waiting_reqs",
    "clocks",
)
GENERATED, LOAD = VIEW_COLUMNS.index("generated_tokens"), VIEW_COLUMNS.index("load_tokens")
TRAITS = (
    "client_id",
    "max_tokens",
    "prompt_hash",
    "priority",
    "preferred_rank",
    "saved_tokens",
    "session",
)
KNOWN = ("request", "rank", "prompt_tokens", "client", "max_tokens", "prompt_hash")
ROW_COLUMNS = tuple(name for name in ENTRY_ACCOUNT.fields or () if name != "next_free")
NOW, BEFORE = 0, 1  # where the rest of an event is found: in the row as it is, or as it was
NUM_ALTERNATIVES, MAX_NAME = 3, 64

Line = dict[str, Any]


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of each file of a log.

    Attributes
    ----------
    decisions : int
        Number of the format.
    version : str
        Of BalanceRoute.
    run : str
        The router's start; files of one run belong together.
    segment : int
        Number of the file in its run, from 0.
    num_ranks : int
        At the start of the run.
    costs : StepCosts or None
        What a step costs, as the policy is told.
    """

    decisions: int
    version: str
    run: str
    segment: int
    num_ranks: int
    costs: StepCosts | None


class Recorder:
    """Makes lines of what the policy is handed, and of what it says.

    Parameters
    ----------
    write : callable
        Takes the lines.
    name_of : callable
        Returns how clients call the request of a number.
    """

    def __init__(self, write: Callable[[Line], object], name_of: Callable[[int], str]) -> None:
        self._write, self._name_of = write, name_of
        self._num_plans = 0
        self._ids: Int64Array = np.zeros(0, np.int64)
        self._ranks: NDArray[np.int64] = np.zeros((len(VIEW_COLUMNS), 0), np.int64)
        self._rows: RecordArray | None = None
        self._is_immediate: bool | None = None

    def note_policy(self, spec: str, seed: int) -> None:
        """Note who chooses from now on, with what chance."""
        self._write({"policy": spec, "seed": seed})

    def note_shadow(self, spec: str, placed: list[tuple[int, int]]) -> None:
        """Note where another policy would have sent requests, by their numbers."""
        if placed:
            self._write({"shadow": spec, "placed": placed})

    def note_plan(self, view: GroupView, pool: PoolView, plan: Plan) -> None:
        """Note a plan, before it is carried out."""
        line: Line = {"n": self._num_plans, "t": view.now_s}
        self._num_plans += 1
        if view.is_immediate != self._is_immediate:
            self._is_immediate = line["immediate"] = view.is_immediate
        self._note_pool(line, pool)
        self._note_ranks(line, view)
        if view.entries is not None:
            self._note_rows(line, view.entries, view.events)
        line["plan"] = [plan.requests.tolist(), plan.ranks.tolist()]
        if len(plan) > 0:
            line["why"] = reasons(view, pool, plan)
        self._write(line)
        self._ids = np.delete(pool.ids, plan.requests)

    def _note_pool(self, line: Line, pool: PoolView) -> None:
        ids, before = pool.ids, self._ids
        num_kept = len(before)
        if not np.array_equal(ids[:num_kept], before):
            is_kept = np.isin(before, ids)
            kept = before[is_kept]
            if not np.array_equal(ids[: len(kept)], kept):  # one has left and come again
                is_kept[:] = False
                kept = before[:0]
            line["out"] = before[~is_kept].tolist()
            num_kept = len(kept)
        if num_kept == len(ids):
            return
        new = slice(num_kept, None)
        columns = [
            ids[new].tolist(),
            pool.prompt_tokens[new].tolist(),
            pool.arrival_s[new].tolist(),
        ]
        traits = pool.traits
        assert traits is not None  # `Pool` always has them
        columns += [traits[name][new].tolist() for name in TRAITS]
        names = [self._name_of(number)[:MAX_NAME] for number in columns[0]]
        line["in"] = [list(row) for row in zip(*columns, names, strict=True)]

    def _note_ranks(self, line: Line, view: GroupView) -> None:
        ranks = rank_columns(view)
        if ranks.shape != self._ranks.shape:
            line["ranks"] = ranks.tolist()
        else:
            delta = ranks - self._ranks
            delta[LOAD] -= delta[GENERATED]  # what is given stays resident, but for who leaves
            if changed := np.flatnonzero(delta.any(axis=1)).tolist():
                line["d"] = {VIEW_COLUMNS[row]: _short(delta[row]) for row in changed}
        self._ranks = ranks

    def _note_rows(self, line: Line, entries: RecordArray, events: RecordArray) -> None:
        before = self._rows
        if before is None or len(before) != len(entries):
            old = entries[:0] if before is None else before
            before = np.zeros(len(entries), entries.dtype)
            before[: len(old)] = old
            line["rows"] = len(entries)
        if len(events) > 0:
            line["ev"] = [_event(event, entries, before) for event in events]
        is_other = entries.view(np.int64) != before.view(np.int64)
        changed = np.flatnonzero(is_other.reshape(len(entries), -1)[:, : len(ROW_COLUMNS)].any(1))
        if len(changed) > 0:
            line.update(_rows(entries, before, changed))
            before[changed] = entries[changed]
        self._rows = before


def rank_columns(view: GroupView) -> NDArray[np.int64]:
    """Return what a view says of the ranks, shape (columns, G)."""
    columns = [getattr(view, name) for name in VIEW_COLUMNS[:-1]]
    columns.append(np.zeros(view.num_ranks, np.int64) if view.clocks is None else view.clocks)
    return np.stack(columns)


def _short(values: NDArray[np.int64]) -> int | list[int]:
    """Return one number where all are the same."""
    if (values == values[0]).all():
        return int(values[0])
    listed: list[int] = values.tolist()
    return listed


def _event(event: Any, entries: RecordArray, before: RecordArray) -> list[int]:
    handle = int(event["handle"])
    own = [int(event[name]) for name in KNOWN]
    told = [int(event["kind"]), handle, int(event["generated_tokens"])]
    told.append(int(event["has_completed"]))
    for source, rows in ((NOW, entries), (BEFORE, before)):
        if own == [int(rows[name][handle]) for name in KNOWN]:
            return [*told, source]
    return [*told, *own]


def _rows(entries: RecordArray, before: RecordArray, changed: Int64Array) -> Line:
    """Return rows that differ: how much those have grown that differ in that only, and others."""
    now, then = entries[changed], before[changed]
    is_grown = now["base_tokens"] != then["base_tokens"]
    for name in ROW_COLUMNS:
        if name != "base_tokens":
            is_grown &= now[name] == then[name]
    line: Line = {}
    if is_grown.any():
        growth = (now["base_tokens"] - then["base_tokens"])[is_grown]
        line["gr"] = [_runs(changed[is_grown]), _short(growth)]
    if not is_grown.all():
        line["set"] = [_row(entries, before, handle) for handle in changed[~is_grown].tolist()]
    return line


def _runs(numbers: Int64Array) -> list[int]:
    """Return how many numbers from 0 on are passed over, then how many are there, and so on.

    Examples
    --------
    >>> _runs(np.array([2, 3, 4, 7]))
    [2, 3, 2, 1]
    """
    ends = np.flatnonzero(np.diff(numbers) > 1)
    firsts = numbers[np.concatenate([[0], ends + 1])]
    after = numbers[np.concatenate([ends, [len(numbers) - 1]])] + 1
    found: list[int] = np.diff(np.column_stack([firsts, after]).ravel(), prepend=0).tolist()
    return found


def _row(entries: RecordArray, before: RecordArray, handle: int) -> list[int]:
    """Return a handle, a mask of the columns that differ, and what they are now."""
    now, then = entries[handle].item(), before[handle].item()
    places = [place for place in range(len(ROW_COLUMNS)) if now[place] != then[place]]
    return [handle, sum(1 << place for place in places), *(now[place] for place in places)]


def reasons(
    view: GroupView, pool: PoolView, plan: Plan, num_others: int = NUM_ALTERNATIVES
) -> list[Line]:
    """Return why each request went where it went, in order: as the loads were when it was placed.

    Returns
    -------
    list of dict
        ``request``, its ``rank``, what that has on it or due (``load``, tokens), its ``margin``,
        the F-score there (``f``, Eq. 1 of the design, tokens), and ``others``: rank, margin and F
        of the best others that had room.

    Examples
    --------
    >>> from balanceroute.cluster.ledger import Ledger
    >>> ledger = Ledger(num_ranks=2)
    >>> handle = ledger.send(rank=1, prompt_tokens=100)
    >>> one = np.array([4, 4])
    >>> view = GroupView.of_accounts(ledger.ranks, ledger.ranks, now_s=0.0, is_immediate=False,
    ...                              num_slots=one, kv_capacity_tokens=1000 * one)
    >>> why = reasons(view, PoolView.of_prompts([30]), Plan.oldest(np.array([0])))
    >>> why[0]["margin"], why[0]["f"], why[0]["others"]
    (100, 30, [[1, 0, -30]])
    """
    loads, room = view.committed_tokens.copy(), view.max_sends.copy()
    num_ranks, found = view.num_ranks, []
    for position, rank in zip(plan.requests.tolist(), plan.ranks.tolist(), strict=True):
        tokens = int(pool.prompt_tokens[position])
        margins = loads.max() - loads
        scores = tokens - num_ranks * np.maximum(tokens - margins, 0)
        order = np.argsort(-scores, kind="stable")
        others = [other for other in order.tolist() if other != rank and room[other] > 0]
        found.append(
            {
                "request": int(pool.ids[position]),
                "rank": rank,
                "load": int(loads[rank]),
                "margin": int(margins[rank]),
                "f": int(scores[rank]),
                "others": [
                    [other, int(margins[other]), int(scores[other])]
                    for other in others[:num_others]
                ],
            }
        )
        loads[rank] += tokens
        room[rank] -= 1
    return found
