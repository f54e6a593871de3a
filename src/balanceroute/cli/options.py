"""Options that several commands have, described once."""

from __future__ import annotations

from typing import Annotated

from balanceroute.cli.simulate import option

StepTimeText = Annotated[
    str, option("paper, bf-io, h200-deepseek-v3, or C,T[,KAPPA0] in s, s/token, tokens.")
]
PrefillBudget = Annotated[
    int | None, option("Tokens per rank and step where ranks prefill too; else decode-only.")
]
PrefillTime = Annotated[float, option("Seconds per prompt token computed.")]
