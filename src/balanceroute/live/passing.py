"""What makes no load that is accounted for: passed on to the ranks in turn, or to who decides."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from balanceroute.live.addresses import RankAddress
from balanceroute.live.answers import Refusal, no_brain, no_rank
from balanceroute.live.carrying import Carrying
from balanceroute.live.clients import read_body
from balanceroute.live.endings import has_left
from balanceroute.live.events import EVENT_STREAM, WholeEvents, error_event
from balanceroute.live.upstream import answer_headers, request_headers

BRAIN = RankAddress("http://brain")  # the session knows the way


class PassThrough:
    """Answers requests with the next rank that is open, or with the process that decides.

    Parameters
    ----------
    parts : Carrying
        Of the process.
    brain : aiohttp.ClientSession or None
        What leads to the process that decides, to ask that; None: ranks are asked.
    """

    def __init__(self, parts: Carrying, *, brain: aiohttp.ClientSession | None = None) -> None:
        self._parts, self._brain = parts, brain
        self._last = -1

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request on, and its answer back."""
        config, is_inside = self._parts.config, self._brain is not None
        address = BRAIN if is_inside else self._next()
        keeps_secrets = is_inside or not config.asks_for_keys
        headers = request_headers(request.headers, keeps_secrets=keeps_secrets)
        body = await read_body(request, config.body_timeout_secs)
        try:
            async with (self._brain or self._parts.session).request(
                request.method,
                f"{address.url}{request.path_qs}",
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=config.request_timeout_secs),
            ) as upstream:
                if upstream.content_type == EVENT_STREAM:
                    return await self._stream(request, upstream, address)
                content = await upstream.read()
                passed = answer_headers(upstream.headers)
                return web.Response(body=content, status=upstream.status, headers=passed)
        except TimeoutError as error:
            raise Refusal(504, f"{address.name} gives no answer", "request_timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            if has_left(request):
                raise
            if is_inside:
                raise no_brain() from error
            raise Refusal(502, f"{address.name}: {error}", "upstream_unreachable") from error

    async def _stream(
        self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, address: RankAddress
    ) -> web.StreamResponse:
        """Pass events on as they come."""
        answer = web.StreamResponse(
            status=upstream.status, headers=answer_headers(upstream.headers)
        )
        await answer.prepare(request)
        events = WholeEvents()
        try:
            while data := await upstream.content.readany():
                await answer.write(events.feed(data))
            await answer.write(events.rest)
        except (aiohttp.ClientError, OSError) as error:  # a time-out is one
            if has_left(request):
                return answer
            self._parts.counters.cut.inc()
            message = f"{address.name} broke off this stream: {type(error).__name__}"
            refusal = Refusal(502, message, "upstream_broken")
            await answer.write(error_event(refusal, request.path))
        await answer.write_eof()
        return answer

    def _next(self) -> RankAddress:
        is_open = self._parts.health.is_open
        if not any(is_open):
            raise no_rank()
        self._last = (self._last + 1) % len(is_open)
        while not is_open[self._last]:
            self._last = (self._last + 1) % len(is_open)
        return self._parts.addresses[self._last]
