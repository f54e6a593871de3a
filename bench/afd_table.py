"""Tables of the validation of AFD plans, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

Row = dict[str, Any]
NEAR_RATIO, NEAR = 0.1, 1  # of the simulated optimum, or so many workers
GROUPS = ((16, 16), (32, 32), (64, 512))  # of B, for the table of E[max]
SIZES = ((2, 16), (32, 128))  # of r


def summarise(rows: Sequence[Row]) -> str:
    """Return the tables: optima by workload, misses, and E[max] by B and r."""
    shuffled = [row for row in rows if row["order"] == "shuffled"]
    in_order = [row for row in rows if row["order"] == "trace"]
    parts = [optima_table(shuffled), misses_table(shuffled), largest_table(shuffled)]
    parts += [by_trace_order(in_order, shuffled)] if in_order else []
    return "\n\n".join(parts) + "\n"


def is_near(predicted: float, simulated: int) -> bool:
    """Tell whether a prediction is within one worker or a tenth of the simulated optimum."""
    return abs(predicted - simulated) <= max(NEAR, NEAR_RATIO * simulated)


def optima_table(rows: Sequence[Row]) -> str:
    """Return how near each rule comes, by workload."""
    lines = [
        "| workload | cases | this plan: near | worst loss | barrier-aware: near | worst loss | "
        "mean field: near | worst loss | cycle off, worst |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for source, group in groupby(rows, key=lambda row: str(row["source"])):
        lines.append(_optima_line(source, [each for row in group for each in row["optima"]]))
    every = [each for row in rows for each in row["optima"]]
    lines.append(_optima_line("all", every))
    lines.append(
        _optima_line("all that fit memory", [each for each in every if each["fits_memory"]])
    )
    return "\n".join(lines)


def misses_table(rows: Sequence[Row]) -> str:
    """Return the cases in which the plan's r is not near, with what that costs."""
    lines = [
        "| workload | B | profile | fits memory | simulated r* | this plan | loss | ± | cycles |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['source']} | {row['num_slots']} | {each['profile']} | "
        f"{'yes' if each['fits_memory'] else 'no'} | {each['simulated']} | "
        f"{each['predicted']} | {each['predicted_loss_ratio']:.2%} | "
        f"{each['loss_error_ratio']:.2%} | {each['num_cycles']:,} |"
        for row in rows
        for each in row["optima"]
        if not is_near(each["predicted"], each["simulated"])
    ]
    return "\n".join(lines)


def largest_table(rows: Sequence[Row]) -> str:
    """Return how far E[max load] is off, at worst, by B and r."""
    lines = [
        "| B | r | normal loads, worst | at | own distribution, worst | at | "
        "standard error there |",
        "|---|---|---|---|---|---|---|",
    ]
    for low, high in GROUPS:
        for first, last in SIZES:
            found = [
                (row, each)
                for row in rows
                if low <= row["num_slots"] <= high
                for each in row["largest"]
                if first <= each["r"] <= last
            ]
            if not found:
                continue
            normal = max(found, key=lambda pair: abs(pair[1]["normal_off_ratio"]))
            exact = max(found, key=lambda pair: abs(pair[1]["exact_off_ratio"]))
            lines.append(
                f"| {low}{'' if low == high else f' to {high}'} | {first} to {last} | "
                f"{normal[1]['normal_off_ratio']:+.1%} | {_where(normal)} | "
                f"{exact[1]['exact_off_ratio']:+.2%} | {_where(exact)} | "
                f"{exact[1]['error_ratio']:.2%} |"
            )
    return "\n".join(lines)


def by_trace_order(in_order: Sequence[Row], shuffled: Sequence[Row]) -> str:
    """Return what the order of a trace changes: E[max] at r = 16, and how near the plan is."""
    lines = [
        "| trace, B = 64, its own order | E[max] off at r = 16: shuffled | in order | "
        "this plan: near | worst loss |",
        "|---|---|---|---|---|",
    ]
    others = {str(row["source"]): row for row in shuffled if row["num_slots"] == 64}
    for row in in_order:
        near = sum(is_near(each["predicted"], each["simulated"]) for each in row["optima"])
        worst = max(each["predicted_loss_ratio"] for each in row["optima"])
        lines.append(
            f"| {row['source']} | {_off_at_16(others[row['source']]):+.2%} | {_off_at_16(row):+.2%}"
            f" | {near}/{len(row['optima'])} | {worst:.2%} |"
        )
    return "\n".join(lines)


def _optima_line(name: str, optima: Sequence[Row]) -> str:
    cells = [name, str(len(optima))]
    for rule in ("predicted", "gaussian", "mean_field"):
        near = sum(is_near(each[rule], each["simulated"]) for each in optima)
        cells += [str(near), f"{max(each[f'{rule}_loss_ratio'] for each in optima):.2%}"]
    worst = max((each["worst_cycle_off_ratio"] for each in optima), key=abs)
    return "| " + " | ".join([*cells, f"{worst:+.2%}"]) + " |"


def _where(pair: tuple[Row, Row]) -> str:
    row, each = pair
    return f"{row['source']}, B = {row['num_slots']}, r = {each['r']}"


def _off_at_16(row: Row) -> float:
    rows: Iterable[Row] = row["largest"]
    return next(float(each["exact_off_ratio"]) for each in rows if each["r"] == 16)
