"""Validate AFD plans by simulation: ``make reproduce-afd``. What is done already is not done again.

Each case is a file of figures; a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from balanceroute.files import write_atomically
from bench.afd_cases import Case, Row, all_cases
from bench.afd_routing import routing_rows, routing_table
from bench.afd_table import summarise
from bench.machine import describe_machine

PROCESSES = 2


def main() -> None:
    """Run the cases that are missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/out/afd"))
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--limit-s", type=float, help="stop after so long; go on another time")
    parser.add_argument("--routing", action="store_true", help="simulate routing policies, too")
    arguments = parser.parse_args()
    cases = all_cases()
    missing = [case for case in cases if not _path(arguments.out, case).is_file()]
    began_s = time.monotonic()
    with ProcessPoolExecutor(arguments.processes) as pool:
        waiting = {pool.submit(_run, case): case for case in missing}
        for place, done in enumerate(as_completed(waiting), start=1):
            case, row = waiting[done], done.result()
            write_atomically(_path(arguments.out, case), json.dumps(row, indent=1).encode())
            print(f"{place}/{len(missing)} {case.name} {row['wall_s']:.1f} s", flush=True)
            if arguments.limit_s and time.monotonic() - began_s > arguments.limit_s:
                pool.shutdown(cancel_futures=True)
                break
    rows = [_read(arguments.out, case) for case in cases if _path(arguments.out, case).is_file()]
    print(f"\n{len(rows)} of {len(cases)} cases")
    report = summarise(rows)
    if arguments.routing:
        report += "\n" + routing_table(routing_rows()) + "\n"
    print(report)
    document = {"machine": describe_machine(), "cases": rows}
    write_atomically(arguments.out / "all.json", json.dumps(document).encode())
    write_atomically(arguments.out / "tables.md", report.encode())


def _run(case: Case) -> Row:
    began_s = time.monotonic()
    return {**case.run(), "wall_s": time.monotonic() - began_s}


def _path(out: Path, case: Case) -> Path:
    return out / f"{case.name}.json"


def _read(out: Path, case: Case) -> Row:
    row: Row = json.loads(_path(out, case).read_text())
    return row


if __name__ == "__main__":
    main()
