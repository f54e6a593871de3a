"""An emulated group's own records: what its steps were, and what its ranks held."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import aiohttp
import msgspec
import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.errors import ConfigError
from balanceroute.loadgen.client import clock, get_json
from balanceroute.loadgen.config import read_url
from balanceroute.types import LoadSamples, StepRecords

COLUMNS = tuple(field.name for field in fields(StepRecords))
FLOAT_COLUMNS = frozenset({"start_s", "duration_s", "max_work_s", "mean_work_s", "sum_usage_pow"})
Answer = TypeVar("Answer")
TIMEOUT = aiohttp.ClientTimeout(total=30.0)


class RankState(msgspec.Struct, frozen=True):
    """What is looked at of a rank."""

    resident_tokens: int
    num_preemptions: int = 0


class Totals(msgspec.Struct, frozen=True):
    """What is looked at of the sums since the start."""

    num_steps: int


class GroupState(msgspec.Struct, frozen=True):
    """Answer of ``/emulator/state``, as far as it is looked at."""

    num_ranks: int
    num_slots: int
    speedup: float
    emulated_s: float
    costs: StepCosts
    totals: Totals
    ranks: list[RankState]


class StepPage(msgspec.Struct, frozen=True):
    """Answer of ``/emulator/records``."""

    num_steps: int
    first_step: int
    columns: dict[str, list[float]]


class StepReader:
    """Reads the steps that an emulated group makes during a run.

    `open` says where the group stands before the run; `look` samples the ranks' loads; `close`
    fetches the steps. Emulated time is that of the group's own clock, which may run faster than the
    wall's.

    Parameters
    ----------
    session : aiohttp.ClientSession
        Connections.
    url : str
        The group's server.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = read_url("steps-url", url)
        self._num_preemptions = 0
        self._first_step = 0
        self._emulated_s = 0.0
        self._wall_s = 0.0
        self._times_s: list[float] = []
        self._loads: list[list[int]] = []
        self.state: GroupState

    async def open(self) -> None:
        """Note where the group stands.

        Raises
        ------
        ConfigError
            If there is no emulated group at the address.
        """
        before_s = clock()
        self.state = state = await self._state()
        self._wall_s = (before_s + clock()) / 2
        self._emulated_s = state.emulated_s
        self._first_step = state.totals.num_steps
        self._num_preemptions = sum(rank.num_preemptions for rank in state.ranks)

    def since(self, start_s: float, wall_s: float) -> float:
        """Return the emulated seconds from one time on `clock` to another."""
        return (wall_s - start_s) * self.state.speedup

    async def look(self) -> None:
        """Take a sample of what the ranks hold."""
        state = await self._state()
        self._times_s.append(state.emulated_s)
        self._loads.append([rank.resident_tokens for rank in state.ranks])

    async def close(self, start_s: float) -> tuple[StepRecords, LoadSamples, int]:
        """Return the steps and samples since `open`, and how often requests were preempted.

        Parameters
        ----------
        start_s : float
            When the run began, on `clock`; times count from there, in emulated seconds.

        Raises
        ------
        ConfigError
            If the group is gone, or has dropped steps of this run.
        """
        state = await self._state()
        pages = [await self._page(self._first_step)]
        while (read := sum(len(page.columns["start_s"]) for page in pages)) < (
            pages[0].num_steps - self._first_step
        ):
            pages.append(await self._page(self._first_step + read))
        zero_s = self._emulated_s + self.since(self._wall_s, start_s)
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([_column(name, page.columns[name]) for page in pages])
            for name in COLUMNS
        }
        columns["start_s"] -= zero_s
        samples = LoadSamples(
            time_s=np.array(self._times_s) - zero_s,
            load_tokens=np.array(self._loads, np.int64).reshape(-1, state.num_ranks),
        )
        num_preemptions = sum(rank.num_preemptions for rank in state.ranks)
        return StepRecords(**columns), samples, num_preemptions - self._num_preemptions

    async def _state(self) -> GroupState:
        return await self._get("/emulator/state", GroupState)

    async def _page(self, since: int) -> StepPage:
        page = await self._get(f"/emulator/records?since={since}", StepPage)
        if page.first_step > since:
            raise ConfigError(
                f"{self._url} has dropped steps {since} to {page.first_step - 1} of this run; "
                "make the run shorter"
            )
        if page.num_steps > since and not page.columns["start_s"]:
            raise ConfigError(f"{self._url} was restarted during the run; run it again")
        return page

    async def _get(self, path: str, kind: type[Answer]) -> Answer:
        status, document = await get_json(
            self._session, self._url + path, "steps-url", timeout=TIMEOUT
        )
        try:
            return msgspec.convert(document, kind)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{self._url}{path} is not of an emulated group (HTTP {status}: {error}); "
                "--steps-url is the address of `balanceroute emulate`"
            ) from error


def no_steps() -> StepRecords:
    """Return records of no step."""
    return StepRecords(**{name: _column(name, []) for name in COLUMNS})


def no_samples() -> LoadSamples:
    """Return samples of nothing."""
    return LoadSamples(time_s=np.empty(0), load_tokens=np.empty((0, 1), np.int64))


def admitted_s(steps: StepRecords, first_token_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return when requests were admitted that got their first token in their first step.

    That is so where ranks do not prefill. A first token is seen a little after the end of its step,
    and with errors of the clocks up to a quarter of a step before it.

    Parameters
    ----------
    steps : StepRecords
        At least one step.
    first_token_s : float64 array, shape (N,)
        When the client saw the first token; NaN where it has not.

    Returns
    -------
    float64 array, shape (N,)
        Start of the step; NaN where there is none.

    Examples
    --------
    >>> import dataclasses
    >>> empty = no_steps()
    >>> steps = dataclasses.replace(
    ...     empty, start_s=np.array([0.0, 1.0, 2.0]), duration_s=np.array([1.0, 1.0, 1.0])
    ... )
    >>> admitted_s(steps, np.array([1.05, 1.9, np.nan, 0.1]))
    array([ 0.,  1., nan, nan])
    """
    ends_s = steps.start_s + steps.duration_s
    slack_s = steps.duration_s / 4
    step = np.searchsorted(ends_s - slack_s, first_token_s, side="right") - 1
    has_step = (step >= 0) & np.isfinite(first_token_s)
    admitted: NDArray[np.float64] = np.where(has_step, steps.start_s[step], np.nan)
    return admitted


def _column(name: str, values: list[float]) -> NDArray[Any]:
    return np.array(values, np.float64 if name in FLOAT_COLUMNS else np.int64)
