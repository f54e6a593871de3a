"""Where the ranks are: URLs as operators write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from balanceroute.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RankAddress:
    """Where one rank takes requests.

    Attributes
    ----------
    url : str
        Scheme, host and port.
    rank : int or None
        Its number there, if several share the URL.
    """

    url: str
    rank: int | None = None

    @property
    def name(self) -> str:
        """Return the address as it is written in the settings."""
        return self.url if self.rank is None else f"{self.url}@{self.rank}"


def rank_addresses(urls: Sequence[str], *, ranks_per_url: int = 1) -> list[RankAddress]:
    """Return one address per rank, in the order in which the ranks are numbered.

    Parameters
    ----------
    urls : sequence of str
        ``http://host:port`` or ``http://host:port@rank``.
    ranks_per_url : int
        What a URL that names no rank stands for, at least 1.

    Raises
    ------
    ConfigError
        If a URL is not one, or a rank is named twice.

    Examples
    --------
    >>> [address.name for address in rank_addresses(["http://a:8000"], ranks_per_url=2)]
    ['http://a:8000@0', 'http://a:8000@1']
    >>> rank_addresses(["http://a:8000@3"])
    [RankAddress(url='http://a:8000', rank=3)]
    """
    addresses = []
    for text in urls:
        base, at, number = text.rpartition("@")
        if not at:
            base = text
        elif "@" in base or not number.isdecimal():
            raise ConfigError(  # and not what stands before the @, which may be a password
                f"worker URL {_hidden(text)!r}: the rank after @ must be a number, and there must "
                "be no user name; the engine's own key is passed on from clients' Authorization"
            )
        _expect_url(text, base)
        base = base.rstrip("/")
        if at:
            addresses.append(RankAddress(base, int(number)))
        elif ranks_per_url == 1:
            addresses.append(RankAddress(base))
        else:
            addresses += [RankAddress(base, rank) for rank in range(ranks_per_url)]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ConfigError(f"worker URL {address.name!r} is given twice")
    return addresses


def is_rank(text: str, num_ranks: int) -> bool:
    """Tell whether a text is the number of one of so many ranks.

    Examples
    --------
    >>> is_rank("1", 2), is_rank("2", 2), is_rank("-1", 2), is_rank(5000 * "1", 2)
    (True, False, False, False)
    """
    # Of thousands of digits Python makes no number.
    return text.isdecimal() and len(text) < 10 and int(text) < num_ranks


def _hidden(text: str) -> str:
    """Return a URL without what stands before its host."""
    scheme, mark, _ = text.partition("://")
    return f"{scheme if mark else ''}{mark}…@{text.rpartition('@')[2]}"


def _expect_url(text: str, base: str) -> None:
    example = "use http://host:port, or http://host:port@rank"
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"worker URL {text!r}: {error}; {example}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"worker URL {text!r} has no scheme or host; {example}")
    if parts.username is not None or parts.query or parts.fragment or port == 0:
        raise ConfigError(f"worker URL {text!r} has parts that are not used; {example}")
