"""KV blocks on their way from prefill ranks to decode ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What names a prompt's KV in the parameters of vLLM's NIXL connector.
ENGINE_KEY, REQUEST_KEY = "remote_engine_id", "remote_request_id"


class KvExchange:
    """Which prefilled prompts keep their KV blocks until a decode rank has fetched them.

    Groups of one process share an exchange.

    Examples
    --------
    >>> exchange = KvExchange()
    >>> exchange.hold("engine-0", "cmpl-1", lambda: print("released"))
    >>> exchange.fetch({"remote_engine_id": "engine-0", "remote_request_id": "cmpl-1"})
    released
    >>> len(exchange)
    0
    """

    def __init__(self) -> None:
        self._held: dict[tuple[object, object], Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, engine_id: str, request_id: str, release: Callable[[], None]) -> None:
        """Call `release` when the KV of a request has been fetched."""
        self._held[engine_id, request_id] = release

    def fetch(self, params: dict[str, Any]) -> None:
        """Fetch what a decode request's parameters name; nothing if it is elsewhere or gone."""
        engine_id, request_id = params.get(ENGINE_KEY), params.get(REQUEST_KEY)
        if isinstance(engine_id, str) and isinstance(request_id, str):
            release = self._held.pop((engine_id, request_id), None)
            if release is not None:
                release()
