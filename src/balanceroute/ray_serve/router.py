"""The class that a deployment of Ray Serve names as its request router."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from functools import partial
from typing import Any

from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.live.warm import warm
from balanceroute.policies.costs import parse_costs
from balanceroute.ray_serve.booked import Call, Calls
from balanceroute.ray_serve.calls import CallMeter, read_call
from balanceroute.ray_serve.desk import Desk, GroupGoneError
from balanceroute.ray_serve.gang import GANG
from balanceroute.ray_serve.settings import RouterSettings, checked_settings
from balanceroute.ray_serve.streams import Inbox, count_pieces

try:
    from ray.serve.config import RequestRouterConfig
    from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
except ImportError as error:
    raise MissingExtraError(
        "the request router needs Ray Serve; install it with: pip install 'balanceroute[ray]'"
    ) from error

MAX_TASKS = 1 << 16  # requests that are shown to the policy; Serve would show two per replica
TEND_S = 0.5
LAG_S = 0.1  # from the end of a stream to its last piece being read

log = logging.getLogger("ray.serve")


class BalanceRouteRequestRouter(RequestRouter):  # type: ignore[misc]  # Ray is as if untyped
    """Sends each request to the replica that BalanceRoute's policy chooses.

    Name it in a deployment's ``request_router_config``, with the fields of `RouterSettings` as
    ``request_router_kwargs``. Each process that holds a handle of the deployment has a router of
    its own, which knows its own requests exactly, and of those of others how many there are.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Take the settings in; Serve calls this once, before there are replicas."""
        self._fault: ConfigError | None = None
        self._settings = RouterSettings()
        try:
            self._settings = checked_settings(kwargs)
        except ConfigError as error:  # Serve would log it, and let all requests wait for ever
            self._fault = error
            log.error("BalanceRoute: no request is routed: %s", error)
        self._desks: dict[str, Desk] = {}
        self._calls = Calls()
        self._warming: asyncio.Future[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._inbox: Inbox | None = None

    @property
    def max_num_routing_tasks(self) -> int:
        """Return how many requests may wait for a replica in sight of the policy."""
        return MAX_TASKS

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take in which replicas run now."""
        groups: dict[str, dict[str, int]] = {}
        for replica in replicas:
            group = str(getattr(replica, "replica_metadata", {}).get(GANG, ""))
            slots_of = groups.setdefault(group, {})
            slots_of[replica.replica_id.unique_id] = replica.max_ongoing_requests
        for group, slots_of in groups.items():
            if group in self._desks:
                self._desks[group].set_replicas(slots_of)
            else:
                self._desks[group] = Desk(self._settings, slots_of)
        for group in self._desks.keys() - groups.keys():
            self._desks[group].set_replicas({})
            if groups:
                self._desks[group].evict()
        self._start(len(replicas))
        super().update_replicas(replicas)

    def _start(self, num_replicas: int) -> None:
        """Begin what a router does on its event loop, which it does not know before."""
        if self._warming is not None or self._fault is not None:
            return
        loop = asyncio.get_running_loop()
        self._inbox = Inbox(loop, self._grow)
        # Compiling takes seconds where no machine code is cached; requests wait, the loop does not.
        costs = parse_costs(self._settings.costs) if self._settings.costs else None
        work = partial(warm, self._settings.policy, num_ranks=max(1, num_replicas), costs=costs)
        self._warming = loop.run_in_executor(None, work)
        self._tending = loop.create_task(_tend(weakref.ref(self)))

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Wait until the policy has a replica for a request; in trouble, leave it to Serve."""
        if pending_request is None:
            return [candidate_replicas]
        if self._fault is not None:
            if not pending_request.future.done():
                pending_request.future.set_exception(self._fault)
            return [candidate_replicas]  # Serve looks at the future only if there are some
        try:
            name = await self._choose(pending_request)
        except Exception:
            log.exception("BalanceRoute has failed; Serve chooses a replica by itself")
            return [candidate_replicas]
        found = next((r for r in candidate_replicas if r.replica_id.unique_id == name), None)
        return [[found]] if found is not None else []

    async def _choose(self, pending: PendingRequest) -> str:
        """Wait for the name of a replica."""
        assert self._warming is not None  # no candidates before update_replicas
        await asyncio.shield(self._warming)
        before = self._take_back(pending)
        while True:
            desk = min(self._desks.values(), key=lambda desk: desk.pressure)
            if before is not None and before.desk is desk:  # it keeps its age
                facts, ticket = before.facts, before.ticket
            else:
                facts = read_call(pending.args, pending.kwargs)
                ticket = desk.ticket_of(facts, is_streamed=pending.metadata.is_streaming)
            with contextlib.suppress(GroupGoneError):
                replica = await desk.place(ticket)
                break
        call = Call(
            pending=pending,
            future=pending.future,
            desk=desk,
            facts=facts,
            ticket=ticket,
            replica=replica,
            chosen_s=time.monotonic(),
        )
        self._calls.add(call)
        call.future.add_done_callback(partial(self._note_choice, call))
        return replica

    def _take_back(self, pending: PendingRequest) -> Call | None:
        """Release what is booked for a request that Serve could not deliver, or that was refused.

        Where it was sent, its completion is still to come.
        """
        call = self._calls.booked_for(pending)
        if call is None:
            return None
        call.desk.release(call.ticket)
        call.is_over = True
        if call.future is pending.future:
            self._calls.forget(call)
            call.desk.see_full(call.replica)
        return call

    def _note_choice(self, call: Call, future: asyncio.Future[Any]) -> None:
        """Book where a request goes now, or that nobody waits for it any more."""
        if call.is_over or future is not call.future:
            return
        if future.cancelled() or future.exception() is not None:
            self._end(call)
        else:
            self._move(call, future.result().replica_id.unique_id)

    def _move(self, call: Call, replica: str) -> None:
        if call.replica != replica:
            call.replica = replica
            call.desk.move(call.ticket, replica)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Book that a replica has taken a request, and follow its answer."""
        call = self._calls.booked_for(pending_request)
        if call is None:
            return
        self._move(call, replica_id.unique_id)
        call.is_confirmed = True
        if pending_request.metadata.is_streaming and self._inbox is not None:
            call.meter = CallMeter()
            count_pieces(result, call.meter, partial(self._inbox.put, call))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Book that a request has ended, however it has."""
        if self._inbox is not None:
            self._inbox.empty()
        call = self._calls.completed(internal_request_id, replica_id.unique_id)
        if call is None:
            return
        if call.meter is None or call.meter.is_done or call.is_over:
            self._end(call)
            return
        # The caller is about to read the last pieces, which tell what the request has come to.
        call.is_ending = True
        asyncio.get_running_loop().call_later(LAG_S, self._end, call)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Choose a replica no more."""
        super().on_replica_actor_died(replica_id)
        for desk in self._desks.values():
            desk.close_replica(replica_id.unique_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """Take in how many requests a replica has, whoever has sent them."""
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        for desk in self._desks.values():
            desk.see_queue(replica_id.unique_id, num_ongoing_requests)

    def _grow(self, call: Call, num_tokens: int) -> None:
        if call.is_over:
            return
        call.desk.grow(call.ticket, num_tokens)
        if call.is_ending and call.meter is not None and call.meter.is_done:
            self._end(call)

    def _end(self, call: Call) -> None:
        self._calls.forget(call)
        if call.is_over:
            return
        call.is_over = True
        if call.meter is not None and call.meter.usage is not None:
            call.desk.learn(call.ticket, call.facts, call.meter.usage)
        has_completed = call.meter is not None and call.meter.is_done
        call.desk.release(call.ticket, has_completed=has_completed)

    def tend(self) -> None:
        """Give up bookings that nobody has confirmed, and forget what was heard long ago."""
        late_s = time.monotonic() - self._settings.lease_secs
        for call in self._calls:
            if not call.is_confirmed and call.chosen_s < late_s:
                log.warning(
                    "BalanceRoute: replica %s was chosen for request %s, and Serve has not said "
                    "that it was taken; it is not counted any more",
                    call.replica,
                    call.pending.metadata.request_id,
                )
                self._end(call)
        for group, desk in list(self._desks.items()):
            desk.tend()
            if desk.is_idle and len(self._desks) > 1:  # a gang that is started anew has a new name
                del self._desks[group]


def request_router_config(**settings: Any) -> RequestRouterConfig:
    """Return what a deployment takes as its ``request_router_config``.

    Parameters
    ----------
    **settings
        Fields of `RouterSettings`.

    Raises
    ------
    ConfigError
        If one is unknown, out of its range, or names a policy or costs that are none.
    """
    checked_settings(settings)
    return RequestRouterConfig(
        request_router_class=f"{__name__}.{BalanceRouteRequestRouter.__name__}",
        request_router_kwargs=settings,
    )


async def _tend(router: weakref.ref[BalanceRouteRequestRouter]) -> None:
    """Tend a router as long as somebody uses it."""
    while (here := router()) is not None:
        here.tend()
        del here
        await asyncio.sleep(TEND_S)
