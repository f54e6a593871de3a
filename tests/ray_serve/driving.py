"""Does with a router what Serve does."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.ray_serve.stand_in import (
    PendingRequest,
    ReplicaID,
    RequestMetadata,
    Result,
    RunningReplica,
)


class Serve:
    """Does with a router what Serve does."""

    def __init__(self, module: Any, *names: str, gangs: str = "", **settings: Any) -> None:
        self.router = module.BalanceRouteRequestRouter()
        self.router.initialize_state(**{"policy": "least_tokens", "slots": 2} | settings)
        self.number = 0
        self.set_replicas(*names, gangs=gangs)

    def set_replicas(self, *names: str, gangs: str = "") -> None:
        self.replicas = [RunningReplica(ReplicaID(name), 8) for name in names]
        for replica, gang in zip(self.replicas, gangs, strict=False):
            replica.replica_metadata = {"gang_id": gang}
        self.router.update_replicas(self.replicas)

    def pending(self, num_tokens: int = 10, *, is_streaming: bool = True) -> PendingRequest:
        self.number += 1
        metadata = RequestMetadata(f"r{self.number}", f"i{self.number}", is_streaming)
        future = asyncio.get_running_loop().create_future()
        return PendingRequest([{"prompt": [1] * num_tokens}], {}, metadata, future)

    async def choose(self, pending: PendingRequest) -> str:
        """Route a request, and say where it goes; an empty name if nowhere."""
        found = await self.router.choose_replicas(self.replicas, pending)
        if not found:
            return ""
        ((replica,),) = found
        if not pending.future.done():
            pending.future.set_result(replica)
        return str(replica.replica_id.unique_id)

    async def send(self, pending: PendingRequest, pieces: list[Any] | None = None) -> Result:
        name = await self.choose(pending)
        result = Result(pieces or [])
        self.router.on_request_routed(pending, ReplicaID(name), result)
        return result

    def complete(self, pending: PendingRequest, name: str) -> None:
        self.router.on_request_completed(ReplicaID(name), pending.metadata.internal_request_id)

    @property
    def desk(self) -> Any:
        (its,) = self.router._desks.values()
        return its

    @property
    def loads(self) -> list[int]:
        here = self.desk.group.ledger.ranks
        found: list[int] = (here["load_tokens"] + here["due_tokens"]).tolist()
        return found

    def expect_nothing_left(self) -> None:
        for desk in self.router._desks.values():
            assert 0 == desk.group.num_waiting == desk.group.ledger.num_in_flight
            desk.group.check()
        assert 0 == len(self.router._calls)
