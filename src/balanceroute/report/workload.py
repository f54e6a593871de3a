"""The requests of a run as result documents describe them."""

from __future__ import annotations

from typing import Literal

import msgspec

from balanceroute.types import Workload
from balanceroute.workload import fingerprint


class WorkloadInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of a run.

    Attributes
    ----------
    name : str
        Preset or file name.
    num_requests : int
        Requests given to the simulator or the load generator.
    num_source_requests : int or None
        Requests in the file; None for a preset, which is drawn and has no end.
    sampling : str
        ``"file_order"``, ``"with_replacement"`` or ``"preset"``.
    fingerprint : str
        Hash of the lengths and arrivals, to tell whether two results used the same requests.
    prompt_tokens_mean, output_tokens_mean : float
        Mean lengths.
    notes : tuple of str
        What the reader left out or changed, with counts.
    """

    name: str
    num_requests: int
    num_source_requests: int | None
    sampling: Literal["file_order", "with_replacement", "preset"]
    fingerprint: str
    prompt_tokens_mean: float
    output_tokens_mean: float
    notes: tuple[str, ...] = ()


def workload_info(workload: Workload, num_source_requests: int | None) -> WorkloadInfo:
    """Return requests as they stand in a result, of a file with so many; None for a preset."""
    sampling: Literal["preset", "with_replacement", "file_order"]
    if num_source_requests is None:
        sampling = "preset"
    elif workload.num_requests > num_source_requests:
        sampling = "with_replacement"
    else:
        sampling = "file_order"
    return WorkloadInfo(
        name=workload.name,
        num_requests=workload.num_requests,
        num_source_requests=num_source_requests,
        sampling=sampling,
        fingerprint=fingerprint(workload),
        prompt_tokens_mean=float(workload.prompt_tokens.mean()),
        output_tokens_mean=float(workload.output_tokens.mean()),
        notes=workload.notes,
    )
