"""Device profiles: what attention, FFN and network take, as straight lines; one small file each."""

from __future__ import annotations

import difflib
import math
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from balanceroute.errors import ConfigError
from balanceroute.files import indented_json

SCHEMA: Literal["balanceroute.afd-profile.v1"] = "balanceroute.afd-profile.v1"
SHIPPED = "profiles"  # folder of the package


class FitQuality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a line is from the measurements it was fitted to.

    Attributes
    ----------
    num_points : int
        Measurements.
    median_error_ratio, p90_error_ratio, max_error_ratio : float
        Of |line − measured| / measured.
    source : str
        Where the measurements come from.
    """

    num_points: int
    median_error_ratio: float
    p90_error_ratio: float
    max_error_ratio: float
    source: str


class AttentionCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One attention worker: ``constant_s + s_per_request·n + s_per_token·T`` per decode step.

    Attributes
    ----------
    s_per_token : float
        α_A, seconds per resident KV token, all layers; above 0.
    s_per_request : float
        Seconds per request; with B of them B·s_per_request + constant_s is the paper's β_A.
    constant_s : float
        Seconds of every step.
    num_devices : int
        Devices of one worker.
    kv_tokens : int or None
        KV tokens that a worker can hold; None: not known.
    fit : FitQuality or None
        None: given by hand.
    """

    s_per_token: float
    s_per_request: float = 0.0
    constant_s: float = 0.0
    num_devices: int = 1
    kv_tokens: int | None = None
    fit: FitQuality | None = None


class FfnCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One FFN worker: ``constant_s + s_per_request·n`` for n requests, one token each.

    Attributes
    ----------
    s_per_request, constant_s : float
        α_F and β_F, seconds per decode step, all layers.
    num_devices : int
        Devices of one worker, for example the ranks that share its experts.
    fit : FitQuality or None
        None: given by hand.
    """

    s_per_request: float
    constant_s: float
    num_devices: int = 1
    fit: FitQuality | None = None


class NetworkCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both ways between attention and FFN: ``constant_s + s_per_request·n`` per decode step.

    Attributes
    ----------
    s_per_request, constant_s : float
        α_C and β_C, seconds, both ways together.
    carries : {"bundle", "worker"}
        What n counts: the requests that come together at an FFN worker (later versions of the
        paper), or those of one attention worker (its first version: no growth with r).
    fit : FitQuality or None
        None: given by hand.
    """

    s_per_request: float = 0.0
    constant_s: float = 0.0
    carries: Literal["bundle", "worker"] = "bundle"
    fit: FitQuality | None = None


class DeviceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a decode step of one model costs on one kind of device.

    Attributes
    ----------
    model, device : str
        Names, for people.
    attention, ffn, network
        The three stages.
    notes : tuple of str
        What the figures leave out.
    """

    schema: Literal["balanceroute.afd-profile.v1"] = SCHEMA
    model: str
    device: str
    attention: AttentionCost
    ffn: FfnCost
    network: NetworkCost = NetworkCost()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for stage in ("attention", "ffn", "network"):
            for name in ("s_per_token", "s_per_request", "constant_s"):
                self._check(stage, name, getattr(getattr(self, stage), name, 0.0))
        if self.attention.s_per_token == 0:
            raise ConfigError(
                f"profile {self.name}: attention.s_per_token is 0, but attention reads the KV "
                "cache, so its time must grow with the tokens; fit it with `afd profile fit`"
            )
        if self.ffn.s_per_request == 0 and self.ffn.constant_s == 0:
            raise ConfigError(f"profile {self.name}: an FFN worker cannot take 0 s for everything")
        for number in (self.attention.num_devices, self.ffn.num_devices):
            if number < 1:
                raise ConfigError(
                    f"profile {self.name}: num_devices must be at least 1, got {number}"
                )
        if self.attention.kv_tokens is not None and self.attention.kv_tokens < 1:
            raise ConfigError(
                f"profile {self.name}: attention.kv_tokens must be at least 1, or left out; got "
                f"{self.attention.kv_tokens}"
            )

    @property
    def name(self) -> str:
        """Return model and device, as shipped profiles are called."""
        return f"{self.model}.{self.device}"

    def _check(self, stage: str, field: str, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(
                f"profile {self.name}: {stage}.{field} must be a number of at least 0, got "
                f"{value:g}; no stage gets faster with more work, so measure it over a wider range"
            )


def shipped_profiles() -> list[str]:
    """Return the names of the profiles in the package, ``MODEL.DEVICE``."""
    folder = resources.files("balanceroute.afd") / SHIPPED
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def load_profile(model: str, device: str) -> DeviceProfile:
    """Return a profile of the package.

    Raises
    ------
    ConfigError
        If there is none of that model and device.

    Examples
    --------
    >>> load_profile("deepseek-v3", "h200_sxm").ffn.num_devices
    8
    """
    name, known = f"{model}.{device}", shipped_profiles()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ConfigError(
            f"there is no profile {name!r}; {hint}Shipped: {', '.join(known)}; for others give "
            "--profile FILE, which `balanceroute afd profile fit` makes of measurements"
        )
    path = resources.files("balanceroute.afd") / SHIPPED / f"{name}.json"
    return decode_profile(path.read_bytes(), name)


def read_profile(path: Path) -> DeviceProfile:
    """Return the profile in a file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"profile {path} cannot be read: {error.strerror}; shipped are "
            f"{', '.join(shipped_profiles())} (--model, --device)"
        ) from error
    return decode_profile(content, str(path))


def decode_profile(content: bytes, source: str) -> DeviceProfile:
    """Return the profile that a file's content is."""
    try:
        return msgspec.json.decode(content, type=DeviceProfile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{source} is no profile: {error}; docs/afd.md shows what one has"
        ) from error


def encode_profile(profile: DeviceProfile) -> bytes:
    """Return a profile as it is kept in a file."""
    return indented_json(profile)


def with_ffn_of(profile: DeviceProfile, other: DeviceProfile) -> DeviceProfile:
    """Return a profile whose FFN workers and network are those of another device."""
    if profile.model != other.model:
        raise ConfigError(f"FFN of {other.model} cannot serve attention of {profile.model}")
    if profile.device == other.device:
        return profile
    device = f"{profile.device}+{other.device}"
    network = max(profile.network, other.network, key=lambda each: each.s_per_request)
    return msgspec.structs.replace(profile, device=device, ffn=other.ffn, network=network)
