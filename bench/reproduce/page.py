"""docs/reproduction.md from the figures that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.reproduce import published, texts
from bench.reproduce.authors import BR_H
from bench.reproduce.markdown import Means, mean, table, with_reach
from bench.reproduce.speed import fit

B_FIGURES = (
    ("imbalance_before_refill", ",.0f"),
    ("idle_before_refill", ".2%"),
    ("throughput", ",.0f"),
    ("energy_kj", ".1f"),
)
B_HEADER = ("policy", "imbalance (tokens)", "idle", "tok/s", "kJ", "longest wait (× mean)")


def write_page(kept: Mapping[str, Any], path: Path) -> None:
    """Write the page from the sections that there are."""
    makers: dict[str, Callable[[Any], str]] = {
        "burstgpt": _burstgpt,
        "full_size": _full_size,
        "authors": _authors,
        "dynamo": _dynamo,
        "longbench": _longbench,
        "growth": _growth,
        "production": _production,
        "azure": _azure,
        "gap": _gap,
        "speed": _speed,
    }
    parts = [texts.INTRO]
    parts += [make(kept[name]["figures"]) for name, make in makers.items() if name in kept]
    missing = [name for name in makers if name not in kept]
    if missing:
        parts.append(f"Not measured in this run: {', '.join(missing)}.\n")
    path.write_text("\n".join(parts), encoding="utf-8")


def _burstgpt(figures: Mapping[str, Means]) -> str:
    rows = []
    for name, spec in (("FCFS", "fcfs"), ("BF-IO, H = 20, true lengths", f"{BR_H},horizon=20")):
        reported = published.BURSTGPT[name]
        written = [f"{value:{spec}}" for value, (_, spec) in zip(reported, B_FIGURES, strict=True)]
        rows.append([f"[B] {name}", *written, "–"])
        off = [
            _beside(figures[spec][key], value)
            for value, (key, _) in zip(reported, B_FIGURES, strict=True)
        ]
        rows.append([f"`{spec}` beside that", *off, "–"])
    rows += [[f"`{spec}`", *_b_cells(means)] for spec, means in figures.items()]
    return texts.BURSTGPT_TEXT + "\n" + table(B_HEADER, rows) + texts.BURSTGPT_REASONS


def _beside(figure: Mapping[str, float | None], reported: float) -> str:
    """Say how far a mean is from a published figure, and whether chance may explain it."""
    value, reach = figure["mean"], figure["reach"]
    assert value is not None
    assert reach is not None
    where = "inside" if abs(value - reported) <= reach else "outside"
    return f"{value / reported - 1:+.1%} ({where})"


def _b_cells(means: Means) -> list[str]:
    cells = [with_reach(means[key], spec) for key, spec in B_FIGURES]
    return [*cells, with_reach(means["longest_wait"], ",.0f")]


def _full_size(rows: Sequence[Mapping[str, Any]]) -> str:
    return texts.FULL_SIZE_TEXT + "\n" + _side_by_side(rows)


def _authors(rows: Sequence[Mapping[str, Any]]) -> str:
    return texts.AUTHORS_TEXT + "\n" + _side_by_side(rows) + texts.AUTHORS_REASONS


def _side_by_side(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        theirs, ours = row["figures"]
        cells = _compared(theirs, ours, B_FIGURES)
        times = f"{theirs['wall_s']:.1f} / {ours['wall_s']:.1f}"
        lines.append([f"`{row['theirs']}`", f"`{row['ours']}`", *cells, times])
    header = ("theirs", "ours", "imbalance before refill", "idle", "tok/s", "kJ", "run (s)")
    return table(header, lines)


def _compared(
    theirs: Mapping[str, float], ours: Mapping[str, float], figures: Sequence[tuple[str, str]]
) -> list[str]:
    return [
        f"{theirs[key]:{spec}} / {ours[key]:{spec}} ({ours[key] / theirs[key] - 1:+.1%})"
        for key, spec in figures
    ]


DYNAMO_FIGURES = (
    ("tok_per_s", ",.0f"),
    ("ttft_ms", ",.1f"),
    ("ttft_p99_ms", ",.0f"),
    ("itl_ms", ".2f"),
    ("tpot_p99_ms", ".1f"),
)
DYNAMO_HEADER = (
    *("theirs", "ours", "req/s", "KV tokens"),
    *("tok/s", "TTFT", "TTFT p99", "ITL", "TPOT p99"),
    *("preemptions", "same rank", "apart"),
)


def _dynamo(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        theirs, ours = row["figures"]
        cells = _compared(theirs, ours, DYNAMO_FIGURES)
        first, last = row["apart_ms"].values()
        cells.append(f"{theirs['preemptions']} / {ours['preemptions']}")
        cells += [f"{row['same_rank']:.0%}", f"{first:.1f}, {last:.1f}"]
        name = row["ours"] if " " in row["ours"] else f"`{row['ours']}`"
        tokens = f"{row['kv_tokens']:,}"
        lines.append([f"`{row['theirs']}`", name, f"{row['rate_per_s']:g}", tokens, *cells])
    text = texts.DYNAMO_TEXT.format(version=rows[0]["version"])
    return text + table(DYNAMO_HEADER, lines) + texts.DYNAMO_REASONS


def _longbench(figures: Mapping[str, Means]) -> str:
    base = mean(figures["fcfs"], "energy_per_token_j")
    rows = [
        [f"`{spec}`", *_b_cells(each), f"{mean(each, 'energy_per_token_j') / base - 1:+.1%}"]
        for spec, each in figures.items()
    ]
    low, high = published.LONGBENCH_ENERGY
    text = texts.LONGBENCH_TEXT.format(low=low, high=high)
    return text + table((*B_HEADER, "energy per token"), rows)


def _growth(rows: Sequence[Mapping[str, Any]]) -> str:
    policies = [spec for spec in rows[0]["improvement"] if spec != "fcfs"]
    lines = [
        [
            str(row["ranks"]),
            str(row["slots"]),
            f"{row['scale']:.1f}",
            *(f"{row['improvement'][spec]:.1f}" for spec in policies),
        ]
        for row in sorted(rows, key=lambda row: float(row["scale"]))
    ]
    header = ("G", "B", "√(B·log G)", *(f"`{spec}`" for spec in policies))
    return texts.GROWTH_TEXT + "\n" + table(header, lines)


# As [A] calls it, and ours; empty where [A] has no such policy.
PRODUCTION_ROWS = (
    ("random", "random"),
    ("round robin", "round_robin"),
    ("JSQ", "least_requests"),
    ("", "least_tokens"),
    ("BR-0", "br_0"),
    ("BR-H, survival", "br_h"),
    ("BR-H, oracle", "br_h,classifier=oracle"),
    ("", "br_auto"),
)


def _settings(figures: Mapping[str, Any]) -> list[str]:
    return [name for name in figures if name != "rate_per_s"]


def _production(figures: Mapping[str, Any]) -> str:
    settings = _settings(figures)
    rows = []
    for name, spec in PRODUCTION_ROWS:
        reported = published.PRODUCTION.get(name)
        theirs = "–"
        if reported is not None:
            theirs = f"{reported:,.0f} ({reported / published.PRODUCTION['random']:.3f})"
        cells = []
        for setting in settings:
            tokens = mean(figures[setting][spec], "imbalance")
            share = tokens / mean(figures[setting]["random"], "imbalance")
            cells.append(f"{tokens:,.0f} ({share:.3f})")
        rows.append([name or "–", f"`{spec}`", theirs, *cells])
    header = ("[A]", "ours", "[A]: tokens (of random's)", *settings)
    parts = [texts.PRODUCTION_TEXT, table(header, rows)]
    return "\n".join(parts) + _orders(figures) + texts.PRODUCTION_REASONS + _gains(figures)


def _orders(figures: Mapping[str, Any]) -> str:
    """Say where ours come in the order of [A]'s, from the largest imbalance to the smallest."""
    ours = {name: spec for name, spec in PRODUCTION_ROWS if name}
    published_order = [name for name in published.PRODUCTION if name in ours]
    lines = []
    for setting in _settings(figures):
        order = sorted(ours, key=lambda name: -mean(figures[setting][ours[name]], "imbalance"))
        is_same = order == published_order
        lines.append(f"- {setting}: {' > '.join(order)}{' (as in [A])' if is_same else ''}")
    head = f"\nLargest imbalance first, [A]: {' > '.join(published_order)}. Ours:\n\n"
    return head + "\n".join(lines) + "\n"


