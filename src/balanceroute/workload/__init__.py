"""Files and presets to requests, and what they look like.

`load` turns what a user typed into a `Workload`; the other functions are its parts.
"""

from balanceroute.workload.arrivals import poisson_arrivals, renewal_arrivals
from balanceroute.workload.convert import write_trace
from balanceroute.workload.formats import FORMATS, TraceFormat
from balanceroute.workload.presets import PRESETS, Preset, draw_preset
from balanceroute.workload.reader import read_trace
from balanceroute.workload.source import draw, fingerprint, head, load, resize
from balanceroute.workload.stats import TraceStats, trace_stats

__all__ = [
    "FORMATS",
    "PRESETS",
    "Preset",
    "TraceFormat",
    "TraceStats",
    "draw",
    "draw_preset",
    "fingerprint",
    "head",
    "load",
    "poisson_arrivals",
    "read_trace",
    "renewal_arrivals",
    "resize",
    "trace_stats",
    "write_trace",
]
