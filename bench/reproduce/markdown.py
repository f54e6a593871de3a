"""Tables and figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Means = Mapping[str, Mapping[str, float | None]]


def mean(means: Means, name: str) -> float:
    """Return the mean of a figure that every run has."""
    value = means[name]["mean"]
    assert value is not None
    return value


def with_reach(figure: Mapping[str, float | None], spec: str) -> str:
    """Write a mean and half of its 95 % interval."""
    value, reach = figure["mean"], figure["reach"]
    if value is None:
        return "–"
    return f"{value:{spec}}" + ("" if reach is None else f" ± {reach:{spec}}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
