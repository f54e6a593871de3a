"""Which columns of one trace file mean what: detection of its format.

Column names are compared without case, spaces, underscores and hyphens, so that ``Request tokens``,
``request_tokens`` and ``RequestTokens`` are the same name.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from balanceroute.errors import ConfigError, TraceError
from balanceroute.workload.formats import (
    BLOCK_IDS,
    CACHED,
    CLIENTS,
    FORMATS,
    OUTPUT_LIMITS,
    PROMPT_HASHES,
    REQUEST_IDS,
    TraceFormat,
)

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where one file keeps what, under the file's own column names.

    Attributes
    ----------
    header : tuple of str
        All columns, in file order.
    prompt, output : str
        Columns of tokens.
    arrival, client, max_tokens, prompt_hash, cached, request_id : str or None
        Optional columns.
    block_ids : str or None
        Column of lists that say what is cached, where there is no column that says it itself.
    block_tokens : int
        See `TraceFormat`.
    arrival_unit_s : float
        Seconds per unit of a numeric arrival.
    has_ticks : bool
        See `TraceFormat`.
    is_date, has_zone : bool
        Arrivals are dates, with an offset from UTC.
    base_ns : int
        Nanoseconds from 1970 that are taken off every date, so that a float64 keeps its digits.
    """

    header: tuple[str, ...]
    prompt: str
    output: str
    arrival: str | None
    client: str | None
    max_tokens: str | None
    prompt_hash: str | None
    cached: str | None
    request_id: str | None
    block_ids: str | None
    block_tokens: int
    arrival_unit_s: float
    has_ticks: bool
    is_date: bool = False
    has_zone: bool = False
    base_ns: int = 0

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Return the columns that must hold numbers, other than `prompt_hash`."""
        arrival = None if self.is_date else self.arrival
        numbers = (self.prompt, self.output, arrival, self.client, self.max_tokens, self.cached)
        return tuple(column for column in numbers if column is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are read."""
        date = self.arrival if self.is_date else None
        others = (self.prompt_hash, self.request_id, self.block_ids, date)
        return (*self.number_columns, *(column for column in others if column is not None))


def find_layout(header: Sequence[str], *, format_name: str | None, where: str) -> Layout:
    """Match the columns of a file with a format.

    Parameters
    ----------
    header : sequence of str
        The file's column names.
    format_name : str or None
        A name of `FORMATS`; None detects it.
    where : str
        File and line, for messages.

    Raises
    ------
    ConfigError
        If `format_name` is unknown.
    TraceError
        If a column of tokens is missing or a used column appears twice.

    Examples
    --------
    >>> layout = find_layout(
    ...     ["Timestamp", "Model", "Request tokens", "Response tokens"],
    ...     format_name=None,
    ...     where="log.csv line 1",
    ... )
    >>> layout.prompt, layout.arrival_unit_s
    ('Request tokens', 1.0)
    """
    chosen = _choose_format(header, format_name)
    names = {_key(name): name for name in reversed(header)}
    units = {_key(name): unit for name, unit in chosen.arrivals}
    arrival = _first(names, tuple(name for name, _ in chosen.arrivals))
    if format_name not in (None, "generic") and arrival is None:
        raise _missing("arrival", (chosen.arrivals[0][0],), header, where)
    cached = _first(names, CACHED)
    has_blocks = chosen.block_tokens > 0 and cached is None
    layout = Layout(
        header=tuple(header),
        prompt=_require(names, "prompt tokens", chosen.prompts, header, where),
        output=_require(names, "output tokens", chosen.outputs, header, where),
        arrival=arrival,
        client=_first(names, CLIENTS),
        max_tokens=_first(names, OUTPUT_LIMITS),
        prompt_hash=_first(names, PROMPT_HASHES),
        cached=cached,
        request_id=_first(names, REQUEST_IDS),
        block_ids=_first(names, BLOCK_IDS) if has_blocks else None,
        block_tokens=chosen.block_tokens,
        arrival_unit_s=1.0 if arrival is None else units[_key(arrival)],
        has_ticks=chosen.has_ticks,
    )
    for column in layout.columns:
        if list(header).count(column) > 1:
            raise TraceError(f"{where}: column {column!r} appears twice; rename one of them")
    return layout


def date_base_ns(text: str) -> tuple[bool, int] | None:
    """Return whether a date has a UTC offset and its whole seconds since 1970, or None if no date.

    Examples
    --------
    >>> date_base_ns("2024-05-10 00:00:00.009930+00:00")
    (True, 1715299200000000000)
    >>> date_base_ns("17.5") is None
    True
    """
    if "-" not in text[1:]:  # fromisoformat would take 20240510 for a date
        return None
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    zone = date.tzinfo
    utc = date if zone else date.replace(tzinfo=UTC)
    return zone is not None, int(utc.timestamp()) * NS_PER_S


def _choose_format(header: Sequence[str], format_name: str | None) -> TraceFormat:
    keys = {_key(name) for name in header}
    for known in FORMATS:
        if known.name == format_name:
            return known
        if format_name is None and all(_key(mark) in keys for mark in known.marks):
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise ConfigError(f"unknown trace format {format_name!r}; known are {names}")


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


OPTIONAL = (*CLIENTS, *OUTPUT_LIMITS, *PROMPT_HASHES, *CACHED, *REQUEST_IDS, *BLOCK_IDS)
_KNOWN_KEYS = frozenset(
    _key(name)
    for known in FORMATS
    for name in (*dict(known.arrivals), *known.prompts, *known.outputs)
) | frozenset(_key(name) for name in OPTIONAL)


def _first(names: dict[str, str], accepted: tuple[str, ...]) -> str | None:
    return next((names[_key(name)] for name in accepted if _key(name) in names), None)


def _require(
    names: dict[str, str],
    role: str,
    accepted: tuple[str, ...],
    header: Sequence[str],
    where: str,
) -> str:
    found = _first(names, accepted)
    if found is None:
        raise _missing(role, accepted, header, where)
    return found


def _missing(role: str, accepted: tuple[str, ...], header: Sequence[str], where: str) -> TraceError:
    shown = ", ".join(repr(name[:40]) for name in header[:8])
    if len(header) > 8:
        shown += f" and {len(header) - 8} more"
    cure = f"name it {accepted[0]!r}"
    wanted = {_key(name): name for name in accepted}
    for name in header:
        if _key(name) in _KNOWN_KEYS:  # it has a role of its own
            continue
        near = difflib.get_close_matches(_key(name), wanted, n=1, cutoff=0.75)
        if near:
            cure = f"rename {name!r} to {wanted[near[0]]!r}"
            break
    return TraceError(f"{where}: no column holds the {role} (columns: {shown}); {cure}")
