"""One request through the router: read, wait for a rank, send, pass the answer on."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from balanceroute.live.addresses import is_rank
from balanceroute.live.affinity import session_of
from balanceroute.live.answers import Refusal
from balanceroute.live.call import REQUEST_ID, Call, request_id_of
from balanceroute.live.carrying import Bookings, Carrying
from balanceroute.live.clients import read_body
from balanceroute.live.deadlines import Deadlines
from balanceroute.live.endings import has_left, refusal_of
from balanceroute.live.events import EVENT_STREAM, WholeEvents, error_event
from balanceroute.live.tenants import tenant_of
from balanceroute.live.ticket import NO_HANDLE, Ticket, ticket_of
from balanceroute.live.tokens import EventRate, TokenMeter, read_usage
from balanceroute.live.unanswered import GroupClosed
from balanceroute.live.upstream import RANK_HEADER, answer_headers, name_rank, request_headers
from balanceroute.live.wire import BadBody, legible, read_request

if TYPE_CHECKING:
    from balanceroute.live.tracing import Placing, Prefilling, Sending, Serve, Tracing

WORKER = "x-balanceroute-worker"
RETRIED = frozenset({408, 429, 500, 502, 503, 504})  # nothing has been passed on yet
BACKOFF_FACTOR = 2.0


class Proxy:
    """Serves the endpoints that make an engine generate.

    Parameters
    ----------
    parts : Carrying
        Of the process.
    booking : Bookings
        Where requests get their ranks, and are booked.
    tracing : Tracing or None
        What is told of each step of a request, if anything is.
    """

    def __init__(self, parts: Carrying, booking: Bookings, tracing: Tracing | None = None) -> None:
        self._parts, self._booking = parts, booking
        self._rate, self._deadlines = EventRate(), Deadlines()
        self._instance, self._numbers = secrets.token_hex(4), itertools.count()
        self.generate: Serve = self._generate
        self._prefilling: Prefilling = self._prefill
        self._placing: Placing = self._place
        self._sending: Sending = self._send
        if tracing is not None:
            self._trace(tracing)

    def _trace(self, tracing: Tracing) -> None:
        """Have each step told from now on."""
        self.generate = tracing.serving(self._generate)
        self._placing = tracing.placing(self._place)
        self._sending = tracing.sending(self._send, lambda rank: self._parts.addresses[rank].name)
        if self._parts.prefill is not None:
            self._prefilling = tracing.prefilling(self._prefill)

    async def _generate(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; `Refusal` if that cannot be done and nothing has been sent yet."""
        body = await read_body(request, self._parts.config.body_timeout_secs)
        try:
            has_blocks = self._parts.config.prefix_blocks > 0
            facts = read_request(request.path, body, with_blocks=has_blocks)
        except BadBody as error:
            raise Refusal(400, f"the body is not a JSON object: {error}", "bad_body") from error
        tenant = tenant_of(request, self._parts.config)
        self._booking.expect_room(tenant)
        facts = await self._parts.counting.count(request.path, body, facts)
        self._booking.expect_room(tenant)  # others may have come meanwhile
        request_id = request_id_of(request) or f"br-{self._instance}-{next(self._numbers):x}"
        ticket = ticket_of(facts, self._parts.prompts.count(facts))
        ticket.name, ticket.pinned_rank = legible(request_id), self._pinned_rank(request)
        ticket.session = session_of(request.headers, self._parts.config)
        headers = request_headers(
            request.headers, keeps_secrets=not self._parts.config.asks_for_keys
        )
        headers[REQUEST_ID] = request_id
        call = Call(
            request=request,
            body=body,
            facts=facts,
            ticket=ticket,
            request_id=request_id,
            tenant=tenant,
            headers=headers,
        )
        limit_s = self._parts.config.request_timeout_secs
        try:
            return await self._deadlines.within(limit_s, self._serve(call))
        except BaseException as error:
            is_stopping = self._parts.is_stopping
            refusal = refusal_of(error, request, limit_s=limit_s, is_stopping=is_stopping)
            if refusal is None:
                raise
            return await self._break_off(call, refusal, error)
        finally:
            self._booking.settle(ticket)

    async def _serve(self, call: Call) -> web.StreamResponse:
        backoff_s = self._parts.config.retry_initial_backoff_secs
        for attempt in range(1, self._parts.config.retry_max_attempts + 1):
            is_last = attempt == self._parts.config.retry_max_attempts
            if self._parts.prefill is not None:
                await self._prefilling(call)
            await self._placing(call.ticket, call.tenant)
            answer = await self._sending(call, is_last=is_last)
            if answer is not None:
                return answer
            self._booking.settle(call.ticket)
            self._parts.counters.retries.inc()
            await asyncio.sleep(backoff_s)
            backoff_s = min(BACKOFF_FACTOR * backoff_s, self._parts.config.retry_max_backoff_secs)
        raise AssertionError("the last attempt answers or refuses")

    async def _prefill(self, call: Call) -> None:
        """Have the prompt computed elsewhere first."""
        tier = self._parts.prefill
        assert tier is not None
        if call.handed_over is not None:
            return
        ticket = call.ticket
        call.handed_over, prompt_tokens = await tier.prefill(
            call.request.path,
            call.body,
            call.headers,
            prompt_tokens=ticket.prompt_tokens,
            queue_timeout_s=self._parts.config.queue_timeout_secs,
        )
        ticket.prompt_tokens = prompt_tokens or ticket.prompt_tokens

    async def _place(self, ticket: Ticket, tenant: str | None) -> None:
        """Wait until the request has a rank."""
        await self._booking.place(ticket, tenant, self._parts.config.queue_timeout_secs)

    async def _send(self, call: Call, *, is_last: bool) -> web.StreamResponse | None:
        """Send the request to its rank and pass the answer on; None if it may be tried again."""
        rank = call.ticket.rank
        address = self._parts.addresses[rank]
        headers = call.headers if address.rank is None else call.headers.copy()
        # Who has been asked may have fetched the prompt, so that it must be computed again.
        sent, call.handed_over = call.handed_over or call.body, None
        body = name_rank(address, self._parts.config.rank_field, headers, sent)
        url = f"{address.url}{call.request.path_qs}"
        try:
            upstream = await self._ask(rank, url, body, headers)
        except (aiohttp.ClientError, OSError) as error:
            if not isinstance(error, GroupClosed):
                self._parts.health.fail(rank, f"{type(error).__name__}: {error}")
            if isinstance(error, aiohttp.ClientConnectorError):
                call.handed_over = sent
            if is_last:
                message = f"{address.name} cannot be reached: {error}"
                raise Refusal(502, message, "upstream_unreachable") from error
            return None
        try:
            if upstream.status in RETRIED:
                # The server's fault; the last of several tries may be the request's own.
                is_only = self._parts.config.retry_max_attempts == 1
                if upstream.status >= 500 and (is_only or not is_last):
                    self._parts.health.fail(rank, f"HTTP {upstream.status}", has_answered=True)
                if not is_last:
                    return None
            if upstream.content_type == EVENT_STREAM:
                return await self._stream(call, upstream)
            return await self._whole(call, upstream, is_last=is_last)
        finally:
            upstream.close() if not upstream.content.at_eof() else upstream.release()

    async def _ask(
        self, rank: int, url: str, body: bytes, headers: CIMultiDict[str]
    ) -> aiohttp.ClientResponse:
        """Send a request, and return the answer once it begins."""
        session, unanswered = self._parts.session, self._parts.unanswered
        asking = session.post(url, data=body, headers=headers, allow_redirects=False)
        return await (asking if unanswered is None else unanswered.expect(rank, _begun(asking)))

    async def _whole(
        self, call: Call, upstream: aiohttp.ClientResponse, *, is_last: bool
    ) -> web.StreamResponse | None:
        """Pass an answer on that comes in one piece."""
        rank = call.ticket.rank
        try:
            body = await upstream.read()
        except (aiohttp.ClientError, OSError) as error:
            self._parts.health.fail(rank, f"{type(error).__name__}: {error}")
            if not is_last:
                return None
            name = self._parts.addresses[rank].name
            message = f"{name} broke off its answer: {error}"
            raise Refusal(502, message, "upstream_broken") from error
        if upstream.ok:
            self._booking.complete(call.ticket, read_usage(body), call.facts)
        headers = self._answer_headers(call, upstream)
        answer = call.answer = web.Response(body=body, status=upstream.status, headers=headers)
        return answer

    async def _stream(self, call: Call, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass an answer on as it comes, and book its tokens."""
        meter = TokenMeter(self._rate.tokens_per_event)
        ticket, read = call.ticket, upstream.content.readany
        headers = self._answer_headers(call, upstream)
        answer = web.StreamResponse(status=upstream.status, headers=headers)
        writer = await answer.prepare(call.request)
        assert writer is not None
        call.answer, call.meter, events = answer, meter, WholeEvents()
        broken: Exception | None = None
        try:
            while data := await read():
                self._booking.grow(ticket, meter.feed(data))
                if meter.is_done:
                    self._finish(call, meter)
                if whole := events.feed(data):
                    await writer.write(whole)
        except (aiohttp.ClientError, OSError) as error:
            if has_left(call.request):
                return answer
            broken = error
        if not meter.is_done and not meter.has_failed:
            return await self._cut(call, broken)
        if broken is None:
            await answer.write(events.rest)
        await answer.write_eof()
        return answer

    def _finish(self, call: Call, meter: TokenMeter) -> None:
        """Free the slot of a stream that has said it is over."""
        if call.ticket.handle == NO_HANDLE:
            return
        if meter.usage is not None:
            self._rate.learn(num_events=meter.num_events, output_tokens=meter.usage.output_tokens)
        self._booking.complete(
            call.ticket, meter.usage, call.facts, has_completed=not meter.has_failed
        )

    async def _cut(self, call: Call, error: Exception | None) -> web.StreamResponse:
        """End a stream that its rank has broken off."""
        rank, what = call.ticket.rank, "it ended before it was complete"
        if error is not None:
            what = f"{type(error).__name__}: {error}"
        self._parts.health.fail(rank, what)
        message = f"{self._parts.addresses[rank].name} broke off this stream: {what}"
        return await self._break_off(call, Refusal(502, message, "upstream_broken"), error)

    async def _break_off(
        self, call: Call, refusal: Refusal, error: BaseException | None
    ) -> web.StreamResponse:
        """Tell the client that nothing more comes, in the stream if it has begun."""
        self._booking.settle(call.ticket)
        answer = call.answer
        if answer is None:
            raise refusal from error
        self._parts.counters.cut.inc()
        await answer.write(error_event(refusal, call.request.path, call.last_number))
        await answer.write_eof()
        return answer

    def _answer_headers(self, call: Call, upstream: aiohttp.ClientResponse) -> CIMultiDict[str]:
        headers = answer_headers(upstream.headers)
        headers[REQUEST_ID] = call.request_id
        headers[WORKER] = self._parts.addresses[call.ticket.rank].name
        return headers

    def _pinned_rank(self, request: web.BaseRequest) -> int:
        """Return the rank that a client is allowed to choose and has chosen, or -1."""
        text = request.headers.get(RANK_HEADER)
        if text is None or not self._parts.config.allows_rank_header:
            return -1
        num_ranks = len(self._parts.addresses)
        if not is_rank(text, num_ranks):
            message = f"{RANK_HEADER} must be in 0..{num_ranks - 1}, got {text!r}"
            raise Refusal(400, message, "bad_rank")
        return int(text)


async def _begun(asking: Awaitable[aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
    """Return the answer once it begins, as a coroutine."""
    return await asking
