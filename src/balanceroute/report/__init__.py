"""The result of a simulation as JSON, as a table for the terminal and as a web page.

`balanceroute.report.html` is not imported here: it needs the extra ``balanceroute[report]``.
"""

from balanceroute.report.result import (
    SCHEMA,
    GroupInfo,
    RunResult,
    SimulationResult,
    StepTimeInfo,
    from_json,
    to_json,
)
from balanceroute.report.table import render_table
from balanceroute.report.verdict import Verdict, judge
from balanceroute.report.workload import WorkloadInfo

__all__ = [
    "SCHEMA",
    "GroupInfo",
    "RunResult",
    "SimulationResult",
    "StepTimeInfo",
    "Verdict",
    "WorkloadInfo",
    "from_json",
    "judge",
    "render_table",
    "to_json",
]
