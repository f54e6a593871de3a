"""What a load generator is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from balanceroute.errors import ConfigError

Arrivals = Literal["saturated", "trace", "poisson"]
Api = Literal["completions", "chat"]
Lengths = Literal["header", "ignore-eos"]
Prompts = Literal["ids", "text"]

DEFAULT_CONCURRENCY = 64
PATHS: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Where requests go, when, and in what form.

    Attributes
    ----------
    url : str
        Scheme, host and port of the server; a path such as ``/v1`` at its end is dropped.
    arrivals : {"saturated", "trace", "poisson"}
        Closed loop, the workload's own times, or a Poisson process. The last two never wait for
        answers.
    concurrency : int or None
        Saturated: requests kept outstanding; None for 64, or what `pool` says.
    pool : int or None
        Saturated: requests kept outstanding beyond the slots of the group at `steps_url`.
    rate_per_s : float or None
        Poisson: requests per second before scaling; None takes the source's mean rate.
    rate_scale : float
        Factor on the rate of a trace or Poisson process, above 0.
    seed : int
        Of prompts and Poisson times, at least 0.
    api : {"completions", "chat"}
        Endpoint.
    is_streamed : bool
        Whether answers come token by token; else nothing is known of their first token.
    lengths : {"header", "ignore-eos"}
        How the server is told the length of an output: in the header that `balanceroute emulate`
        reads, or by ``max_tokens``, ``min_tokens`` and ``ignore_eos``.
    prompts : {"ids", "text"} or None
        Token ids or text; None for ids, and text for chats.
    model : str or None
        None for the first that the server lists.
    api_key : str or None
        Sent as ``Authorization: Bearer``.
    timeout_s : float
        Longest time that a request may take, above 0.
    warmup_s : float
        Start of the run that figures leave out, at least 0.
    duration_s : float or None
        How long requests are sent after the warm-up; None: until there are none left.
    steps_url : str or None
        Emulated group whose steps are read for the records.
    label : str or None
        What is measured, for tables; None for the URL.

    Examples
    --------
    >>> config = LoadConfig(url="http://127.0.0.1:30000/v1/", api="chat")
    >>> config.base_url, config.path, config.prompt_kind
    ('http://127.0.0.1:30000', '/v1/chat/completions', 'text')
    """

    url: str
    arrivals: Arrivals = "saturated"
    concurrency: int | None = None
    pool: int | None = None
    rate_per_s: float | None = None
    rate_scale: float = 1.0
    seed: int = 0
    api: Api = "completions"
    is_streamed: bool = True
    lengths: Lengths = "header"
    prompts: Prompts | None = None
    model: str | None = None
    api_key: str | None = None
    timeout_s: float = 1800.0
    warmup_s: float = 0.0
    duration_s: float | None = None
    steps_url: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        for name, choice, allowed in (
            ("arrivals", self.arrivals, get_args(Arrivals)),
            ("api", self.api, get_args(Api)),
            ("lengths", self.lengths, get_args(Lengths)),
            ("prompts", self.prompt_kind, get_args(Prompts)),
        ):
            if choice not in allowed:
                raise ConfigError(f"--{name} must be one of {', '.join(allowed)}, got {choice!r}")
        read_url("url", self.url)
        if self.steps_url is not None:
            read_url("steps-url", self.steps_url)
        self._check_numbers()
        self._check_arrivals()
        if self.api == "chat" and self.prompts == "ids":
            raise ConfigError(
                "--prompts ids is for --api completions: a chat is text; leave it out"
            )

    @property
    def is_saturated(self) -> bool:
        """Tell whether each answered request is replaced at once."""
        return self.arrivals == "saturated"

    @property
    def base_url(self) -> str:
        """Return scheme, host and port."""
        return read_url("url", self.url)

    @property
    def path(self) -> str:
        """Return the path of the endpoint."""
        return PATHS[self.api]

    @property
    def prompt_kind(self) -> Prompts:
        """Return the form of the prompts."""
        return self.prompts or ("text" if self.api == "chat" else "ids")

    @property
    def name(self) -> str:
        """Return what the run is called."""
        return self.label or self.base_url

    @property
    def send_s(self) -> float:
        """Return how long requests are sent, warm-up included; infinite if nothing is said."""
        return math.inf if self.duration_s is None else self.warmup_s + self.duration_s

    def _check_numbers(self) -> None:
        for name, value in (
            ("rate", self.rate_per_s),
            ("rate-scale", self.rate_scale),
            ("timeout-secs", self.timeout_s),
            ("duration-secs", self.duration_s),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"--{name} must be a number above 0, got {value}")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise ConfigError(f"--warmup-secs must be a number of at least 0, got {self.warmup_s}")
        for name, count, least in (
            ("seed", self.seed, 0),
            ("concurrency", self.concurrency, 1),
            ("pool", self.pool, 0),
        ):
            if count is not None and count < least:
                raise ConfigError(f"--{name} must be at least {least}, got {count}")

    def _check_arrivals(self) -> None:
        if self.rate_per_s is not None and self.arrivals != "poisson":
            raise ConfigError("--rate is for --arrivals poisson; leave it out")
        if self.is_saturated and self.rate_scale != 1:
            raise ConfigError("--rate-scale is for --arrivals trace or poisson; leave it out")
        for name, count in (("concurrency", self.concurrency), ("pool", self.pool)):
            if count is not None and not self.is_saturated:
                raise ConfigError(f"--{name} is for --arrivals saturated; leave it out")
        if self.pool is None:
            return
        if self.concurrency is not None:
            raise ConfigError("--concurrency and --pool say the same thing; leave one out")
        if self.steps_url is None:
            raise ConfigError(
                "--pool counts requests beyond the slots of a group, which only --steps-url tells; "
                "give that, or --concurrency instead"
            )


def read_url(option: str, text: str) -> str:
    """Return scheme, host and port of a URL.

    Raises
    ------
    ConfigError
        If it is none, or has parts that would be ignored.

    Examples
    --------
    >>> read_url("url", "https://llm.example:8443/v1")
    'https://llm.example:8443'
    >>> read_url("url", "localhost:8000")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: --url 'localhost:8000' is not a URL like http://127.0.0.1:30000
    """
    example = "http://127.0.0.1:30000"
    try:
        parts = urlsplit(text)
        has_port = parts.port != 0  # asked for, because a bad port is found out only then
    except ValueError:
        has_port = False
    if not has_port or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--{option} {text!r} is not a URL like {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(f"--{option} {text!r} has parts that are not used; write it as {example}")
    if parts.path.rstrip("/") not in ("", "/v1"):
        raise ConfigError(
            f"--{option} {text!r}: paths are fixed (/v1/completions, …); write it as {example}"
        )
    return f"{parts.scheme}://{parts.netloc}"
