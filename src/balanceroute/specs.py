"""Names with settings as a user writes them: looked up, read, and errors that name the cure."""

from __future__ import annotations

import contextlib
import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from balanceroute.errors import ConfigError


def unknown(kind: str, got: str, known: Iterable[str], *, owner: str = "") -> str:
    """Say that a name is not known, which known one is nearest, and which there are.

    Parameters
    ----------
    kind : str
        What the name was meant for.
    got : str
        The name.
    known : iterable of str
        All that would have done.
    owner : str
        Whose setting it is; empty for a name of its own.

    Returns
    -------
    str
        A message for a `ConfigError`.

    Examples
    --------
    >>> unknown("policy", "br_1", ["vllm", "br_0"])
    "unknown policy 'br_1'; did you mean 'br_0'? Known: vllm, br_0"
    >>> unknown("setting", "seed", [], owner="policy fcfs")
    "unknown setting 'seed' for policy fcfs. Known: none (it takes no settings)"
    """
    known = list(known)
    where = f" for {owner}" if owner else ""
    nearest = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return f"unknown {kind} {got!r}{where}{hint} Known: " + (
        ", ".join(known) or "none (it takes no settings)"
    )


def read_settings(owner: str, settings: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the values of settings ``key=value`` as they were written.

    Raises
    ------
    ConfigError
        For a setting that is not known, has no value, or is given twice.

    Examples
    --------
    >>> read_settings("policy br_0", ["r_max=8", " window = 64 "], ["r_max", "window"])
    {'r_max': '8', 'window': '64'}
    """
    known = list(known)
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or key not in known:
            raise ConfigError(unknown("setting", key, known, owner=owner))
        if key in texts:
            raise ConfigError(f"{owner}: setting {key!r} is given twice")
        texts[key] = text
    return texts


def parse_setting(owner: str, key: str, text: str, hint: Any) -> Any:
    """Read a setting as the type that its constructor asks for.

    Parameters
    ----------
    owner, key : str
        Whose setting it is, and its name.
    text : str
        As it was written; ``none`` where None is allowed.
    hint : type
        The parameter's annotation: bool, int, float, str, a `Literal` (whose choices the
        constructor checks), or a union of such types and None.

    Raises
    ------
    ConfigError
        If the text is of none of the types.

    Examples
    --------
    >>> parse_setting("policy br_0", "r_max", "8", int)
    8
    >>> parse_setting("policy br_h", "gamma", "auto", float | typing.Literal["auto"])
    'auto'
    >>> parse_setting("policy br_0", "r_max", "many", int)
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: policy br_0: setting r_max must be of type int, got 'many'
    """
    if typing.get_origin(hint) is typing.Literal:
        return text
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if is_union else (hint,)
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _read(text, kind)
    allowed = " or ".join(_name(kind) for kind in kinds)
    raise ConfigError(f"{owner}: setting {key} must be of type {allowed}, got {text!r}")


def _read(text: str, kind: Any) -> Any:
    """Return the text as a value of this kind, or raise `ValueError`."""
    if kind in (int, float, str):
        return kind(text)
    if typing.get_origin(kind) is typing.Literal and text in typing.get_args(kind):
        return text
    words: dict[Any, dict[str, Any]] = {
        bool: {"true": True, "false": False},
        types.NoneType: {"none": None},
    }
    known = words.get(kind, {})
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _name(kind: Any) -> str:
    """Name a kind in a message."""
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return "none" if kind is types.NoneType else getattr(kind, "__name__", str(kind))
