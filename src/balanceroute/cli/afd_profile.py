"""`balanceroute afd profile`: what attention, FFN and network cost on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Fit and list device profiles.")


@app.command()
def fit(
    measurements: Annotated[
        Path | None,
        typer.Argument(
            help="CSV with stage,requests,tokens,time_ms; else the tables of aiconfigurator-core.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, option("File for the profile; else it is printed.")] = None,
    model: Annotated[str, option("Name of the model.")] = "deepseek-v3",
    device: Annotated[str, option("Name of the device.")] = "h200_sxm",
    attention_devices: Annotated[int, option("Devices of an attention worker.")] = 1,
    ffn_devices: Annotated[int, option("Devices of an FFN worker.")] = 1,
    kv_tokens: Annotated[int | None, option("KV tokens that an attention worker holds.")] = None,
) -> None:
    """Fit a profile to measured times, and say how far off the lines are."""
    from balanceroute.afd.fit import profile_of_measurements, read_measurements
    from balanceroute.afd.profile import encode_profile
    from balanceroute.afd.tables import measured_profile
    from balanceroute.cli.output import print_bytes, print_rich
    from balanceroute.files import write_atomically
    from balanceroute.report.afd.table import profile_table

    if measurements is None:
        if kv_tokens is not None or attention_devices != 1 or ffn_devices != 1:
            raise ConfigError(
                "--kv-tokens, --attention-devices and --ffn-devices go with a file of measurements"
            )
        profile = measured_profile(model, device)
    else:
        profile = profile_of_measurements(
            read_measurements(measurements),
            model=model,
            device=device,
            attention_devices=attention_devices,
            ffn_devices=ffn_devices,
            kv_tokens=kv_tokens,
        )
    if out is None:
        print_bytes(encode_profile(profile))
        return
    write_atomically(out, encode_profile(profile))
    print_rich(profile_table([profile]), *(f"note: {note}" for note in profile.notes), f"{out}")


@app.command(name="list")
def list_profiles() -> None:
    """List the profiles of the package with the errors of their fits."""
    from balanceroute.afd.profile import load_profile, shipped_profiles
    from balanceroute.cli.output import print_rich
    from balanceroute.report.afd.table import profile_table

    names = [name.rsplit(".", 1) for name in shipped_profiles()]
    print_rich(profile_table([load_profile(model, device) for model, device in names]))
