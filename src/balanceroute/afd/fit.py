"""Lines through measured times, and profiles from a user's table of measurements."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balanceroute.afd.profile import (
    AttentionCost,
    DeviceProfile,
    FfnCost,
    FitQuality,
    NetworkCost,
)
from balanceroute.errors import ConfigError, TraceError

STAGES = ("attention", "ffn", "network")
COLUMNS = ("stage", "requests", "tokens", "time_ms")
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Times of one stage.

    Attributes
    ----------
    requests, tokens : float64 array, shape (K,)
        Requests of the batch and, for attention, KV tokens they hold together; tokens are 0 for
        other stages.
    time_s : float64 array, shape (K,)
        Measured, above 0.
    source : str
        Where they come from.
    """

    requests: Float64Array
    tokens: Float64Array
    time_s: Float64Array
    source: str


def fit_attention(
    measured: Measurements, *, num_devices: int = 1, kv_tokens: int | None = None
) -> AttentionCost:
    """Fit ``constant + s_per_request·n + s_per_token·T``; see `fit_line`."""
    columns = [measured.tokens, measured.requests]
    (per_token, per_request, constant), fit = fit_line("attention", columns, measured)
    return AttentionCost(
        s_per_token=per_token,
        s_per_request=per_request,
        constant_s=constant,
        num_devices=num_devices,
        kv_tokens=kv_tokens,
        fit=fit,
    )


def fit_ffn(measured: Measurements, *, num_devices: int = 1) -> FfnCost:
    """Fit ``constant + s_per_request·n``; see `fit_line`."""
    (per_request, constant), fit = fit_line("ffn", [measured.requests], measured)
    return FfnCost(s_per_request=per_request, constant_s=constant, num_devices=num_devices, fit=fit)


def fit_network(measured: Measurements) -> NetworkCost:
    """Fit ``constant + s_per_request·n``; see `fit_line`."""
    (per_request, constant), fit = fit_line("network", [measured.requests], measured)
    return NetworkCost(s_per_request=per_request, constant_s=constant, fit=fit)


def fit_line(
    stage: str, columns: Sequence[Float64Array], measured: Measurements
) -> tuple[list[float], FitQuality]:
    """Fit times by slopes and a constant, with least squares of the relative errors.

    A constant or a second slope that would be negative is left out and is 0: both are costs that
    some kernels do not have. The first slope has to be positive.

    Parameters
    ----------
    stage : str
        For messages.
    columns : sequence of float64 arrays, shape (K,)
        What the times are to grow with.
    measured : Measurements
        The times.

    Returns
    -------
    list of float
        The slopes in order, then the constant; seconds.
    FitQuality

    Raises
    ------
    ConfigError
        If there are too few different measurements, or times fall with the first column.

    Examples
    --------
    >>> n = np.array([100.0, 200.0, 400.0])
    >>> measured = Measurements(requests=n, tokens=0 * n, time_s=1e-3 + 2e-6 * n, source="here")
    >>> (slope, constant), fit = fit_line("ffn", [n], measured)
    >>> round(slope, 9), round(constant, 9), round(fit.max_error_ratio, 9)
    (2e-06, 0.001, 0.0)
    """
    terms = [*columns, np.ones(len(measured.time_s))]
    if np.ptp(columns[0]) == 0 or len(measured.time_s) < len(terms):
        raise ConfigError(
            f"{stage}: {len(measured.time_s)} measurements at {len(np.unique(columns[0]))} "
            f"different sizes do not give a line; measure at least {len(terms)}, over a range "
            "of sizes"
        )
    used = [
        place for place, term in enumerate(terms) if place != 1 or np.ptp(term) or len(terms) < 3
    ]
    values = _solve(terms, used, measured.time_s)
    while min(values[1:]) < 0:
        used = [place for place in used if values[place] >= 0 or place == 0]
        values = _solve(terms, used, measured.time_s)
    if values[0] <= 0:
        raise ConfigError(
            f"{stage}: the times fall or stay as the size grows (slope {values[0]:.3g} s); "
            "no line that grows fits them, so measure larger sizes, or check the columns"
        )
    values = [float(f"{value:.6g}") for value in values]
    predicted = sum(value * term for value, term in zip(values, terms, strict=True))
    errors = np.abs(predicted - measured.time_s) / measured.time_s
    return values, FitQuality(
        num_points=len(errors),
        median_error_ratio=_rounded(np.median(errors)),
        p90_error_ratio=_rounded(np.quantile(errors, 0.9)),
        max_error_ratio=_rounded(errors.max()),
        source=measured.source,
    )


