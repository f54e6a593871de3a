"""The answer to a request as it passes through Envoy: tokens are counted, its end is booked."""

from __future__ import annotations

import asyncio

from balanceroute.live.answers import Refusal
from balanceroute.live.booking import Booking
from balanceroute.live.events import EVENT_STREAM, error_event
from balanceroute.live.parts import Parts
from balanceroute.live.picker.messages import (
    Body,
    Headers,
    Part,
    go_on,
    header_mutation,
    piece,
    read_headers,
)
from balanceroute.live.ticket import NO_HANDLE, Ticket
from balanceroute.live.tokens import EventRate, TokenMeter, read_usage
from balanceroute.live.wire import RequestFacts

WORKER, FROM_UPSTREAM = "x-balanceroute-worker", "x-envoy-upstream-service-time"
MAX_KEPT = 16 << 20  # bytes of an answer in one piece that are looked through for its usage


class Following:
    """Follows one answer.

    Parameters
    ----------
    parts, booking, rate
        Of the picker.
    ticket, facts : Ticket or None, RequestFacts or None
        Of the request; None if it makes no load that is accounted for.
    is_duplex : bool
        Whether Envoy passes on what it is given back, and not what has come.
    path : str
        Of the request.
    """

    def __init__(
        self,
        parts: Parts,
        booking: Booking,
        rate: EventRate,
        *,
        ticket: Ticket | None,
        facts: RequestFacts | None,
        is_duplex: bool,
        path: str,
    ) -> None:
        self._parts, self._booking, self._rate = parts, booking, rate
        self._ticket, self._facts = ticket, facts
        self._is_duplex, self._path = is_duplex, path
        self._meter: TokenMeter | None = None
        self._pieces: list[bytes] | None = []  # of an answer in one piece
        self._num_bytes, self._is_ok, self._is_over = 0, False, False

    def begin(self, headers: Headers, rank: int, *, was_served: bool) -> list[bytes]:
        """Take in the headers; return what Envoy is told."""
        its = read_headers(headers.headers)
        status = int(its.get(":status") or 0)
        self._parts.counters.requests.labels(str(status)).inc()
        self._is_ok = 200 <= status < 300
        mutation = b""
        if rank >= 0:
            mutation = header_mutation(((WORKER, self._parts.addresses[rank].name),))
        if self._ticket is not None and self._ticket.handle != NO_HANDLE:
            if rank != self._ticket.rank:
                self._booking.move(self._ticket, rank)
            if its.get("content-type", "").startswith(EVENT_STREAM):
                self._meter = TokenMeter(self._rate.tokens_per_event)
            if status >= 500:
                has_answered = was_served and FROM_UPSTREAM in its
                self._parts.health.fail(rank, f"HTTP {status}", has_answered=has_answered)
        if not self._is_ok:
            self._settle()
        if headers.end_of_stream:
            self._finish()
        return [go_on(Part.RESPONSE_HEADERS, mutation=mutation)]

    def feed(self, body: Body) -> list[bytes]:
        """Take in a piece of the body; return what Envoy is told."""
        if self._meter is not None:
            num_tokens = self._meter.feed(body.body)
            if self._ticket is not None:
                self._booking.grow(self._ticket, num_tokens)
            if self._meter.is_done:
                self._complete_stream(self._meter)
        elif self._pieces is not None:
            self._num_bytes += len(body.body)
            self._pieces = [*self._pieces, body.body] if self._num_bytes <= MAX_KEPT else None
        error = b""
        if body.end_of_stream:
            error = self._finish()
        if self._is_duplex:
            return [piece(Part.RESPONSE_BODY, body.body + error, is_end=body.end_of_stream)]
        return [go_on(Part.RESPONSE_BODY, body=body.body + error if error else None)]

    def end_with_trailers(self) -> list[bytes]:
        """Note that the body is over, and trailers follow it."""
        error = self._finish()
        told = [go_on(Part.RESPONSE_TRAILERS)]
        return [piece(Part.RESPONSE_BODY, error, is_end=False), *told] if error else told

    def break_off(self) -> None:
        """Note that nothing more comes."""
        if self._is_over:
            return
        if self._ticket is not None and self._ticket.handle != NO_HANDLE:
            self._parts.counters.cut.inc()
        self._settle()

    def _finish(self) -> bytes:
        """Book the end of the answer; return what tells the client that it is not complete."""
        self._is_over = True
        ticket = self._ticket
        if ticket is None or ticket.handle == NO_HANDLE:
            return b""
        if self._meter is not None:
            if self._meter.has_failed:
                self._settle()
                return b""
            self._parts.health.fail(ticket.rank, "a stream ended before it was complete")
            self._parts.counters.cut.inc()
            self._settle()
            name = self._parts.addresses[ticket.rank].name
            message = f"{name} broke off this stream: it ended before it was complete"
            refusal = Refusal(502, message, "upstream_broken")
            return error_event(refusal, self._path, self._meter.last_number)
        # The client need not wait for that.
        asyncio.get_running_loop().call_soon(self._complete_whole, ticket)
        return b""

    def _complete_whole(self, ticket: Ticket) -> None:
        """Book the end of an answer in one piece."""
        assert self._facts is not None
        usage = read_usage(b"".join(self._pieces)) if self._pieces else None
        self._booking.complete(ticket, usage, self._facts)

    def _complete_stream(self, meter: TokenMeter) -> None:
        ticket = self._ticket
        if ticket is None or ticket.handle == NO_HANDLE:
            return
        if meter.usage is not None:
            self._rate.learn(num_events=meter.num_events, output_tokens=meter.usage.output_tokens)
        assert self._facts is not None
        self._booking.complete(ticket, meter.usage, self._facts)

    def _settle(self) -> None:
        if self._ticket is not None:
            self._booking.settle(self._ticket)
