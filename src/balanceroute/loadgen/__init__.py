"""A load generator: replays a workload against an OpenAI-compatible server and keeps records.

The records are those that the simulator writes, so the same code makes figures of both.
"""

from balanceroute.loadgen.config import LoadConfig
from balanceroute.loadgen.plan import read_requests
from balanceroute.loadgen.recorder import Failure, Measurement
from balanceroute.loadgen.run import Snapshot, replay
from balanceroute.records import load_records, save_records

__all__ = [
    "Failure",
    "LoadConfig",
    "Measurement",
    "Snapshot",
    "load_records",
    "read_requests",
    "replay",
    "save_records",
]
