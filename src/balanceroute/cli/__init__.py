"""The `balanceroute` command.

Nothing heavy is imported here: NumPy, Numba and pyarrow load inside the commands, so that
``--help`` is instant.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from balanceroute import __version__
from balanceroute.cli import (
    afd,
    calibrate,
    doctor,
    emulate,
    epp,
    fleet,
    gap,
    load,
    policies,
    predict,
    replay,
    serve,
    serve_part,
    simulate,
    study,
    trace,
)
from balanceroute.cli.output import abandon_stdout
from balanceroute.errors import BalanceRouteError

app = typer.Typer(
    name="balanceroute",
    help="Keep every data-parallel rank of an LLM serving group equally loaded.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("simulate")(simulate.simulate)
app.command("fleet")(fleet.fleet)
app.command("serve")(serve.serve)
app.command(serve_part.PART, hidden=True)(serve_part.serve_part)
app.command("epp")(epp.epp)
app.command("emulate")(emulate.emulate)
app.command("load")(load.load)
app.command("calibrate")(calibrate.calibrate)
app.command("doctor")(doctor.doctor)
app.command("replay")(replay.replay)
app.command("gap")(gap.gap)
app.command("study")(study.study)
app.command("policies")(policies.policies)
app.add_typer(trace.app, name="trace")
app.add_typer(predict.app, name="predict")
app.add_typer(afd.app, name="afd")

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"balanceroute {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    del version  # its callback has done everything


def main() -> None:
    """Run the command line: errors on purpose become one line on stderr and exit code 2."""
    try:
        app()
    except BalanceRouteError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (as `| head` does); there is nobody left to tell.
        abandon_stdout()
        sys.exit(1)


def _fail(message: str) -> None:
    line = " ".join(message.split())
    typer.echo(f"balanceroute: error: {line}", err=True)
    sys.exit(EXIT_BAD_INPUT)
