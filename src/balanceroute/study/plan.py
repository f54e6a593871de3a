"""The cells of a study: which policy runs on which group under which seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from balanceroute import __version__
from balanceroute.errors import ConfigError
from balanceroute.study.axes import Axis, Setup, takes, with_setting, with_value


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes
    ----------
    source : str
        Preset or trace file.
    source_hash : str
        Of the file's content; empty for a preset.
    step_time : str
        As `StepTime.parse` takes it.
    num_requests : int
        The least number of requests; a saturated run gets more where its slots need them.
    policy : str
        With its settings.
    setup : Setup
        The group.
    seed : int
        Of all chance.
    """

    source: str
    source_hash: str
    step_time: str
    num_requests: int
    policy: str
    setup: Setup
    seed: int

    @property
    def key(self) -> str:
        """Return what a result is filed under: equal for equal runs of equal versions."""
        content = msgspec.json.encode([__version__, self], order="deterministic")
        return hashlib.sha256(content).hexdigest()[:20]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A row of a study's table: repeats of one policy at one place of the study.

    Attributes
    ----------
    place : dict of str to str
        Value by axis, of the axes that are varied there.
    policy : str
        As the user wrote it.
    cells : tuple of Cell
        One per seed.
    """

    place: dict[str, str]
    policy: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is run, and how it is laid out.

    Attributes
    ----------
    source, source_hash, step_time, num_requests
        As for `Cell`.
    policies : tuple of str
        Policies to study.
    base : Setup
        The group where nothing is varied.
    axes : tuple of Axis
        Settings to vary.
    is_full : bool
        Every combination of all axes; else one axis at a time, from `base`.
    seed, num_repeats : int
        The first seed, and how many from there on.
    """

    source: str
    source_hash: str
    policies: tuple[str, ...]
    axes: tuple[Axis, ...]
    base: Setup = field(default_factory=Setup)
    step_time: str = "paper"
    num_requests: int = 20_000
    is_full: bool = False
    seed: int = 0
    num_repeats: int = 3

    def __post_init__(self) -> None:
        if not self.policies or len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"policies must be given, each once; got {self.policies}")
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"--vary must be given, each axis once; got {', '.join(names) or 0}")
        if self.num_repeats < 1 or self.num_requests < 1 or self.seed < 0:
            raise ConfigError(
                "--repeats and --requests must be at least 1 and --seed at least 0, got "
                f"{self.num_repeats}, {self.num_requests} and {self.seed}"
            )
        for axis in self.axes:
            if axis.is_of_policy and not any(takes(policy, axis) for policy in self.policies):
                raise ConfigError(
                    f"--vary {axis.name}: none of {', '.join(self.policies)} has that setting"
                )

    def points(self) -> list[Point]:
        """Return the rows of the table, in its order."""
        return [
            self._point(place, policy)
            for place in self._places()
            for policy in self.policies
            if all(takes(policy, axis) for axis in place if axis.is_of_policy)
        ]

    def cells(self) -> list[Cell]:
        """Return every run once, however many rows it stands in."""
        return list({cell.key: cell for point in self.points() for cell in point.cells}.values())

    def _places(self) -> Iterator[dict[Axis, str]]:
        if self.is_full:
            for values in itertools.product(*(axis.values for axis in self.axes)):
                yield dict(zip(self.axes, values, strict=True))
            return
        for axis in self.axes:
            for value in axis.values:
                yield {axis: value}

    def _point(self, place: dict[Axis, str], policy: str) -> Point:
        setup, spec = self.base, policy
        for axis, value in place.items():
            if axis.is_of_policy:
                spec = with_setting(spec, axis, value)
            else:
                setup = with_value(setup, axis, value)
        cells = tuple(
            Cell(
                source=self.source,
                source_hash=self.source_hash,
                step_time=self.step_time,
                num_requests=self.num_requests,
                policy=spec,
                setup=setup,
                seed=seed,
            )
            for seed in range(self.seed, self.seed + self.num_repeats)
        )
        return Point(
            place={axis.name: value for axis, value in place.items()}, policy=policy, cells=cells
        )
