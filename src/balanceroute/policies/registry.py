"""Policies by name: ours, those of installed packages, and those in a file.

A new policy of ours is one file beside this one and one line in `BUILT_IN`. Anybody else's is a
class with a `plan` method, announced under the entry-point group ``balanceroute.policies`` or
named as ``path/to/file.py:ClassName``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.policies.base import Policy
from balanceroute.specs import parse_setting, read_settings, unknown

ENTRY_POINT_GROUP = "balanceroute.policies"

BUILT_IN = {
    "random": "classic:Random",
    "round_robin": "classic:RoundRobin",
    "power_of_two": "classic:PowerOfTwo",
    "least_requests": "classic:LeastRequests",
    "least_tokens": "classic:LeastTokens",
    "fcfs": "classic:Fcfs",
    "vllm": "engines:Vllm",
    "vllm_4w_r": "engines:Vllm4wR",
    "vllm_rust": "engines:VllmRust",
    "trtllm_adp": "engines:TrtllmAdp",
    "smg_least_load": "engines:SmgLeastLoad",
    "br_0": "balance_route:Br0",
    "br_h": "look_ahead:BrH",
    "br_auto": "auto:BrAuto",
    "br_wave": "wave:BrWave",
    "br_fleet": "fleet:BrFleet",
    "bf_io": "bf_io:BfIo",
}


GIVEN = ("rng", "output_tokens")  # arguments that come from the caller, not from the user


def policy_names() -> list[str]:
    """Return the names of all policies, ours first.

    Examples
    --------
    >>> policy_names()[:2]
    ['random', 'round_robin']
    """
    installed = sorted(point.name for point in entry_points(group=ENTRY_POINT_GROUP))
    return [*BUILT_IN, *(name for name in installed if name not in BUILT_IN)]


def make_policy(
    spec: str,
    *,
    rng: np.random.Generator,
    output_tokens: NDArray[np.integer[Any]] | None = None,
) -> Policy:
    """Build a policy from ``NAME[,key=value…]``.

    Parameters
    ----------
    spec : str
        A registered name or ``file.py:ClassName``, and settings of the policy's constructor.
    rng : numpy.random.Generator
        Given to policies whose constructor has a parameter ``rng``.
    output_tokens : integer array, shape (N,), or None
        Output lengths by request id, where they are known: given to policies whose constructor has
        a parameter ``output_tokens``, for their oracles.

    Returns
    -------
    Policy
        A fresh one; policies may keep state from plan to plan.

    Raises
    ------
    ConfigError
        For an unknown name or setting (with the nearest known one), or a value of the wrong kind.

    Examples
    --------
    >>> policy = make_policy("br_0,select_by=margin", rng=np.random.default_rng(0))
    >>> policy.binding
    'pooled'
    """
    name, *settings = spec.split(",")
    factory = find_policy(name.strip())
    parameters = _settings(factory)
    hints = typing.get_type_hints(factory.__init__)
    owner = f"policy {name.strip()}"
    texts = read_settings(owner, settings, (key for key in parameters if key not in GIVEN))
    arguments = {
        key: parse_setting(owner, key, text, hints.get(key, str)) for key, text in texts.items()
    }
    given = {"rng": rng, "output_tokens": output_tokens}
    arguments |= {key: given[key] for key in GIVEN if key in parameters}
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise ConfigError(f"{owner}: setting {key!r} is required")
    try:
        policy: Policy = factory(**arguments)
    except (ConfigError, ValueError) as error:  # ValueError: what other people's policies raise
        raise ConfigError(f"{owner}: {error}") from error
    return policy


def _settings(factory: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the constructor's named parameters."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(factory).parameters
    return {key: parameter for key, parameter in parameters.items() if parameter.kind in named}


def find_policy(name: str) -> type[Any]:
    """Return the class of a policy by its name or as ``path/to/file.py:ClassName``."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        found: type[Any] = getattr(
            importlib.import_module(f"balanceroute.policies.{module}"), attribute
        )
        return found
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), attribute)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _require_policy(f"policy {name}", _load(f"policy {name}", point.load))
    raise ConfigError(unknown("policy", name, policy_names()))


def _from_file(path: Path, attribute: str) -> type[Any]:
    where = f"policy file {path}"
    module_name = f"balanceroute_policy_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{where} does not exist")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by name
    _load(where, functools.partial(spec.loader.exec_module, module))
    if not hasattr(module, attribute):
        raise ConfigError(f"{where} defines no {attribute!r}")
    return _require_policy(f"{where}: {attribute}", getattr(module, attribute))


def _load(where: str, load: Callable[[], Any]) -> Any:
    """Run code that is not ours and say where it failed, however it did."""
    try:
        return load()
    except Exception as error:
        raise ConfigError(f"{where} cannot be loaded: {error!r}") from error


def _require_policy(where: str, found: Any) -> type[Any]:
    for member in ("plan", "binding"):
        if not (inspect.isclass(found) and hasattr(found, member)):
            raise ConfigError(f"{where} is not a policy: it must be a class with {member!r}")
    policy_class: type[Any] = found
    return policy_class
