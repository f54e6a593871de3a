"""`balanceroute replay`: a decision log turned back into its plans, and why they are so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import LogError, MissingExtraError, OutputError

if TYPE_CHECKING:
    from balanceroute.live.comparing import Comparison

EXIT_DIFFERS = 1
STDOUT = Path("-")


def replay(
    log: Annotated[Path, typer.Argument(help="As `serve --decision-log` was told.")],
    out: Annotated[Path | None, option("File for the plans, one per line; - is stdout.")] = None,
    why: Annotated[
        str | None, option("Id of a request: show where it went, and F of every rank then.")
    ] = None,
    allow_cut: Annotated[
        bool, option("Be content with what is there of a log that is cut short.", "--allow-cut")
    ] = False,
) -> None:
    """Hand the policy what it was handed, and compare what it says with what it said then.

    Exit code 0: every plan is the same, byte for byte. 1: one is not; the first is shown.
    """
    try:
        from balanceroute.live.comparing import Comparison
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"replay needs {error.name}; install it with: pip install 'balanceroute[serve]'"
        ) from error
    found = Comparison.of(log, keeps_plans=out is not None, about=why)
    if out is not None:
        _write(out, found.plans)
    if why is not None:
        _explain(found, log, why)
        return
    same = f"{found.num_plans - found.num_differing:,} of {found.num_plans:,} plans are the same"
    if found.cut and not allow_cut:
        raise LogError(f"{found.cut}; {same}; --allow-cut is content with that")
    typer.echo(
        f"{same}, byte for byte" + (f"; {found.cut}" if found.cut else ""), err=out == STDOUT
    )
    if found.difference:
        typer.echo(found.difference, err=True)
        sys.exit(EXIT_DIFFERS)


def _write(out: Path, plans: list[bytes]) -> None:
    text = b"".join(plan + b"\n" for plan in plans)
    if out == STDOUT:
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
        return
    try:
        out.write_bytes(text)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error


def _explain(found: Comparison, log: Path, name: str) -> None:
    if not found.reasons:
        raise LogError(
            f"{log} has no decision about a request {name!r} in {found.num_plans:,} plans; ids are "
            "those of the header X-Request-Id"
        )
    for why in found.reasons:
        typer.echo(
            f"plan {why['n']} at {why['t']:.6f} s: rank {why['rank']} of {why['tokens']:,} tokens; "
            f"load {why['load']:,}, margin {why['margin']:,}, F {why['f']:,}"
        )
        for rank, margin, score in why["others"]:
            typer.echo(f"  not rank {rank}: margin {margin:,}, F {score:,}")
