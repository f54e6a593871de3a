"""A decision log turned back into views, pools and plans."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.pool import Pool
from balanceroute.cluster.traits import request_traits
from balanceroute.cluster.view import GroupView, PoolView
from balanceroute.errors import LogError
from balanceroute.kernels.ledger import ENTRY_ACCOUNT, REQUEST_EVENT, Int64Array, RecordArray
from balanceroute.live.decision_file import CutShort, full_files, read_lines
from balanceroute.live.decisions import (
    BEFORE,
    FORMAT,
    GENERATED,
    KNOWN,
    LOAD,
    NOW,
    POLICY_STREAM,
    ROW_COLUMNS,
    TRAITS,
    VIEW_COLUMNS,
    Header,
    Line,
)
from balanceroute.policies.base import Plan, Policy, follows_requests
from balanceroute.policies.registry import make_policy

BASE = ROW_COLUMNS.index("base_tokens")
EVENT_COLUMNS = tuple(REQUEST_EVENT.fields or ())
TOLD = ("kind", "handle", "generated_tokens", "has_completed")
OWN = [EVENT_COLUMNS.index(name) for name in TOLD]
KNOWN_OF_EVENT = [EVENT_COLUMNS.index(name) for name in KNOWN]
KNOWN_OF_ROW = [ROW_COLUMNS.index(name) for name in KNOWN]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One decision, as it was logged and as the policy says it now.

    Attributes
    ----------
    line : dict
        As logged.
    view, pool
        What the policy is handed.
    plan : Plan
        Of now.
    """

    line: Line
    view: GroupView
    pool: PoolView
    plan: Plan

    @property
    def bytes_now(self) -> bytes:
        """Return the plan of now as the log writes plans."""
        return plan_bytes(self.line["n"], [self.plan.requests.tolist(), self.plan.ranks.tolist()])

    @property
    def bytes_then(self) -> bytes:
        """Return the plan that was logged."""
        return plan_bytes(self.line["n"], self.line["plan"])


def plan_bytes(number: int, plan: list[list[int]]) -> bytes:
    """Return a plan as a line.

    Examples
    --------
    >>> plan_bytes(3, [[0, 1], [7, 2]])
    b'{"n":3,"plan":[[0,1],[7,2]]}'
    """
    return msgspec.json.encode({"n": number, "plan": plan})


@dataclass(eq=False, slots=True)
class Scene:
    """The group and the pool as the log tells them, line by line."""

    header: Header
    pool: Pool = field(default_factory=Pool)
    ranks: NDArray[np.int64] = field(init=False)
    rows: RecordArray = field(init=False)
    is_immediate: bool = False
    policy: Policy | None = None

    def __post_init__(self) -> None:
        self.ranks = np.zeros((len(VIEW_COLUMNS), self.header.num_ranks), np.int64)
        self.rows = np.zeros(0, ENTRY_ACCOUNT)

    def set_policy(self, spec: str, seed: int) -> None:
        """Let a policy choose from now on."""
        self.policy = make_policy(spec, rng=np.random.default_rng((seed, POLICY_STREAM)))

    def replay(self, line: Line) -> Replayed:
        """Let the policy plan what a line tells of; then go on with what was done in truth."""
        if self.policy is None:
            raise LogError("the log names no policy before its first decision; it is damaged")
        self.is_immediate = line.get("immediate", self.is_immediate)
        self._change_pool(line)
        self._change_ranks(line)
        self.rows = _with_room(self.rows, line)
        table, events = _table(self.rows), np.zeros(len(line.get("ev", ())), REQUEST_EVENT)
        _tell(events, line, table, BEFORE)
        _change_rows(table, line)
        _tell(events, line, table, NOW)
        _tell_whole(events, line)
        view, pool = self._view(line["t"], events), self.pool.view()
        plan = self.policy.plan(view, pool)
        # The policy's own copy: a pool's arrays change with the next line.
        seen = PoolView(
            ids=pool.ids.copy(),
            prompt_tokens=pool.prompt_tokens.copy(),
            arrival_s=pool.arrival_s,
            traits=pool.traits,
        )
        self.pool.take(np.array(line["plan"][0], np.int64))
        return Replayed(line=line, view=view, pool=seen, plan=plan)

    def _change_pool(self, line: Line) -> None:
        if "out" in line:
            self.pool.take(np.flatnonzero(np.isin(self.pool.view().ids, line["out"])))
        if new := line.get("in"):
            ids, prompts, arrivals_s, *traits = zip(*(row[:-1] for row in new), strict=True)
            told = request_traits(len(ids))
            for name, values in zip(TRAITS, traits, strict=False):  # older logs have fewer
                told[name] = values
            self.pool.append(
                np.array(ids, np.int64), np.array(prompts, np.int64), np.array(arrivals_s), told
            )

    def _change_ranks(self, line: Line) -> None:
        if "ranks" in line:
            self.ranks = np.array(line["ranks"], np.int64)
        delta = np.zeros_like(self.ranks)
        for name, values in line.get("d", {}).items():
            delta[VIEW_COLUMNS.index(name)] = values
        delta[LOAD] += delta[GENERATED]
        self.ranks = self.ranks + delta

    def _view(self, now_s: float, events: RecordArray) -> GroupView:
        told: dict[str, Int64Array] = dict(zip(VIEW_COLUMNS, self.ranks, strict=True))
        clocks = told.pop("clocks")
        costs = self.header.costs
        follows = self.policy is not None and follows_requests(self.policy)
        return GroupView(
            now_s=now_s,
            is_immediate=self.is_immediate,
            num_inflight_reqs=told["num_running_reqs"] + told["num_waiting_reqs"],
            kappa0_tokens=costs.kappa0_tokens if costs is not None else 0.0,
            costs=costs,
            entries=self.rows if follows else None,
            clocks=clocks if follows else None,
            events=events if follows else NO_EVENTS,
            **told,  # type: ignore[arg-type]  # none of them is `speeds`
        )


