"""`balanceroute policies`: what there is to choose from."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer


def policies(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List the policies, their settings and defaults."""
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import indented_json
    from balanceroute.policies.registry import GIVEN, find_policy, policy_names

    rows = []
    for name in policy_names():
        factory = find_policy(name)
        summary = (inspect.getdoc(factory) or "").partition("\n")[0]
        settings = {
            key: parameter.default
            for key, parameter in inspect.signature(factory).parameters.items()
            if key not in GIVEN
        }
        rows.append(
            {"name": name, "binding": factory.binding, "summary": summary, "settings": settings}
        )
    if as_json:
        print_bytes(indented_json(rows))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("policy", "binding", "what it does, and its settings"):
        table.add_column(heading, no_wrap=heading in ("policy", "binding"))
    for row in rows:
        given = ",".join(f"{key}={value}" for key, value in row["settings"].items())
        text = Text(row["summary"].replace("`", ""))
        table.add_row(row["name"], row["binding"], text + Text(f" [{given}]" if given else ""))
    print_rich(table)
