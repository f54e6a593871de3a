"""`balanceroute gap`: how far each policy is from the best possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.cli.trace import Format, Seed, Source

if TYPE_CHECKING:
    from rich.table import Table

    from balanceroute.study.gap import GapResult

DEFAULT_POLICIES = ("round_robin", "br_0", "br_auto", "bf_io")


def gap(
    source: Source,
    trace_format: Format = None,
    ranks: Annotated[int, option("Ranks of the group, G.")] = 8,
    slots: Annotated[int, option("Running requests per rank, B.")] = 32,
    policy: Annotated[
        list[str] | None, option("NAME[,key=value…] or FILE.py:CLASS; may be repeated.")
    ] = None,
    arrivals: Annotated[str, option("saturated, trace or poisson.")] = "saturated",
    rate: Annotated[float | None, option("Poisson: requests/s; else the source's mean.")] = None,
    pool: Annotated[int | None, option("Saturated: requests that wait; else 4 G.")] = None,
    requests: Annotated[int | None, option("Requests; else the file or 20,000.")] = None,
    every: Annotated[int, option("Compare one plan in so many.")] = 10,
    max_pairs: Annotated[
        int, option("Pairs of a request and a rank above which a step is not solved.")
    ] = 2048,
    max_nodes: Annotated[int, option("Nodes after which a search is given up.")] = 200,
    time_limit: Annotated[float, option("Seconds after which a search is given up.")] = 60.0,
    step_time: Annotated[
        str, option("paper, bf-io, h200-deepseek-v3, or C,T[,KAPPA0] in s, s/token, tokens.")
    ] = "paper",
    seed: Seed = 0,
    repeats: Annotated[int, option("Runs per policy, each with the next seed.")] = 1,
    as_json: Annotated[bool, option("Print JSON and nothing else.", "--json")] = False,
) -> None:
    """Show each policy's distance to the step optimum and to perfect balance."""
    from balanceroute.report.experiment import Experiment
    from balanceroute.sim.config import SimConfig, StepTime
    from balanceroute.study.gap import measure_gaps

    experiment = Experiment(
        source=source,
        config=SimConfig(
            step_time=StepTime.parse(step_time, num_slots=slots),
            num_ranks=ranks,
            num_slots=slots,
            arrivals=arrivals,  # type: ignore[arg-type]  # SimConfig checks the choices
            pool_size=pool,
        ),
        policies=tuple(policy or DEFAULT_POLICIES),
        format_name=trace_format,
        num_requests=requests,
        rate_per_s=rate,
        seed=seed,
        num_repeats=repeats,
    )
    with progress_bar() as show:
        result = measure_gaps(
            experiment,
            every=every,
            max_pairs=max_pairs,
            max_nodes=max_nodes,
            time_limit_s=time_limit,
            on_progress=show,
        )
    _publish(result, as_json=as_json)


def _publish(result: GapResult, *, as_json: bool) -> None:
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import indented_json

    if as_json:
        print_bytes(indented_json(result))
        return
    notes = [f"note: {note}" for note in result.workload.notes]
    print_rich(*notes, _table(result))


def _table(result: GapResult) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from balanceroute.report.settings import describe_group
    from balanceroute.study.gap import gap_rows

    table = Table(
        title=f"{result.workload.name}\n{describe_group(result.group)}",
        caption=(
            "imbalance after the plan and after the best plan of that step, means over the plans "
            "compared; 1 − η: what perfect balance would save"
        ),
        box=SIMPLE_HEAD,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("policy", overflow="fold", min_width=10)
    headings = (
        "compared\nof plans",
        "tokens",
        "optimum",
        "gap",
        "run's\ntokens",
        "1 − η",
        "wait\nmax",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in gap_rows(result):
        table.add_row(*row)
    return table
