"""What makes no load that is accounted for: passed on to the ranks in turn."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from balanceroute.live.addresses import RankAddress
from balanceroute.live.answers import Refusal
from balanceroute.live.clients import read_body
from balanceroute.live.events import EVENT_STREAM, WholeEvents, error_event
from balanceroute.live.parts import Parts
from balanceroute.live.upstream import answer_headers, request_headers


class PassThrough:
    """Answers requests with the next rank that is open.

    Parameters
    ----------
    parts : Parts
        Of the router.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._last = -1

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a request on, and its answer back."""
        address, config = self._next(), self._parts.config
        headers = request_headers(request.headers, keeps_secrets=not config.asks_for_keys)
        body = await read_body(request, config.body_timeout_secs)
        try:
            async with self._parts.session.request(
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
            if request.transport is None:  # it is the client that has gone
                return answer
            self._parts.meters.cut.inc()
            message = f"{address.name} broke off this stream: {type(error).__name__}"
            refusal = Refusal(502, message, "upstream_broken")
            await answer.write(error_event(refusal, request.path))
        await answer.write_eof()
        return answer

    def _next(self) -> RankAddress:
        is_open = self._parts.health.is_open
        if not any(is_open):
            raise Refusal(503, "no rank is fit for requests; see /workers", "no_worker")
        self._last = (self._last + 1) % len(is_open)
        while not is_open[self._last]:
            self._last = (self._last + 1) % len(is_open)
        return self._parts.addresses[self._last]