def read_measurements(path: Path) -> dict[str, Measurements]:
    """Read a CSV file with the columns ``stage,requests,tokens,time_ms``, by stage.

    `stage` is attention, ffn or network; `tokens` may be empty but for attention. Times are of a
    whole decode step, all layers.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise TraceError(
                    f"{path} lacks the column{'s' * (len(missing) > 1)} "
                    f"{', '.join(sorted(missing))}; its header must have {','.join(COLUMNS)}"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                rows.setdefault(_stage(row, where), []).append(_numbers(row, where))
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    columns = {stage: np.array(found).T for stage, found in rows.items()}
    return {
        stage: Measurements(
            requests=requests, tokens=tokens, time_s=time_ms / 1000, source=path.name
        )
        for stage, (requests, tokens, time_ms) in columns.items()
    }


def profile_of_measurements(
    measured: dict[str, Measurements],
    *,
    model: str,
    device: str,
    attention_devices: int = 1,
    ffn_devices: int = 1,
    kv_tokens: int | None = None,
) -> DeviceProfile:
    """Fit a profile to measurements by stage; without network measurements the network is free."""
    for stage in ("attention", "ffn"):
        if stage not in measured:
            raise ConfigError(
                f"there are no measurements of {stage}; a profile needs attention and ffn, and "
                "network unless it costs nothing"
            )
    has_network = "network" in measured
    return DeviceProfile(
        model=model,
        device=device,
        attention=fit_attention(
            measured["attention"], num_devices=attention_devices, kv_tokens=kv_tokens
        ),
        ffn=fit_ffn(measured["ffn"], num_devices=ffn_devices),
        network=fit_network(measured["network"]) if has_network else NetworkCost(),
        notes=() if has_network else ("The network was not measured and costs nothing.",),
    )


def _solve(terms: Sequence[Float64Array], used: Sequence[int], time_s: Float64Array) -> list[float]:
    matrix = np.stack([terms[place] / time_s for place in used], axis=1)
    scale = np.abs(matrix).max(axis=0)
    solution = np.linalg.lstsq(matrix / scale, np.ones(len(time_s)), rcond=None)[0] / scale
    values = [0.0] * len(terms)
    for place, value in zip(used, solution, strict=True):
        values[place] = float(value)
    return values


def _stage(row: dict[str, str], where: str) -> str:
    stage = (row["stage"] or "").strip()
    if stage not in STAGES:
        raise TraceError(f"{where}: stage must be one of {', '.join(STAGES)}, got {stage!r}")
    return stage


def _numbers(row: dict[str, str], where: str) -> tuple[float, float, float]:
    numbers = []
    for name in COLUMNS[1:]:
        text = (row[name] or "").strip()
        is_needed = name != "tokens" or row["stage"].strip() == "attention"
        try:
            number = float(text or ("" if is_needed else "0"))
        except ValueError:
            number = math.nan
        least = 0.0 if name == "tokens" else math.ulp(0.0)
        if not (math.isfinite(number) and number >= least):
            bound = "at least 0" if name == "tokens" else "above 0"
            raise TraceError(f"{where}: {name} must be a number {bound}, got {text!r}")
        numbers.append(number)
    return numbers[0], numbers[1], numbers[2]


def _rounded(value: np.floating) -> float:
    return round(float(value), 4)
