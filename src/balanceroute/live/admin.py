"""Changes to a running router, behind a port and a token of their own."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from aiohttp import web

from balanceroute.errors import BalanceRouteError, ConfigError
from balanceroute.live.addresses import is_rank, rank_addresses
from balanceroute.live.answers import Refusal, json_response
from balanceroute.live.config import ServeConfig
from balanceroute.live.dashboard import EVENTS_PATH, FILES, Dashboard, show_file
from balanceroute.live.parts import Parts
from balanceroute.live.warm import warm
from balanceroute.policies.registry import policy_names
from balanceroute.specs import unknown

log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Worker(msgspec.Struct, forbid_unknown_fields=True):
    url: str


class _Choice(msgspec.Struct, forbid_unknown_fields=True):
    policy: str


class Admin:
    """Answers requests to the administrators' port.

    ``GET /workers``, ``POST /workers`` with ``{"url": "http://host:port@rank"}``,
    ``DELETE /workers/RANK`` (drains it; what runs there is brought to its end),
    ``POST /workers/RANK/drain`` and ``/undrain``, ``POST /reload``, ``POST /policy`` with
    ``{"policy": "NAME[,key=value…]"}``; and the live page, with the means to change the policy.

    Parameters
    ----------
    parts : Parts
        What is changed.
    reread : callable or None
        Returns the settings as the file says now; None: there is no file.
    dashboard : Dashboard
        Which tells the page what to show.
    """

    def __init__(
        self, parts: Parts, reread: Callable[[], ServeConfig] | None, dashboard: Dashboard
    ) -> None:
        self._parts, self._reread, self._dashboard = parts, reread, dashboard

    def app(self) -> web.Application:
        """Return the application to serve."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/workers", self._list)
        app.router.add_post("/workers", self._add)
        app.router.add_delete("/workers/{rank}", self._drain)
        app.router.add_post("/workers/{rank}/drain", self._drain)
        app.router.add_post("/workers/{rank}/undrain", self._undrain)
        app.router.add_post("/reload", self._reload)
        app.router.add_post("/policy", self._choose)
        app.router.add_get(EVENTS_PATH, self._events)
        for path in FILES:
            app.router.add_get(path, show_file)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
        token = self._parts.config.admin_token
        try:
            is_open = request.method == "GET" and request.path in FILES  # there is nothing in them
            if not is_open and not hmac.compare_digest(_bytes(shown), _bytes(token)):
                raise Refusal(401, "the administrators' token is needed", "unauthorized")
            return await handler(request)
        except Refusal as refusal:
            return refusal.response()
        except BalanceRouteError as error:
            return Refusal(400, str(error), "bad_setting").response()

    async def _list(self, _: web.Request) -> web.StreamResponse:
        return json_response(workers(self._parts))

    async def _add(self, request: web.Request) -> web.StreamResponse:
        try:
            url = msgspec.json.decode(await request.read(), type=_Worker).url
        except msgspec.DecodeError as error:
            raise Refusal(400, f'the body must be {{"url": …}}: {error}', "bad_body") from error
        for address in rank_addresses([url]):
            if address in self._parts.addresses:
                self._parts.health.drain(self._parts.addresses.index(address), is_draining=False)
            else:
                self._parts.add_rank(address)
        return json_response(workers(self._parts))

    async def _drain(self, request: web.Request) -> web.StreamResponse:
        self._parts.health.drain(self._rank(request), is_draining=True)
        return json_response(workers(self._parts))

    async def _undrain(self, request: web.Request) -> web.StreamResponse:
        self._parts.health.drain(self._rank(request), is_draining=False)
        return json_response(workers(self._parts))

    async def _reload(self, _: web.Request) -> web.StreamResponse:
        if self._reread is None:
            raise Refusal(400, "the router was started without --config FILE", "no_file")
        self._parts.reload(self._reread())
        return json_response(workers(self._parts))

    async def _choose(self, request: web.Request) -> web.StreamResponse:
        try:
            spec = msgspec.json.decode(await request.read(), type=_Choice).policy
        except msgspec.DecodeError as error:
            raise Refusal(400, f'the body must be {{"policy": …}}: {error}', "bad_body") from error
        parts, loop = self._parts, asyncio.get_running_loop()
        if spec.partition(",")[0].strip() not in policy_names():  # no files of code
            raise ConfigError(unknown("policy", spec, policy_names()))
        prepare = partial(warm, spec, num_ranks=parts.group.num_ranks, costs=parts.barrier.costs)
        await loop.run_in_executor(None, prepare)  # compiles, while others are served
        parts.change_policy(spec)
        log.warning("the policy is %s from now on", spec)
        return json_response({"policy": parts.policy_now})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._dashboard.events(request, policy_names())

    def _rank(self, request: web.Request) -> int:
        text, num_ranks = request.match_info["rank"], len(self._parts.addresses)
        if not is_rank(text, num_ranks):
            raise Refusal(404, f"rank must be in 0..{num_ranks - 1}, got {text!r}", "bad_rank")
        return int(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def workers(parts: Parts) -> dict[str, object]:
    """Return the ranks as `/workers` shows them."""
    ranks, group, health = parts.group.ledger.ranks, parts.group, parts.health
    shown = [
        {
            "rank": rank,
            "worker": address.name,
            "is_open": is_open,
            "is_well": health.is_well[rank],
            "is_draining": health.is_draining[rank],
            "reason": health.reasons[rank],
            "load_tokens": int(ranks["load_tokens"][rank]),
            "num_inflight": int(ranks["num_running"][rank] + ranks["num_waiting"][rank]),
            "num_slots": int(group.num_slots[rank]),
            "num_foreign": int(group.foreign_reqs[rank]),
        }
        for rank, (address, is_open) in enumerate(zip(parts.addresses, health.is_open, strict=True))
    ]
    tier = parts.prefill.servers if parts.prefill is not None else []
    prefill = [
        {
            "worker": server.address.name,
            "is_well": server.is_well,
            "kv_usage": server.kv_usage,
            "due_tokens": server.due_tokens,
        }
        for server in tier
    ]
    its = {"workers": shown, "prefill": prefill, "num_waiting": parts.num_waiting}
    return its if parts.processes is None else its | {"processes": parts.processes.shown()}