def _gains(figures: Mapping[str, Any]) -> str:
    settings = _settings(figures)
    baselines = ("random", "round_robin", "least_requests")
    rows = []
    for spec in ("br_0", "br_h", "br_h,classifier=oracle", "br_auto"):
        cells = []
        for setting in settings:
            best = max(mean(figures[setting][each], "throughput") for each in baselines)
            cells.append(f"{mean(figures[setting][spec], 'throughput') / best - 1:+.1%}")
        rows.append([f"`{spec}`", *cells])
    oracle = published.PRODUCTION_ORACLE.items()
    text = texts.GAINS_TEXT.format(
        br_0=published.PRODUCTION_THROUGHPUT["BR-0"],
        exact_match=published.PRODUCTION_THROUGHPUT["BR-H, exact match"],
        oracle=", ".join(f"{gain:+.1%} at G = {num_ranks}" for num_ranks, gain in oracle),
    )
    return text + table(("policy", *settings), rows)


def _azure(figures: Mapping[str, Any]) -> str:
    settings = _settings(figures)
    rows = [
        [f"`{spec}`", *(with_reach(figures[each][spec]["imbalance"], ",.0f") for each in settings)]
        for _, spec in PRODUCTION_ROWS
    ]
    return texts.AZURE_TEXT + table(("policy", *settings), rows)


def _gap(documents: Sequence[Mapping[str, Any]]) -> str:
    header = ("policy", "compared", "tokens", "optimum", "gap", "run's tokens", "1 − η", "wait max")
    parts = [texts.GAP_TEXT]
    for document in documents:
        rows = [[f"`{row[0]}`", *row[1:]] for row in document["rows"]]
        parts.append(f"{document['trace']}:\n\n" + table(header, rows))
    return "\n".join(parts)


SIZES = ("ranks", "waiting", "active", "horizon")


def _speed(rows: Sequence[dict[str, Any]]) -> str:
    by_size: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        ahead = f", H = {row['horizon']}" if row["policy"] == "br_h" else ""
        times = by_size.setdefault(tuple(f"{row[size]:,}" for size in SIZES[:3]), {})
        times[f"`{row['policy']}`{ahead}"] = f"{row['plan_us']:,.0f}"
    policies = list(dict.fromkeys(name for times in by_size.values() for name in times))
    lines = [[*size, *(times[name] for name in policies)] for size, times in by_size.items()]
    fits = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        found = fit([row for row in rows if row["policy"] == policy])
        exponents = [f"{found[size]:.2f}" if size in found else "–" for size in SIZES]
        off = f"{found['largest_factor_off']:.2f}"
        fits.append([f"`{policy}`", f"{found['t0_us']:.1f}", *exponents, off])
    return (
        texts.SPEED_TEXT
        + table(("G", "waiting", "running", *policies), lines)
        + texts.FIT_TEXT
        + table(("policy", "t0 (µs)", "a", "b", "c", "d", "off by a factor of"), fits)
    )
