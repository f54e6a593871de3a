"""How well a classifier tells who ends when, and what that is worth to a policy."""

from balanceroute.report.prediction.result import (
    SCHEMA,
    BinResult,
    ClassifierResult,
    PredictionResult,
)
from balanceroute.report.prediction.run import Examination
from balanceroute.report.prediction.table import render_tables
from balanceroute.report.prediction.verdict import judge

__all__ = [
    "SCHEMA",
    "BinResult",
    "ClassifierResult",
    "Examination",
    "PredictionResult",
    "judge",
    "render_tables",
]
