"""What the commands of `balanceroute afd` print and write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from balanceroute.afd.answer import Plan
    from balanceroute.afd.cycle import Bundle
    from balanceroute.afd.sweep import SweepPoint
    from balanceroute.report.afd.run import RunResult
    from balanceroute.types import Workload


def publish_plan(plan: Plan, *, out: Path | None, as_json: bool) -> None:
    """Write the plan to `out`, if anywhere, and print it."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import indented_json, write_atomically
    from balanceroute.report.afd.table import render_plan

    document = indented_json(plan)
    if out is not None:
        from balanceroute.report.afd.page import write_page

        write_page(plan, out / "report.html", command=shlex.join(["balanceroute", *sys.argv[1:]]))
        write_atomically(out / "plan.json", document)
    if as_json:
        print_bytes(document)
        return
    written = [] if out is None else [f"\nreport: {out / 'report.html'}"]
    print_rich(*render_plan(plan), *written)


def publish_run(result: RunResult, *, as_json: bool) -> None:
    """Print one simulated bundle."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import indented_json
    from balanceroute.report.afd.table import render_run

    if as_json:
        print_bytes(indented_json(result))
    else:
        print_rich(*render_run(result))


def publish_sweep(
    workload: Workload, bundle: Bundle, points: Sequence[SweepPoint], *, as_json: bool
) -> None:
    """Print simulated bundles of several sizes."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import indented_json
    from balanceroute.report.afd.table import render_sweep

    if not as_json:
        print_rich(f"{workload.name} on {bundle.profile.name}, B = {bundle.num_slots}")
        print_rich(*render_sweep(points))
        return
    settings = {
        "schema": "balanceroute.afd-sweep.v1",
        "workload": workload.name,
        "profile": bundle.profile.name,
        "num_slots": bundle.num_slots,
        "num_microbatches": bundle.num_microbatches,
        "num_ffn_workers": bundle.num_ffn_workers,
        "points": points,
    }
    print_bytes(indented_json(settings))
