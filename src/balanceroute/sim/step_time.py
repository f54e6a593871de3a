"""How long a decode step takes: presets, numbers, and what `calibrate` has measured."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from balanceroute.cluster.step_time_file import SUFFIX, read_step_time
from balanceroute.errors import ConfigError

# BF-IO (arXiv 2601.17855), step time of one decode step; `paper` is BalanceRoute's constant.
S_PER_TOKEN = 1.005e-7
PAPER_CONSTANT_S = 9.775e-3
BF_IO_S_PER_SLOT, BF_IO_BASE_S, BF_IO_DIVISOR = 0.6e-3, 35e-3, 16
# DeepSeek-V3's decode attention on H200, fp8, one layer, in milliseconds: a line through measured
# kernel times, t = 0.1503 + 6.84e-4 * sequences + 3.60e-7 * tokens, times 61 layers.
H200_LAYERS, H200_LAYER_S = 61, 0.1503e-3
H200_LAYER_S_PER_SEQUENCE, H200_LAYER_S_PER_TOKEN = 6.84e-7, 3.60e-10

STEP_TIME_PRESETS = ("paper", "bf-io", "h200-deepseek-v3")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """How long a decode step takes: ``C + t_l * max_g (kappa0 * n_g + L_g)``.

    Attributes
    ----------
    name : str
        Preset, or ``"custom"``.
    constant_s : float
        C, seconds, at least 0.
    s_per_token : float
        t_l, seconds per resident token, at least 0.
    kappa0_tokens : float
        Tokens that cost as much as one more running request, at least 0.

    Examples
    --------
    >>> StepTime.parse("paper", num_slots=72).constant_s
    0.009775
    >>> round(StepTime.parse("bf-io", num_slots=72).constant_s, 7)
    0.0048875
    >>> StepTime.parse("0.01,2e-8", num_slots=72).s_per_token
    2e-08
    """

    name: str
    constant_s: float
    s_per_token: float
    kappa0_tokens: float = 0.0

    def __post_init__(self) -> None:
        for field in ("constant_s", "s_per_token", "kappa0_tokens"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"step time: {field} must be a number of at least 0, got {value}")
        if self.constant_s == 0 and self.s_per_token == 0:
            raise ConfigError("step time: the constant and the time per token cannot both be 0")

    @staticmethod
    def parse(text: str, *, num_slots: int) -> StepTime:
        """Read a preset's name, ``C,T[,KAPPA0]`` in s, s and tokens, or what `calibrate` wrote."""
        if text.endswith(SUFFIX):
            found = read_step_time(Path(text))
            names = ("constant_s", "s_per_token", "kappa0_tokens")
            return StepTime(name="measured", **{name: getattr(found, name) for name in names})
        if text == "paper":
            return StepTime(name=text, constant_s=PAPER_CONSTANT_S, s_per_token=S_PER_TOKEN)
        if text == "bf-io":
            constant_s = (BF_IO_S_PER_SLOT * num_slots + BF_IO_BASE_S) / BF_IO_DIVISOR
            return StepTime(name=text, constant_s=constant_s, s_per_token=S_PER_TOKEN)
        if text == "h200-deepseek-v3":
            return StepTime(
                name=text,
                constant_s=H200_LAYERS * H200_LAYER_S,
                s_per_token=H200_LAYERS * H200_LAYER_S_PER_TOKEN,
                kappa0_tokens=H200_LAYER_S_PER_SEQUENCE / H200_LAYER_S_PER_TOKEN,
            )
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3):
            nearest = difflib.get_close_matches(text, STEP_TIME_PRESETS, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(
                f"step time {text!r} is neither a preset ({', '.join(STEP_TIME_PRESETS)}), a .json "
                f"file of calibrate, nor C,T or C,T,KAPPA0 in seconds and tokens{hint}"
            )
        return StepTime(
            name="custom",
            constant_s=numbers[0],
            s_per_token=numbers[1],
            kappa0_tokens=numbers[2] if len(numbers) == 3 else 0.0,
        )
