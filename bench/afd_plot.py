"""Draw throughput over r, simulated and predicted: ``python -m bench.afd_plot FILE.svg``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from balanceroute.afd.cycle import Bundle
from balanceroute.afd.plan import device_weights
from balanceroute.afd.profile import load_profile
from balanceroute.afd.sweep import SweepPoint, sweep
from balanceroute.files import write_atomically
from balanceroute.workload import load
from bench.machine import TRACES

CASES = (
    ("mooncake_conversation", "deepseek-v3", "h200_sxm", 64, 40),
    ("servegen_deepseek-r1_00-12h", "deepseek-v3", "b200_sxm", 256, 16),
    ("azure2023_conv", "qwen3-30b-a3b", "h100_sxm", 128, 16),
)
NUM_CYCLES = 20_000
WIDTH, HEIGHT, MARGIN = 290, 240, 42
LINES = (
    ("mean_field_s", "mean field", "#999", "2 3"),
    ("gaussian_s", "barrier-aware", "#c60", "6 3"),
    ("pipeline_s", "plan", "#06c", "none"),
)


def main() -> None:
    """Simulate the cases and write the drawing."""
    panels = [_panel(place, case) for place, case in enumerate(CASES)]
    width, height = WIDTH * len(CASES), HEIGHT + 24
    legend = "".join(
        f'<line x1="{40 + 150 * i}" y1="{height - 10}" x2="{70 + 150 * i}" y2="{height - 10}" '
        f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        f'<text x="{76 + 150 * i}" y="{height - 6}">{name}</text>'
        for i, (_, name, colour, dash) in enumerate(LINES)
    )
    legend += f'<circle cx="505" cy="{height - 10}" r="3"/><text x="514" y="{height - 6}">simulated'
    document = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(panels)}{legend}</text></svg>\n"
    )
    write_atomically(Path(sys.argv[1]), document.encode())


def _panel(place: int, case: tuple[str, str, str, int, int]) -> str:
    source, model, device, num_slots, most = case
    bundle = Bundle(profile=load_profile(model, device), num_slots=num_slots)
    weights = device_weights(bundle)
    workload = load(str(TRACES / f"{source}.csv.gz"))
    points = sweep(workload, bundle, weights, range(1, most + 1), num_cycles=NUM_CYCLES)
    best = max(points, key=lambda each: each.value)
    top = 1.15 * best.value

    def x(r: float) -> float:
        return place * WIDTH + MARGIN + (WIDTH - MARGIN - 10) * r / most

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - MARGIN - 24) * value / top

    parts = [
        f'<text x="{x(0)}" y="14">{source}, B = {num_slots}</text>',
        f'<text x="{x(0)}" y="{HEIGHT - 8}">r, {model} on {device}</text>',
        f'<path d="M{x(0)} {y(top)}V{y(0)}H{x(most)}" fill="none" stroke="#333"/>',
        f'<line x1="{x(best.r)}" x2="{x(best.r)}" y1="{y(best.value)}" y2="{y(0)}" stroke="#bbb"/>',
        *(f'<text x="{x(r) - 6}" y="{HEIGHT - 26}">{r}</text>' for r in _ticks(most)),
        *(f'<text x="{x(0) - 36}" y="{y(v) + 4}">{v}</text>' for v in _ticks(int(top))),
    ]
    for cycle, _, colour, dash in LINES:
        places = " ".join(
            f"{x(each.r):.1f},{y(_value(each, cycle)):.1f}"
            for each in points
            if _fits(each, cycle, top)
        )
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.6" '
            f'stroke-dasharray="{dash}"/>'
        )
    step = max(1, most // 20)
    parts += [
        f'<circle cx="{x(each.r):.1f}" cy="{y(each.value):.1f}" r="2.2"/>'
        for each in points[::step]
    ]
    return "".join(parts)


def _value(point: SweepPoint, cycle: str) -> float:
    return point.value * point.cycle_s / float(getattr(point, cycle))


def _fits(point: SweepPoint, cycle: str, top: float) -> bool:
    return _value(point, cycle) <= top


def _ticks(most: int) -> Sequence[int]:
    step = next(s for k in range(9) for s in (10**k, 2 * 10**k, 5 * 10**k) if most / s <= 5)
    return range(step, most + 1, step)


if __name__ == "__main__":
    main()