def _with_room(rows: RecordArray, line: Line) -> RecordArray:
    """Return the rows, in an array as long as a line says."""
    num_rows = line.get("rows", len(rows))
    if num_rows == len(rows):
        return rows
    longer = np.zeros(num_rows, ENTRY_ACCOUNT)
    longer[: len(rows)] = rows
    return longer


def _change_rows(table: NDArray[np.int64], line: Line) -> None:
    if "gr" in line:
        steps, growth = line["gr"]
        table[np.cumsum(steps), BASE] += growth
    for handle, mask, *values in line.get("set", ()):
        table[handle, _places(mask)] = values


def _table(records: RecordArray) -> NDArray[np.int64]:
    """Return records of integers as a table, which is much faster to write."""
    return records.view(np.int64).reshape(len(records), len(records.dtype.fields or ()))


@functools.cache
def _places(mask: int) -> list[int]:
    return [place for place in range(len(ROW_COLUMNS)) if mask >> place & 1]


def _tell(events: RecordArray, line: Line, rows: NDArray[np.int64], source: int) -> None:
    """Fill in those events of which the rest is in the rows as they are at this point."""
    told = line.get("ev", ())
    places = [place for place, event in enumerate(told) if event[len(TOLD) :] == [source]]
    if places:
        own = np.array([told[place] for place in places], np.int64)
        there = np.array(places)[:, None]
        _table(events)[there, OWN] = own[:, : len(TOLD)]
        _table(events)[there, KNOWN_OF_EVENT] = rows[own[:, 1:2], KNOWN_OF_ROW]


def _tell_whole(events: RecordArray, line: Line) -> None:
    """Fill in those events that stand for themselves."""
    for place, event in enumerate(line.get("ev", ())):
        if len(event) > len(TOLD) + 1:
            _table(events)[place, OWN + KNOWN_OF_EVENT] = event


def replayed(path: Path) -> Iterator[Replayed]:
    """Give the decisions of a log one after the other, with the plans that its policies say now.

    Parameters
    ----------
    path : Path
        As `balanceroute serve --decision-log` was told; the files before it are found.

    Raises
    ------
    CutShort
        After the last decision that is whole, if a file ends in the middle.
    LogError
        If a file cannot be read, is of another format, or the beginning of a run is not there any
        more, so that what its policy had learned is unknown.
    """
    scene: Scene | None = None
    paths = [each for _, each in full_files(path)]
    for each in [*paths, path] if path.exists() or not paths else paths:
        try:
            for number, raw in enumerate(read_lines(each)):
                if number == 0:
                    scene = _begin(each, raw, scene)
                    continue
                assert scene is not None
                line = _line(each, number, raw)
                if "policy" in line:
                    scene.set_policy(line["policy"], line["seed"])
                elif "shadow" not in line:
                    yield _replay(scene, line, f"{each}, line {number + 1}")
        except CutShort:
            if each == path or _begins_run(paths, path, each):
                if each == path:
                    raise
                continue  # a crash, after which the next run has begun
            raise


def _replay(scene: Scene, line: Line, where: str) -> Replayed:
    try:
        return scene.replay(line)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise LogError(f"{where}: not what this version writes ({error!r})") from error


def _begins_run(paths: list[Path], last: Path, cut: Path) -> bool:
    """Tell whether the file after one that is cut begins a run."""
    following = [*paths, last][paths.index(cut) + 1]
    return _header(following, next(iter(read_lines(following)), b"")).segment == 0


def _begin(path: Path, raw: bytes, scene: Scene | None) -> Scene:
    """Return the scene at the beginning of a file."""
    header = _header(path, raw)
    if header.segment == 0:
        return Scene(header)
    if scene is not None and scene.header.run == header.run:
        return scene
    raise LogError(
        f"{path} goes on with a run whose first files are gone, and with them what the policy had "
        "learned; keep all of them with --decision-log-files 0"
    )


def _header(path: Path, raw: bytes) -> Header:
    try:
        header = msgspec.json.decode(raw, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"{path} is not a decision log: its first line is no header") from error
    if header.decisions != FORMAT:
        raise LogError(f"{path} is of format {header.decisions}; this version reads {FORMAT}")
    return header


def _line(path: Path, number: int, raw: bytes) -> Line:
    try:
        line: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogError(f"{path}, line {number + 1}: not JSON ({error})") from error
    if not isinstance(line, dict):
        raise LogError(f"{path}, line {number + 1}: not a decision")
    return line
