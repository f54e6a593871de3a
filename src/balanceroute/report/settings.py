"""The settings of a comparison as lines of text."""

from __future__ import annotations

from balanceroute.report.result import GroupInfo, SimulationResult
from balanceroute.report.workload import WorkloadInfo

_ARRIVALS = {
    "trace": "at the times of the trace",
    "poisson": "Poisson",
    "saturated": "as fast as they are served",
}
_SAMPLING = {
    "file_order": "in file order",
    "with_replacement": "drawn from the file with replacement",
    "preset": "drawn from the preset's statistics",
}


def list_settings(result: SimulationResult) -> list[tuple[str, str]]:
    """Return the name and the value of every setting, in the order of the page."""
    seeds = sorted({run.seed for run in result.runs})
    return [
        *_workload(result.workload),
        *_group(result.group),
        ("Seeds", ", ".join(map(str, seeds))),
    ]


def count_ranks(group: GroupInfo) -> str:
    """Return the number of ranks with its noun."""
    return "1 rank" if group.ranks == 1 else f"{group.ranks} ranks"


def describe_group(group: GroupInfo) -> str:
    """Return the group in one line.

    Examples
    --------
    >>> from balanceroute.report.result import StepTimeInfo
    >>> step_time = StepTimeInfo(name="paper", constant_s=0.009775, seconds_per_token=1.005e-7)
    >>> describe_group(GroupInfo(
    ...     ranks=16, slots=72, kv_tokens=None, step_time=step_time, arrivals="saturated", pool=64))
    '16 ranks × 72 slots, step time paper, saturated pool of 64'
    """
    arrivals = f"{group.arrivals} arrivals"
    if group.arrivals == "saturated":
        arrivals = f"saturated pool of {group.pool}" if group.pool else "saturated"
    barrier = "" if group.barrier else ", no barrier"
    barrier += f", {group.groups} barriers" if group.groups > 1 else ""
    return (
        f"{count_ranks(group)} × {group.slots} slots, step time {group.step_time.name}, "
        f"{arrivals}{barrier}"
    )


def _barrier(group: GroupInfo) -> str:
    if not group.barrier:
        return "none"
    among = "" if group.groups == 1 else f" of its group, one of {group.groups}"
    return f"each step waits for the slowest rank{among}"


def _workload(workload: WorkloadInfo) -> list[tuple[str, str]]:
    source = "" if workload.num_source_requests is None else f" of {workload.num_source_requests:,}"
    return [
        ("Workload", workload.name),
        ("Requests", f"{workload.num_requests:,}{source}, {_SAMPLING[workload.sampling]}"),
        ("Mean prompt", f"{workload.prompt_tokens_mean:,.1f} tokens"),
        ("Mean output", f"{workload.output_tokens_mean:,.1f} tokens"),
        ("Fingerprint", workload.fingerprint),
        *(("Note", note) for note in workload.notes),
    ]


def _prefill(group: GroupInfo) -> str:
    if group.prefill_budget_tokens is None:
        return "none: ranks only decode"
    parts = [
        f"up to {group.prefill_budget_tokens:,} tokens a step at "
        f"{group.prefill_s_per_token or 0.0:g} s/token"
    ]
    if group.prefill_shared:
        parts.append(f"{group.prefill_shared:.0%} of it shared by all ranks")
    if group.mixed_step_s:
        parts.append(f"{1e3 * group.mixed_step_s:g} ms more in a step that prefills")
    if group.prefix_cache:
        parts.append("cached prefixes for free")
    if group.prefill_gate is not None:
        parts.append(f"ranks wait as by {group.prefill_gate}")
    return ", ".join(parts)


def _delivery(group: GroupInfo) -> str:
    if group.delivery_s == 0 and group.delivery_jitter_s == 0:
        return "at once"
    text = f"{1e3 * group.delivery_s:g} ms"
    if group.delivery_jitter_s:
        text += f" and up to {1e3 * group.delivery_jitter_s:g} ms more by chance"
    return text


def _group(group: GroupInfo) -> list[tuple[str, str]]:
    step = group.step_time
    warmup = "until every slot could have turned over once (ranks × slots admissions)"
    if group.warmup_steps is not None:
        warmup = f"{group.warmup_steps:,} steps"
    return [
        ("Group", f"{count_ranks(group)} × {group.slots} slots"),
        ("KV tokens per rank", "unlimited" if group.kv_tokens is None else f"{group.kv_tokens:,}"),
        (
            "Step time",
            f"{step.name}: {1e3 * step.constant_s:g} ms + {step.seconds_per_token:g} s × "
            f"({step.kappa0_tokens:g} per request + tokens) of the slowest rank",
        ),
        ("Barrier", _barrier(group)),
        ("Prefill", _prefill(group)),
        ("Arrivals", f"{_ARRIVALS[group.arrivals]}, rate × {group.rate_scale:g}"),
        ("Pool", "–" if group.pool is None else f"{group.pool:,} requests"),
        ("Binding", group.binding or "each policy's own"),
        ("Start", group.start),
        ("Warm-up left out", warmup),
        ("Age of what policies see", f"{group.staleness_s:g} s"),
        ("Delivery to ranks", _delivery(group)),
        (
            "Rank speeds",
            "all equal"
            if group.rank_speeds is None
            else ", ".join(map("{:g}".format, group.rank_speeds)),
        ),
    ]
