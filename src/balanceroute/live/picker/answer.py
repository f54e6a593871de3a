"""The answer to a request as it passes through Envoy: tokens are counted, its end is booked."""

from __future__ import annotations

import asyncio

from balanceroute.live.answers import Refusal
from balanceroute.live.events import EVENT_STREAM, error_event
from balanceroute.live.picker.messages import BodyMode, Part, read_body, read_headers
from balanceroute.live.picker.replies import go_on, go_on_with, pieces
from balanceroute.live.picker.shared import Picker
from balanceroute.live.ticket import NO_HANDLE, Ticket
from balanceroute.live.tokens import TokenMeter, read_usage
from balanceroute.live.wire import RequestFacts

WORKER, FROM_UPSTREAM = "x-balanceroute-worker", "x-envoy-upstream-service-time"
MAX_KEPT = 16 << 20  # bytes of an answer in one piece that are looked through for its usage
GO_ON = go_on(Part.RESPONSE_BODY)


class Following:
    """Follows one answer.

    Parameters
    ----------
    picker : Picker
        Who has decided.
    ticket, facts : Ticket or None, RequestFacts or None
        Of the request; None if it makes no load that is accounted for.
    mode : int
        How Envoy shows the body (`BodyMode`), or that it does not.
    path : str
        Of the request.
    """

    def __init__(
        self,
        picker: Picker,
        *,
        ticket: Ticket | None,
        facts: RequestFacts | None,
        mode: int,
        path: str,
    ) -> None:
        self._picker, self._parts, self._booking = picker, picker.parts, picker.booking
        self._ticket, self._facts = ticket, facts
        self._is_shown, self._path = mode != BodyMode.NONE, path
        self._is_duplex = mode == BodyMode.FULL_DUPLEX_STREAMED  # what is given back passes on
        self._meter: TokenMeter | None = None
        self._pieces: list[bytes] | None = []  # of an answer in one piece
        self._num_bytes, self._is_ok, self._is_over = 0, False, False
        self._told: list[bytes] = []
        self._back: list[bytes] = []  # pieces that go back, behind what is told
        self._is_last_back = False

    def take_told(self) -> list[bytes]:
        """Return what Envoy is told of what has come since the last time."""
        told, self._told = self._told, []
        if self._back:
            body, self._back = b"".join(self._back), []
            told += pieces(Part.RESPONSE_BODY, body, is_end=self._is_last_back)
        return told

    def begin(self, content: bytes, rank: int, *, was_served: bool) -> None:
        """Take in the headers."""
        its, is_end = read_headers(content)
        status = int(its.get(":status") or 0)
        self._parts.counters.count_answer(status)
        self._is_ok = 200 <= status < 300
        sets = ((WORKER, self._parts.addresses[rank].name),) if rank >= 0 else ()
        self._told.append(go_on_with(Part.RESPONSE_HEADERS, sets, (), b""))
        if self._ticket is not None and self._ticket.handle != NO_HANDLE:
            if rank != self._ticket.rank:
                self._booking.move(self._ticket, rank)
            if its.get("content-type", "").startswith(EVENT_STREAM):
                self._meter = TokenMeter(self._picker.rate.tokens_per_event)
            if status >= 500:
                has_answered = was_served and FROM_UPSTREAM in its
                self._parts.health.fail(rank, f"HTTP {status}", has_answered=has_answered)
        if not self._is_ok:
            self._settle()
        if is_end:
            self._finish()

    def feed(self, content: bytes) -> None:
        """Take in a piece of the body."""
        body, is_end = read_body(content)
        if self._meter is not None:
            num_tokens = self._meter.feed(body)
            if self._ticket is not None:
                self._booking.grow(self._ticket, num_tokens)
            if self._meter.is_done:
                self._complete_stream(self._meter)
        elif self._pieces is not None:
            self._num_bytes += len(body)
            self._pieces = [*self._pieces, body] if self._num_bytes <= MAX_KEPT else None
        error = self._finish() if is_end else b""
        if self._is_duplex:
            self._back.append(body + error)
            self._is_last_back = is_end
        else:
            changed = go_on(Part.RESPONSE_BODY, body=body + error) if error else GO_ON
            self._told.append(changed)

    def end_with_trailers(self) -> None:
        """Note that the body is over, and trailers follow it."""
        error = self._finish()
        if error and self._is_duplex:
            self._back.append(error)
            self._is_last_back = False
        self._told = [*self.take_told(), go_on(Part.RESPONSE_TRAILERS)]

    def break_off(self) -> None:
        """Note that nothing more comes."""
        if self._is_over:
            return
        is_running = self._ticket is not None and self._ticket.handle != NO_HANDLE
        if is_running and self._is_shown:  # else nobody knows how it has ended
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
            self._picker.rate.learn(
                num_events=meter.num_events, output_tokens=meter.usage.output_tokens
            )
        assert self._facts is not None
        self._booking.complete(ticket, meter.usage, self._facts)

    def _settle(self) -> None:
        if self._ticket is not None:
            self._booking.settle(self._ticket)
