"""Step times that were measured, in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from balanceroute.errors import ConfigError
from balanceroute.files import indented_json, write_atomically

SUFFIX = ".json"
AtLeast0 = Annotated[float, Meta(ge=0.0)]


class StepTimeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step of an engine takes, as `balanceroute calibrate` found it.

    Attributes
    ----------
    source, date : str
        What was measured, and when.
    constant_s, s_per_token, kappa0_tokens : float
        C, t_l and kappa0 of ``C + t_l * (kappa0 * n + L)``, n requests and L tokens on the slowest
        rank.
    prefill_s_per_token : float
        t_p: what a prompt token takes where all ranks compute one at a time each, seconds.
    prefill_shared : float
        sigma, in [0, 1]: the part of it that falls to all ranks together, so that a prompt on one
        of them takes less time than one on each.
    mixed_step_s : float
        m: what a step takes longer that computes any prompt tokens at all, seconds. This and sigma
        are 0 in files of releases that did not measure them.
    median_error_ratio, largest_error_ratio : float
        Of the fitted step time against the measured ones, as fractions of these.
    num_samples : int
        Measured step times, each the mean over many steps.
    """

    source: str
    date: str
    constant_s: AtLeast0
    s_per_token: AtLeast0
    kappa0_tokens: AtLeast0
    prefill_s_per_token: AtLeast0
    median_error_ratio: AtLeast0
    largest_error_ratio: AtLeast0
    num_samples: Annotated[int, Meta(ge=1)]
    prefill_shared: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    mixed_step_s: AtLeast0 = 0.0


def write_step_time(path: Path, step_time: StepTimeFile) -> None:
    """Write a step time where `read_step_time` finds it."""
    write_atomically(path, indented_json(step_time))


def read_step_time(path: Path) -> StepTimeFile:
    """Read what `write_step_time` has written.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds something else.

    Examples
    --------
    >>> read_step_time(Path("nowhere.json"))
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: step time: cannot read nowhere.json: No such file or directory;
    `balanceroute calibrate` writes such files
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=StepTimeFile)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"step time: cannot read {path}: {reason}; `balanceroute calibrate` writes such files"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"step time: {path} is no step-time file: {error}") from error
