"""How a replica tells routers which gang it belongs to."""

from __future__ import annotations

from typing import Any

GANG = "gang_id"


class TellsGang:
    """Mix this into a deployment of several gangs, so that each is balanced by itself.

    The replicas of a gang, as Serve's data-parallel LLM servers are, share a barrier; replicas of
    different gangs do not. Serve shows routers what `record_replica_metadata` returns.
    """

    async def record_replica_metadata(self) -> dict[str, Any]:
        """Return the gang's id, and what the deployment itself would have told."""
        from ray import serve

        its = await _of_others(super())
        gang = serve.get_replica_context().gang_context
        return its if gang is None else its | {GANG: gang.gang_id}


async def _of_others(above: Any) -> dict[str, Any]:
    tell = getattr(above, "record_replica_metadata", None)
    return dict(await tell()) if tell is not None else {}
