"""Measure the published figures anew and write docs/reproduction.md: ``make reproduce``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from balanceroute.files import write_atomically  # noqa: E402  (the path has to come first)
from bench.machine import describe_machine  # noqa: E402
from bench.reproduce import authors, dynamo, sections, speed  # noqa: E402
from bench.reproduce.kept import OUT, forget  # noqa: E402
from bench.reproduce.page import write_page  # noqa: E402


def measures(checkout: Path | None, python: Path | None) -> dict[str, Callable[[], object]]:
    """Return what can be measured, by the name of its section."""
    found: dict[str, Callable[[], object]] = {
        "burstgpt": sections.measure_burstgpt,
        "growth": sections.measure_growth,
        "production": partial(sections.measure_production, "br-production"),
        "azure": partial(sections.measure_production, "br-azure", loads=(0.95,)),
        "gap": sections.measure_gap,
        "speed": speed.measure_speed,
    }
    if checkout is not None:
        found["authors"] = partial(authors.compare, checkout)
        found["full_size"] = partial(
            authors.compare,
            checkout,
            num_requests=100_000,
            pool=64,
            counterparts=authors.AT_FULL_SIZE,
        )
        found["longbench"] = partial(sections.measure_longbench, checkout)
    if python is not None:
        found["dynamo"] = partial(dynamo.compare, python)
    return found


def measure(name: str, section: Callable[[], object]) -> None:
    """Measure a section and keep its figures."""
    began_s = time.perf_counter()
    document = {"figures": section(), "machine": describe_machine()}
    write_atomically(OUT / f"{name}.json", json.dumps(document, indent=2).encode())
    print(f"{name}: {time.perf_counter() - began_s:.0f} s", flush=True)


def main() -> None:
    """Measure, keep the figures in bench/out/reproduce, and write the page from them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--authors", type=Path, help="a checkout of [B]'s simulator; else left out")
    parser.add_argument("--dynamo", type=Path, help="a Python that has Dynamo; else left out")
    parser.add_argument("--anew", action="store_true", help="make runs that are kept once more")
    parser.add_argument("--sections", nargs="*", help="measure only these; others as kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reproduction.md")
    given = parser.parse_args()
    known = measures(given.authors, given.dynamo)
    wanted = list(known) if given.sections is None else given.sections
    for name in wanted:
        if name not in known:
            parser.error(f"no section {name!r}; known: {', '.join(known)} (some need a path)")
    if given.anew:
        forget()
    for name in wanted:
        measure(name, known[name])
    kept: dict[str, Any] = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(OUT.glob("*.json"))
    }
    write_page(kept, given.out)
    print(given.out)


if __name__ == "__main__":
    main()
