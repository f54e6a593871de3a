"""`balanceroute study`: how figures depend on each setting, with repeats and spread."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.cli.trace import Seed, Source

if TYPE_CHECKING:
    from rich.table import Table

    from balanceroute.study.table import Row

DEFAULT_POLICIES = ("round_robin", "br_0", "br_h", "br_auto")
SHOWN = (
    ("efficiency", "η", 1.0, ".4f"),
    ("mean_imbalance_tokens", "imbalance\nk tok", 1e-3, ",.1f"),
    ("throughput_tok_per_s", "tok/s", 1.0, ",.0f"),
    ("longest_wait_ratio", "wait max\n× mean", 1.0, ".1f"),
)


def study(
    source: Source,
    vary: Annotated[
        list[str],
        option(
            "NAME=V1,V2,…; may be repeated. Of the group: ranks, slots, pool, staleness, rate, "
            "burst; of policies: horizon, gamma, beta, window, auc."
        ),
    ],
    out: Annotated[Path, option("Folder for results and tables; what it has is not run again.")],
    policy: Annotated[list[str] | None, option("NAME[,key=value…]; may be repeated.")] = None,
    full: Annotated[
        bool, option("Every combination of the axes; else one at a time.", "--full/--one-at-a-time")
    ] = False,
    ranks: Annotated[int, option("Ranks, G, where they are not varied.")] = 16,
    slots: Annotated[int, option("Running requests per rank, B.")] = 72,
    pool: Annotated[int | None, option("Saturated: requests that wait; else 4 G.")] = None,
    rate: Annotated[float | None, option("Poisson requests/s; else a saturated pool.")] = None,
    burst: Annotated[int, option("Requests that arrive at once; needs a rate.")] = 1,
    staleness: Annotated[float, option("Seconds between two looks at the ranks.")] = 0.0,
    requests: Annotated[int, option("Requests of a run; more where G·B slots need them.")] = 20_000,
    step_time: Annotated[
        str, option("paper, bf-io, h200-deepseek-v3, or C,T[,KAPPA0] in s, s/token, tokens.")
    ] = "paper",
    repeats: Annotated[int, option("Runs of each cell, each with the next seed.")] = 3,
    seed: Seed = 0,
    jobs: Annotated[int | None, option("Processes; else one per core.")] = None,
    ray: Annotated[
        str | None, option("Address of a Ray cluster to run on: auto, local or ray://HOST:PORT.")
    ] = None,
    html: Annotated[bool, option("Draw plots too.", "--plots/--no-plots")] = False,
) -> None:
    """Show how figures depend on each setting; interrupted, it goes on where it stopped."""
    import os

    from balanceroute.cli.output import print_rich
    from balanceroute.study.axes import Setup, parse_axis
    from balanceroute.study.cell import hash_of
    from balanceroute.study.plan import Study
    from balanceroute.study.run import run_study

    plan = Study(
        source=source,
        source_hash=hash_of(source),
        policies=tuple(policy or DEFAULT_POLICIES),
        axes=tuple(parse_axis(text) for text in vary),
        base=Setup(
            ranks=ranks, slots=slots, pool=pool, staleness=staleness, rate=rate, burst=burst
        ),
        step_time=step_time,
        num_requests=requests,
        is_full=full,
        seed=seed,
        num_repeats=repeats,
    )
    with progress_bar() as show:
        rows = run_study(
            plan,
            out,
            num_jobs=(os.cpu_count() or 1) if jobs is None else jobs,
            ray_address=ray,
            on_progress=lambda done, total: show(f"cell {done} of {total}", done, total),
        )
    if html:
        from balanceroute.study.page import write_page

        write_page(
            plan, rows, out / "study.html", command=shlex.join(["balanceroute", *sys.argv[1:]])
        )
    print_rich(_table(rows), f"\ntables: {out / 'table.csv'}, {out / 'table.parquet'}")


def _table(rows: Sequence[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        caption="means ± half of the 95 % interval",
        box=SIMPLE_HEAD,
        show_edge=False,
        caption_justify="left",
    )
    table.add_column("place", overflow="fold")
    table.add_column("policy", overflow="fold")
    for _, heading, _, _ in SHOWN:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        place = ", ".join(f"{name}={value}" for name, value in row.point.place.items())
        table.add_row(place, row.point.policy, *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    cells = []
    for figure, _, scale, spec in SHOWN:
        interval = row.figures[figure]
        text = "–" if interval.mean is None else format(interval.mean * scale, spec)
        if interval.mean is not None and interval.high is not None:
            text += f" ± {format((interval.high - interval.mean) * scale, spec)}"
        cells.append(text)
    return cells
