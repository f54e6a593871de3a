"""Figures of a run, from its records alone; `docs/metrics.md` defines each of them."""

from balanceroute.metrics.compare import PolicyFigures, Spread, compare, figure
from balanceroute.metrics.energy import EnergyModel
from balanceroute.metrics.figures import BalanceMeans, DecisionTimes, Distribution, Metrics
from balanceroute.metrics.requests import tpot_values, ttft_values, wait_values
from balanceroute.metrics.summary import summarize

__all__ = [
    "BalanceMeans",
    "DecisionTimes",
    "Distribution",
    "EnergyModel",
    "Metrics",
    "PolicyFigures",
    "Spread",
    "compare",
    "figure",
    "summarize",
    "tpot_values",
    "ttft_values",
    "wait_values",
]
