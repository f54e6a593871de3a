"""A workload from what the user typed: a preset's name or a file."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.types import Workload
from balanceroute.workload.presets import PRESETS, draw_preset
from balanceroute.workload.reader import read_trace
from balanceroute.workload.text import Progress

DEFAULT_PRESET_REQUESTS = 20_000


def load(
    source: str,
    *,
    format_name: str | None = None,
    num_requests: int | None = None,
    seed: int = 0,
    sort: bool = False,
    with_arrivals: bool = True,
    on_progress: Progress | None = None,
) -> Workload:
    """Return the workload that a preset's name or a file's path stands for.

    A preset's name wins over a file of the same name; write ``./NAME`` for the file.

    Parameters
    ----------
    source : str
        A key of `PRESETS`, or the path of a trace file.
    format_name : str or None
        For files: a name of `formats.FORMATS`; None detects it.
    num_requests : int or None
        At least 1. Of a file that has them, the first so many; more than a file has are drawn from
        it with replacement. None takes the whole file, or 20,000 requests of a preset.
    seed : int
        At least 0; of every draw.
    sort : bool
        For files: allow rows out of order and sort them.
    with_arrivals : bool
        For presets: draw arrival times; the lengths are the same either way.
    on_progress : callable or None
        For files: called with the part that has been read, in [0, 1].

    Returns
    -------
    Workload
        At least one request.

    Raises
    ------
    ConfigError
        If there is neither a preset nor a file of that name, or a number is out of range.
    TraceError
        If the file cannot be read.

    Examples
    --------
    >>> load("mooncake-conversation", num_requests=2).num_requests
    2
    >>> load("azure-2024-cnov")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: no preset or file is called 'azure-2024-cnov'; did you mean
    'azure-2024-conv'? `balanceroute trace list` shows the presets
    """
    if num_requests is not None and num_requests < 1:
        raise ConfigError(f"number of requests must be at least 1, got {num_requests}")
    if source in PRESETS:
        return draw_preset(
            source,
            num_requests=num_requests or DEFAULT_PRESET_REQUESTS,
            seed=seed,
            with_arrivals=with_arrivals,
        )
    if not Path(source).exists():
        raise _unknown(source)
    workload = read_trace(source, format_name=format_name, sort=sort, on_progress=on_progress)
    return workload if num_requests is None else resize(workload, num_requests, seed=seed)


def resize(workload: Workload, num_requests: int, *, seed: int) -> Workload:
    """Return the first requests of a workload, or more than it has, drawn with replacement."""
    if num_requests <= workload.num_requests:
        return head(workload, num_requests)
    return draw(workload, num_requests=num_requests, seed=seed)


def head(workload: Workload, num_requests: int) -> Workload:
    """Return the first requests of a workload, all of them if it has no more."""
    return workload.select(slice(num_requests))


def draw(workload: Workload, *, num_requests: int, seed: int) -> Workload:
    """Draw whole requests from a workload with replacement.

    What is known of a request stays together, but for its arrival time, which is dropped.

    Parameters
    ----------
    workload : Workload
        Requests to draw from.
    num_requests : int
        N, at least 1.
    seed : int
        At least 0; the same seed gives the same draw.

    Returns
    -------
    Workload
        With `arrival_s` None and a note on the draw.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> pair = Workload(
    ...     name="pair", prompt_tokens=np.array([1, 2]), output_tokens=np.array([10, 20])
    ... )
    >>> drawn = draw(pair, num_requests=4, seed=0)
    >>> drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist()
    ([2, 2, 2, 1], [20, 20, 20, 10])
    """
    if num_requests < 1:
        raise ConfigError(f"number of requests must be at least 1, got {num_requests}")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}")
    rng = np.random.default_rng(seed)
    rows = rng.integers(workload.num_requests, size=num_requests, dtype=np.int32)
    note = f"{num_requests:,} requests drawn with replacement with seed {seed}."
    return replace(workload, arrival_s=None, notes=(*workload.notes, note)).select(rows)


def fingerprint(workload: Workload) -> str:
    """Return 16 hexadecimal digits that identify the requests, whatever their source.

    They depend on lengths and arrivals and, where there are such columns, on clients, output
    limits, prompt hashes and cached tokens, since a policy may go by those.

    Examples
    --------
    >>> lengths = np.array([1, 2], np.int32)
    >>> fingerprint(Workload(name="any", prompt_tokens=lengths, output_tokens=lengths))
    'd5a3d1cc479c2df1'
    """
    digest = hashlib.sha256()
    for values in (workload.prompt_tokens, workload.output_tokens, workload.arrival_s):
        digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    for name in ("client_ids", "max_tokens", "prompt_hashes", "cached_tokens"):
        if name in workload.columns:
            digest.update(name.encode() + np.ascontiguousarray(workload.columns[name]).tobytes())
    return digest.hexdigest()[:16]


def _unknown(source: str) -> ConfigError:
    path = Path(source)
    files = {file.name: str(file) for file in path.parent.iterdir()} if path.parent.is_dir() else {}
    known = files | {name: name for name in PRESETS}
    near = [known[name] for name in difflib.get_close_matches(path.name, known, n=1)]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(
        f"no preset or file is called {source!r}; {hint}`balanceroute trace list` shows the presets"
    )
