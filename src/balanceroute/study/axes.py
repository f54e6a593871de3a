"""What a study can vary: settings of the group, and settings of policies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from balanceroute.errors import ConfigError
from balanceroute.policies.registry import find_policy
from balanceroute.specs import unknown


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The group and the requests of one run, as far as a study varies them.

    Attributes
    ----------
    ranks, slots : int
        G and B.
    pool : int or None
        Requests that wait, saturated; None for 4 G.
    staleness : float
        Seconds between two looks at the ranks.
    rate : float or None
        Requests per second; None: saturated.
    burst : int
        Requests that arrive at once; needs a rate.
    """

    ranks: int = 16
    slots: int = 72
    pool: int | None = None
    staleness: float = 0.0
    rate: float | None = None
    burst: int = 1


#: Axes of the group, by the names of `Setup`'s fields, and the type of their values.
GROUP_AXES: Mapping[str, type] = {
    "ranks": int,
    "slots": int,
    "pool": int,
    "staleness": float,
    "rate": float,
    "burst": int,
}

#: Axes of policies: the constructor's argument that each of them sets.
POLICY_AXES: Mapping[str, str] = {
    "horizon": "horizon",
    "gamma": "gamma",
    "beta": "beta",
    "window": "window",
    "auc": "classifier",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A setting to vary.

    Attributes
    ----------
    name : str
        A key of `GROUP_AXES` or `POLICY_AXES`.
    values : tuple of str
        As the user wrote them; at least one, each once.
    """

    name: str
    values: tuple[str, ...]

    @property
    def is_of_policy(self) -> bool:
        """Tell whether the axis is a setting of policies."""
        return self.name in POLICY_AXES


def parse_axis(text: str) -> Axis:
    """Read ``NAME=VALUE,VALUE,…``.

    Examples
    --------
    >>> parse_axis("ranks=4,8")
    Axis(name='ranks', values=('4', '8'))
    >>> parse_axis("rank=4,8")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: unknown axis 'rank'; did you mean 'ranks'? Known: ranks, slots,
    pool, staleness, rate, burst, horizon, gamma, beta, window, auc
    """
    name, _, listed = text.partition("=")
    name = name.strip()
    known = (*GROUP_AXES, *POLICY_AXES)
    if name not in known:
        raise ConfigError(unknown("axis", name, known))
    values = tuple(part.strip() for part in listed.split(","))
    if not all(values):
        raise ConfigError(f"--vary {text!r} must list values, as in {name}=4,8,16")
    if len(set(values)) < len(values):
        raise ConfigError(f"--vary {text!r} names a value twice")
    axis = Axis(name=name, values=values)
    if not axis.is_of_policy:
        for value in values:
            _number(name, value)
    return axis


def _number(name: str, value: str) -> int | float:
    try:
        number: int | float = GROUP_AXES[name](value)
    except ValueError:
        kind = GROUP_AXES[name].__name__
        raise ConfigError(f"--vary {name} takes values of type {kind}, got {value!r}") from None
    return number


def takes(policy: str, axis: Axis) -> bool:
    """Tell whether a policy has the setting that an axis varies.

    Examples
    --------
    >>> takes("br_h", parse_axis("horizon=8")), takes("br_0", parse_axis("horizon=8"))
    (True, False)
    """
    constructor = find_policy(policy.partition(",")[0].strip())
    return POLICY_AXES[axis.name] in inspect.signature(constructor).parameters


def with_setting(policy: str, axis: Axis, value: str) -> str:
    """Return a policy's specification with one setting of an axis.

    Examples
    --------
    >>> with_setting("br_h", parse_axis("auc=0.8,1"), "0.8")
    'br_h,classifier=noisy_oracle:auc=0.8'
    >>> with_setting("br_h", parse_axis("auc=0.8,1"), "1")
    'br_h,classifier=oracle'
    """
    if axis.name != "auc":
        return f"{policy},{POLICY_AXES[axis.name]}={value}"
    is_perfect = value in ("1", "1.0")
    return f"{policy},classifier=" + ("oracle" if is_perfect else f"noisy_oracle:auc={value}")


def with_value(setup: Setup, axis: Axis, value: str) -> Setup:
    """Return a setup with one value of an axis of the group.

    Examples
    --------
    >>> with_value(Setup(), parse_axis("slots=16"), "16").slots
    16
    """
    return msgspec.structs.replace(setup, **{axis.name: _number(axis.name, value)})
