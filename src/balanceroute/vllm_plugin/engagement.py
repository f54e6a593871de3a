"""The plug-in at work in one client of vLLM."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from balanceroute.live.planner import Planner
from balanceroute.live.ticket import Ticket
from balanceroute.vllm_plugin.balancer import Balancer
from balanceroute.vllm_plugin.facts import RequestFacts
from balanceroute.vllm_plugin.meters import Reporter
from balanceroute.vllm_plugin.peers import Peers
from balanceroute.vllm_plugin.rounds import StepRounds

REPORT_S = 0.25  # from something happening to the metrics that show it
log = logging.getLogger("vllm.plugins.balanceroute")

Send = Callable[[Any, Any], Awaitable[None]]


class Engagement:
    """What the plug-in does when something happens in a client; nothing of it raises.

    Parameters
    ----------
    balancer, reporter, peers
        See their classes; `peers` is None where there is one API server.
    client : DPLBAsyncMPClient
        Whose requests these are; held weakly, since vLLM stops when it is collected.
    send : callable
        vLLM's own ``add_request_async``.
    failed_outputs : callable
        Returns what a rank would report of a request by this id that has failed.
    routes : bool
        False: vLLM chooses, and the plug-in only counts.
    queue_size, queue_timeout_s, settle_s
        As in `PluginSettings`.
    has_barrier : bool
        Whether the ranks make their steps together.
    """

    def __init__(
        self,
        *,
        balancer: Balancer,
        reporter: Reporter,
        peers: Peers | None,
        client: Any,
        send: Send,
        failed_outputs: Callable[[str], Any],
        routes: bool,
        queue_size: int = 4096,
        queue_timeout_s: float = 30.0,
        settle_s: float = 0.002,
        has_barrier: bool = True,
    ) -> None:
        self.balancer, self.reporter, self._peers = balancer, reporter, peers
        self._client, self._send, self._routes = weakref.ref(client), send, routes
        self._failed_outputs = failed_outputs
        self._rank_of = {engine: rank for rank, engine in enumerate(client.core_engines)}
        self._first_engine = client.engine_ranks_managed[0]
        self._queue_size, self._queue_timeout_s = queue_size, queue_timeout_s
        self._settle_s = settle_s
        num_ranks = balancer.group.num_ranks
        self._rounds = StepRounds(num_ranks, settle_s=settle_s, has_barrier=has_barrier)
        self._planner: Planner | None = None
        self._held: dict[str, tuple[Any, Ticket]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsent: set[str] = set()  # they have left the pool; an abort may still come
        self._is_report_due = False
        self._strays: set[str] = set()
        self.is_on = True

    def choose(self, client: Any, request: Any) -> bool:
        """Set the rank of a request that vLLM is about to send; False if that is not ours to do."""
        try:
            return self._choose(client, request)
        except Exception:
            self.give_up("choosing a rank failed")
            return False

    def _choose(self, client: Any, request: Any) -> bool:
        if len(client.core_engines) != self.balancer.group.num_ranks:
            self.give_up("the number of ranks has changed, which is not supported")
            return False
        request_id = request.request_id
        if request_id in self.balancer:  # it comes from the pool, or is more input
            return request_id not in client.reqs_in_flight
        is_free = request.data_parallel_rank is None and request.pooling_params is None
        if not (self._routes and is_free):
            return False
        began_s = time.perf_counter()
        if self._peers is not None:
            self.balancer.see_others(*self._peers.others())
        request.data_parallel_rank = self.balancer.place(_facts_of(request))
        self.reporter.decision_s += time.perf_counter() - began_s
        self._count("policy")
        return True

    def note_choice(self, request: Any, engine: Any, *, is_ours: bool) -> None:
        """Book where a request goes, if vLLM or its client has chosen."""
        if not self.is_on:
            return
        try:
            if not is_ours:
                self.balancer.book(_facts_of(request), self._rank_of[engine])
                self._count("client" if request.data_parallel_rank is not None else "vllm")
            self._tell()
        except Exception:
            self.give_up("booking a request failed")

    def holds(self, client: Any, request: Any) -> bool:
        """Put a request into the pool if it may wait there; False if it is to be sent now."""
        if not self._routes or self.balancer.group.is_immediate:
            return False
        if (
            request.data_parallel_rank is not None
            or request.sampling_params is None
            or request.resumable
            or getattr(request, "abort_immediately", False)
            or request.request_id in client.reqs_in_flight
            or len(self._held) >= self._queue_size
        ):
            return False
        client.ensure_alive()  # raises as it would if the request were sent
        try:
            self._hold(request)
        except Exception:
            self.give_up("holding a request failed")
            return False
        return True

    def _hold(self, request: Any) -> None:
        if self._planner is None:
            self._planner = Planner(
                self.balancer.group,
                settle_s=self._settle_s,
                on_plan=float,  # nobody wants to know how long it took
                on_failure=lambda: self.give_up("the policy has failed"),
            )

        def send(rank: int) -> None:
            self._held.pop(request.request_id, None)
            request.data_parallel_rank = rank
            self._count("policy")
            self._start_sending(request)

        self._held[request.request_id] = request, self.balancer.hold(_facts_of(request), send)
        self._planner.arrive()
        self._expect_report()

    def _start_sending(self, request: Any) -> None:
        client = self._client()
        if client is not None:
            self._unsent.add(request.request_id)
            task = asyncio.get_running_loop().create_task(self._send_held(client, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send_held(self, client: Any, request: Any) -> None:
        """Send a request whose caller does not wait for it any more."""
        if request.request_id not in self._unsent:  # aborted
            self.balancer.close(request.request_id, has_completed=False)
            return
        self._unsent.discard(request.request_id)
        try:
            await self._send(client, request)
        except Exception:
            self.balancer.close(request.request_id, has_completed=False)
            if not client.resources.engine_dead:  # then vLLM tells all requests itself
                log.exception("request %s could not be sent", request.request_id)
                failed = self._failed_outputs(request.request_id)
                await type(client).process_engine_outputs(client, failed)
                client.outputs_queue.put_nowait(failed)

    def drop_held(self, request_ids: list[str]) -> None:
        """Take aborted requests out of the pool."""
        for request_id in request_ids:
            self._unsent.discard(request_id)
            held = self._held.pop(request_id, None)
            if held is not None:
                self.balancer.group.leave(held[1])

    def release_held(self, *, after_s: float = 0.0) -> None:
        """Bind those at once that have been held for so long."""
        now_s = time.monotonic()
        for request, ticket in list(self._held.values()):
            if now_s - ticket.arrived_s < after_s:
                break  # they are in order of arrival
            self.balancer.group.leave(ticket)
            del self._held[request.request_id]
            self._start_sending(request)

    async def sent(self) -> None:
        """Wait until those that have left the pool are sent."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def take_step(self, outputs: Any) -> None:
        """Book what a rank has reported."""
        try:
            rank = outputs.engine_index - self._first_engine
            self.balancer.take_step(rank, outputs.outputs, outputs.finished_requests)
            stats = outputs.scheduler_stats
            if stats is not None and self._peers is None:
                self.balancer.see_usage(rank, stats.kv_cache_usage)
            self._tell()
            self._rounds.hear(rank)
            wait_s = self._rounds.wait_s(self.balancer.num_reqs)
            if wait_s == 0.0:
                self.balancer.group.end_step()
            self._look_at_held(wait_s)
        except Exception:
            self.give_up("booking a step failed")

    def _look_at_held(self, wait_s: float) -> None:
        if self._held and self._planner is not None:
            self._planner.free(wait_s=wait_s)
            self.release_held(after_s=self._queue_timeout_s)

    def _tell(self) -> None:
        if self._peers is not None:
            self._peers.tell(self.balancer.group.ledger.accounts.ranks)
        self._expect_report()

    def _count(self, by: str) -> None:
        self.reporter.num_decisions[by] = self.reporter.num_decisions.get(by, 0) + 1

    def _expect_report(self) -> None:
        if not self._is_report_due:
            self._is_report_due = True
            asyncio.get_running_loop().call_later(REPORT_S, self._report)

    def _report(self) -> None:
        self._is_report_due = False
        if not self.is_on:
            return
        try:
            self._repair()
            if self._peers is not None:
                self.balancer.see_others(*self._peers.others())
            self.balancer.pass_time()
            self.balancer.renew_policy()
            # Others may have left slots, which no output here tells.
            self._look_at_held(self._rounds.wait_s(self.balancer.num_reqs))
            self.reporter.update()
        except Exception:
            self.give_up("reporting failed")
            return
        if self.balancer.num_in_flight > 0 or self._held:
            self._expect_report()

    def _repair(self) -> None:
        """Take out of the accounts what vLLM's client has forgotten twice in a row."""
        client = self._client()
        if client is None or self.balancer.num_in_flight <= len(client.reqs_in_flight):
            self._strays.clear()
            return
        found = set(self.balancer.strays(client.reqs_in_flight))
        for request_id in found & self._strays:
            log.warning("request %s was in the ledger but not in vLLM", request_id)
            self.balancer.close(request_id, has_completed=False)
        self.reporter.repair(len(found & self._strays))
        self._strays = found - self._strays

    def give_up(self, reason: str) -> None:
        """Leave everything to vLLM from now on, and say so once."""
        if not self.is_on:
            return
        self.is_on = False
        log.error(
            "balanceroute: %s; vLLM's own choice of ranks is back in force",
            reason,
            exc_info=sys.exc_info()[0] is not None,
        )
        if self._planner is not None:
            self._planner.stop()
        requests = [request for request, _ in self._held.values()]
        self._held.clear()
        for request in requests:
            self._start_sending(request)
        self.reporter.end()


def _facts_of(request: Any) -> RequestFacts:
    prompt = request.prompt_token_ids
    if prompt is None:
        prompt = request.prompt_embeds
    params = request.sampling_params
    return RequestFacts(
        request_id=request.request_id,
        prompt_tokens=len(prompt) if prompt is not None else 1,
        max_tokens=(params.max_tokens or 0) if params is not None else 0,
        priority=request.priority,
    )
