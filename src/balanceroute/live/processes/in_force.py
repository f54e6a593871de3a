"""What is in force, for whoever takes another's place."""

from __future__ import annotations

import msgspec

from balanceroute.live.addresses import RankAddress
from balanceroute.live.config import ServeConfig


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """What a brain that takes another's place has to go on with.

    Attributes
    ----------
    config : ServeConfig
        The settings.
    ranks : list of pairs
        URL and number there of every rank that there has been, in order.
    is_draining : list of bool
        Which of them get nothing new.
    """

    config: ServeConfig
    ranks: list[tuple[str, int | None]]
    is_draining: list[bool]

    @staticmethod
    def of(
        config: ServeConfig, addresses: list[RankAddress], is_draining: list[bool] | None = None
    ) -> InForce:
        """Return settings with the ranks that there are."""
        return InForce(
            config=config,
            ranks=[(address.url, address.rank) for address in addresses],
            is_draining=list(is_draining or [False] * len(addresses)),
        )

    @property
    def addresses(self) -> list[RankAddress]:
        """Return the ranks."""
        return [RankAddress(url, rank) for url, rank in self.ranks]
