"""A decision log turned back into views, pools and plans."""

from __future__ import annotations

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
        before, self.rows = self.rows, _rows_after(self.rows, line)
        events = _events(line, before, self.rows)
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
            for name, values in zip(TRAITS, traits, strict=True):
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


def _rows_after(rows: RecordArray, line: Line) -> RecordArray:
    """Return the requests' rows with what a line says of them."""
    num_rows = line.get("rows", len(rows))
    after = np.zeros(num_rows, ENTRY_ACCOUNT)
    after[: len(rows)] = rows
    if "gr" in line:
        steps, growth = line["gr"]
        after["base_tokens"][np.cumsum(steps)] += growth
    for handle, mask, *values in line.get("set", ()):
        names = [name for place, name in enumerate(ROW_COLUMNS) if mask >> place & 1]
        for name, value in zip(names, values, strict=True):
            after[name][handle] = value
    return after


def _events(line: Line, before: RecordArray, rows: RecordArray) -> RecordArray:
    told = line.get("ev", ())
    events = np.zeros(len(told), REQUEST_EVENT)
    for event, (kind, handle, generated_tokens, has_completed, *rest) in zip(
        events, told, strict=True
    ):
        event["kind"], event["handle"] = kind, handle
        event["generated_tokens"], event["has_completed"] = generated_tokens, has_completed
        if len(rest) == 1:
            source = rows if rest[0] == NOW else before
            rest = [source[name][handle] for name in KNOWN]
        for name, value in zip(KNOWN, rest, strict=True):
            event[name] = value
    return events


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
                else:
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
