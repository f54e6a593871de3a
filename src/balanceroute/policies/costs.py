"""Where a policy knows from what a step costs."""

from __future__ import annotations

import math

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.sight import with_all
from balanceroute.cluster.view import GroupView
from balanceroute.errors import ConfigError
from balanceroute.policies.cost_learner import CostLearner

AUTO, LEARNED = "auto", "learned"
COSTS_FORMAT = "C:TL:KAPPA0:TP:BUDGET[:SIGMA[:M]]"
COSTS_EXAMPLE = "0.02:2.2e-8:1900:1e-5:2048"
MAX_BUDGET_TOKENS = 1_000_000_000_000


class CostSource:
    """What a step costs: as the group says, as an operator says, or as its steps show.

    Parameters
    ----------
    setting : str
        ``auto``, ``learned``, or figures as `parse_costs` reads them.
    """

    def __init__(self, setting: str = AUTO) -> None:
        self._given = None if setting in (AUTO, LEARNED) else parse_costs(setting)
        self._learner = CostLearner()
        self._always_learns = setting == LEARNED

    def of(self, view: GroupView) -> StepCosts | None:
        """Return the costs as of a view, to be called at every plan; None while unknown."""
        if self._given is not None:
            return self._given
        if view.costs is not None and not self._always_learns:
            return view.costs
        if view.entries is None:  # nothing to learn from
            return None
        self._learner.see(with_all(view))
        return self._learner.costs


def parse_costs(text: str) -> StepCosts:
    """Read what a step costs from ``C:TL:KAPPA0:TP:BUDGET[:SIGMA[:M]]``.

    Separated by colons, so that it can be the value of a policy's setting.

    Parameters
    ----------
    text : str
        The attributes of `StepCosts`, in the order and units there, BUDGET before SIGMA and M.

    Raises
    ------
    ConfigError
        For another number of values, or one that is no number or out of range.

    Examples
    --------
    >>> parse_costs("0.02:2.2e-8:1900:1e-5:2048:0.5")
    StepCosts(constant_s=0.02, s_per_token=2.2e-08, kappa0_tokens=1900.0, prefill_s_per_token=1e-05,
    prefill_shared=0.5, mixed_step_s=0.0, budget_tokens=2048, has_barrier=True, num_samples=None)
    >>> parse_costs("0.02:2.2e-8")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: costs must be C:TL:KAPPA0:TP:BUDGET[:SIGMA[:M]], in seconds and
    tokens, got '0.02:2.2e-8'; write for example 0.02:2.2e-8:1900:1e-5:2048
    """
    parts = text.split(":")
    if not 5 <= len(parts) <= 7:
        raise ConfigError(
            f"costs must be {COSTS_FORMAT}, in seconds and tokens, got {text!r}; "
            f"write for example {COSTS_EXAMPLE}"
        )
    constant_s, s_per_token, kappa0_tokens, prefill_s_per_token = (
        _number(name, part, 0.0, math.inf)
        for name, part in zip(("C", "TL", "KAPPA0", "TP"), parts, strict=False)
    )
    if constant_s == 0.0 and s_per_token == 0.0:
        raise ConfigError(f"costs: C and TL cannot both be 0, got {text!r}; set C to a step's time")
    budget_tokens = _number("BUDGET", parts[4], 1.0, MAX_BUDGET_TOKENS)
    if budget_tokens != int(budget_tokens):
        raise ConfigError(f"costs: BUDGET must be a whole number of tokens, got {parts[4]!r}")
    return StepCosts(
        constant_s=constant_s,
        s_per_token=s_per_token,
        kappa0_tokens=kappa0_tokens,
        prefill_s_per_token=prefill_s_per_token,
        prefill_shared=_number("SIGMA", parts[5], 0.0, 1.0) if len(parts) > 5 else 0.0,
        mixed_step_s=_number("M", parts[6], 0.0, math.inf) if len(parts) > 6 else 0.0,
        budget_tokens=int(budget_tokens),
    )


def _number(name: str, text: str, least: float, most: float) -> float:
    """Return one of the costs."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and least <= value <= most:
        return value
    allowed = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise ConfigError(
        f"costs: {name} must be a number {allowed}, got {text!r}; the form is {COSTS_FORMAT}"
    )
