"""Options that the commands of `balanceroute afd` share, and what they stand for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from balanceroute.cli.progress import progress_bar
from balanceroute.cli.simulate import option
from balanceroute.errors import ConfigError

if TYPE_CHECKING:
    from balanceroute.afd.cycle import Bundle
    from balanceroute.types import Workload

Model = Annotated[str, option("Model of the profile; see `afd profile list`.")]
Device = Annotated[str, option("Device of the attention workers.")]
FfnDevice = Annotated[str | None, option("Device of the FFN workers; else the same.")]
ProfileFile = Annotated[
    Path | None, option("File of `afd profile fit`, instead of --model and --device.")
]
Slots = Annotated[
    int | None,
    option("Requests per attention worker and microbatch, B; else what fits, at most 128."),
]
Microbatches = Annotated[int, option("Microbatches in flight, 1 to 3.")]
FfnWorkers = Annotated[int, option("FFN workers per bundle.")]
Policy = Annotated[
    str | None, option("Routing inside the bundle, NAME[,key=value…]; else slots refill at once.")
]
Cycles = Annotated[int, option("Cycles of each microbatch.")]
Start = Annotated[str, option("stationary, or empty: all slots begin with a new request.")]
Order = Annotated[str, option("shuffled, or trace: requests in the order of the trace.")]
AsJson = Annotated[bool, option("Print JSON and nothing else.", "--json")]

PRESET_REQUESTS = 200_000  # of a preset, so that its θ is known to a fraction of 1 %
MOST_CHOICES = 1000


def read_workload(
    source: str, format_name: str | None, num_requests: int | None, seed: int
) -> Workload:
    """Return the requests that `source` stands for."""
    from balanceroute.workload import PRESETS, load

    if num_requests is None and source in PRESETS:
        num_requests = PRESET_REQUESTS
    with progress_bar() as show:
        return load(
            source,
            format_name=format_name,
            num_requests=num_requests,
            seed=seed,
            on_progress=partial(show, f"Reading {Path(source).name}"),
        )


def bundle_of(
    workload: Workload,
    model: str,
    device: str,
    ffn_device: str | None,
    profile_file: Path | None,
    slots: int | None,
    microbatches: int,
    ffn_workers: int,
) -> Bundle:
    """Return the bundle that the options describe."""
    from balanceroute.afd.cycle import Bundle
    from balanceroute.afd.limits import default_slots
    from balanceroute.afd.profile import load_profile, read_profile, with_ffn_of

    if profile_file is not None:
        if ffn_device is not None:
            raise ConfigError("--ffn-device is of --device; a --profile has its own FFN workers")
        profile = read_profile(profile_file)
    else:
        profile = load_profile(model, device)
        if ffn_device is not None:
            profile = with_ffn_of(profile, load_profile(model, ffn_device))
    bundle = Bundle(
        profile=profile,
        num_slots=1 if slots is None else slots,
        num_microbatches=microbatches,
        num_ffn_workers=ffn_workers,
    )
    return default_slots(workload, bundle) if slots is None else bundle


def parse_workers(text: str) -> list[int]:
    """Return the values of r that ``1-16`` or ``2,4,8`` or both stand for."""
    choices: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        try:
            first = int(low)
            last = int(high) if dash else first
        except ValueError:
            first, last = 0, 0
        if not 1 <= first <= last <= first + MOST_CHOICES:
            raise ConfigError(
                f"--workers must be numbers of at least 1 like 1-16 or 2,4,8, got {text!r}"
            )
        choices.update(range(first, last + 1))
    return sorted(choices)
