"""One request that Envoy carries: it waits for its rank, and its answer is followed."""

from __future__ import annotations

import asyncio
import logging

from multidict import CIMultiDict

from balanceroute.live.answers import Refusal, overdue
from balanceroute.live.counting import NoCounting
from balanceroute.live.picker.answer import Following
from balanceroute.live.picker.endpoints import subset_of
from balanceroute.live.picker.messages import (
    ASKED,
    Asked,
    Body,
    BodyMode,
    Headers,
    Modes,
    Part,
    destination,
    go_on,
    header_mutation,
    piece,
    read_headers,
    read_metadata,
)
from balanceroute.live.picker.refusing import refused
from balanceroute.live.picker.shared import Picker
from balanceroute.live.rpc.calls import FAILED, Call
from balanceroute.live.rpc.frames import Status
from balanceroute.live.rpc.protobuf import BadMessage
from balanceroute.live.tenants import check_authorization, tenant_of_headers
from balanceroute.live.ticket import Ticket
from balanceroute.live.upstream import RANK_HEADER, SECRETS, name_rank
from balanceroute.live.wire import PATHS, BadBody, RequestFacts, read_request

LB, SUBSET_HINT = "envoy.lb", "envoy.lb.subset_hint"  # namespaces of metadata
DESTINATION = "x-gateway-destination-endpoint"
SUBSET, SERVED = f"{DESTINATION}-subset", f"{DESTINATION}-served"
MAX_PIECE = 62_000  # of a body, as other pickers send it; Envoy takes 64 KiB
# A compressed answer could not be followed; who asks for a rank is not believed.
ALWAYS_REMOVED = ("accept-encoding", RANK_HEADER.lower())

log = logging.getLogger(__name__)


class Exchange:
    """Listens to what Envoy says of one request, and answers.

    Parameters
    ----------
    picker : Picker
        Who decides.
    call : Call
        To Envoy.
    """

    def __init__(self, picker: Picker, call: Call) -> None:
        self._picker, self._call = picker, call
        self._modes = Modes()
        self._headers: dict[str, str] = {}
        self._tenant: str | None = None
        self._allowed: frozenset[str] | None = None
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._has_trailers = self._is_passed_on = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._facts: RequestFacts | None = None
        self._ticket: Ticket | None = None
        self._rank = -1
        self._answer: Following | None = None

    def receive(self, message: bytes) -> None:
        """Take in what Envoy says, and answer if it is time."""
        try:
            self._take_in(ASKED.decode(message))
        except (BadMessage, UnicodeDecodeError) as error:
            self._settle()
            self._call.end(Status.INVALID_ARGUMENT, f"this is not external processing: {error}")
        except Refusal as refusal:
            self._refuse(refusal)

    def _take_in(self, asked: Asked) -> None:
        if asked.protocol_config is not None:
            self._modes = asked.protocol_config
        if asked.request_headers is not None:
            self._begin(asked.request_headers, asked.metadata_context)
        elif asked.request_body is not None:
            self._take_body(asked.request_body)
        elif asked.request_trailers is not None:
            self._has_trailers = True
            self._end_body()
        else:
            self._follow(asked)

    def _begin(self, headers: Headers, metadata: bytes) -> None:
        config = self._picker.parts.config
        self._headers = its = read_headers(headers.headers)
        authorization = its.get("authorization", "")
        check_authorization(authorization, config)
        if config.has_tenants:
            self._tenant = tenant_of_headers(CIMultiDict(its), config)
        if metadata:
            hint = read_metadata(metadata, SUBSET_HINT, SUBSET)
            if hint is not None:
                self._allowed = subset_of(hint)
        self._picker.endpoints.open_ranks(self._allowed)  # else nothing can come of it
        if headers.end_of_stream or self._path not in PATHS:
            self._rank = self._picker.endpoints.next_rank(self._allowed)
            self._is_passed_on = True
            self._call.send(self._sent_on(Part.REQUEST_HEADERS, b"")[0])
            return
        self._picker.booking.expect_room(self._tenant)
        if self._modes.request_body_mode == BodyMode.BUFFERED:
            self._call.send(go_on(Part.REQUEST_HEADERS))
        elif self._modes.request_body_mode != BodyMode.FULL_DUPLEX_STREAMED:
            raise Refusal(500, "request_body_mode must be FULL_DUPLEX_STREAMED", "bad_setting")

    @property
    def _path(self) -> str:
        return self._headers.get(":path", "").partition("?")[0]

    @property
    def _is_duplex(self) -> bool:
        return self._modes.request_body_mode == BodyMode.FULL_DUPLEX_STREAMED

    def _take_body(self, body: Body) -> None:
        if self._is_passed_on:
            if self._is_duplex:
                self._send_pieces(body.body, is_end=body.end_of_stream)
            else:
                self._call.send(go_on(Part.REQUEST_BODY))
            return
        self._num_bytes += len(body.body)
        if self._num_bytes > (limit := self._picker.parts.config.max_body_bytes):
            raise Refusal(413, f"the body has more than {limit} bytes", "bad_request")
        self._pieces.append(body.body)
        if body.end_of_stream:
            self._end_body()

    def _end_body(self) -> None:
        """Let the request wait for a rank, once it has come in full."""
        if self._is_passed_on:
            self._call.send(go_on(Part.REQUEST_TRAILERS))
            return
        body = b"".join(self._pieces)
        self._pieces = [body]
        try:
            facts = read_request(self._path, body)
        except BadBody as error:
            raise Refusal(400, f"the body is not a JSON object: {error}", "bad_body") from error
        if isinstance(self._picker.parts.counting, NoCounting):
            self._enter(facts)
        else:
            self._task = asyncio.get_running_loop().create_task(self._count(body, facts))

    async def _count(self, body: bytes, facts: RequestFacts) -> None:
        """Count the prompt first, while others are served."""
        try:
            self._enter(await self._picker.parts.counting.count(self._path, body, facts))
        except Refusal as refusal:
            self._refuse(refusal)

    def _enter(self, facts: RequestFacts) -> None:
        parts = self._picker.parts
        self._picker.booking.expect_room(self._tenant)  # others may have come meanwhile
        self._facts = facts
        self._ticket = Ticket(
            prompt_tokens=parts.prompts.count(facts),
            max_tokens=facts.max_tokens,
            client=facts.client,
            prompt_hash=facts.prompt_hash,
            priority=facts.priority,
            is_streamed=facts.is_streamed,
            pinned_rank=self._picker.endpoints.pinned(self._allowed),
        )
        limit_s = parts.config.queue_timeout_secs
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._give_up, limit_s)
        self._picker.booking.enter(self._ticket, self._tenant, self._placed)

    def _give_up(self, limit_s: float) -> None:
        self._refuse(overdue(limit_s))

    def _placed(self, ticket: Ticket) -> None:
        """Send the request on; whatever goes wrong with that is not the fault of the plan."""
        try:
            self._send_on(ticket)
        except Exception:
            log.exception(FAILED)
            self._call.fail()

    def _send_on(self, ticket: Ticket) -> None:
        """Send the request on to its rank."""
        self._stop_waiting()
        self._picker.booking.note_wait(ticket)
        self._rank = ticket.rank
        body, self._pieces = b"".join(self._pieces), []
        part = Part.REQUEST_HEADERS if self._is_duplex else Part.REQUEST_BODY
        message, sent = self._sent_on(part, body)
        self._call.send(message)
        if self._is_duplex:
            self._send_pieces(sent, is_end=not self._has_trailers)
            if self._has_trailers:
                self._call.send(go_on(Part.REQUEST_TRAILERS))

    def _sent_on(self, part: Part, body: bytes) -> tuple[bytes, bytes]:
        """Return the answer that names the endpoint, and the body as it goes there."""
        parts = self._picker.parts
        address, config = parts.addresses[self._rank], parts.config
        endpoints = self._picker.endpoints.named(self._rank, self._allowed)
        sets: CIMultiDict[str] = CIMultiDict({DESTINATION: endpoints})
        sent = name_rank(address, config.rank_field, sets, body) if body else body
        if not body and address.rank is not None and config.rank_field == "header":
            sets[RANK_HEADER] = str(address.rank)
        present = (*ALWAYS_REMOVED, *(SECRETS if config.asks_for_keys else ()))
        removes = [name for name in present if name in self._headers and name not in sets]
        if sent != body:
            removes.append("content-length")
        named = tuple((name.lower(), value) for name, value in sets.items())
        mutation = header_mutation(named, tuple(removes))
        changed = sent if sent != body and not self._is_duplex else None
        message = go_on(part, mutation=mutation, body=changed)
        return message + destination(endpoints, LB, DESTINATION), sent

    def _send_pieces(self, body: bytes, *, is_end: bool) -> None:
        for at in range(0, max(1, len(body)), MAX_PIECE):
            is_last = at + MAX_PIECE >= len(body)
            part = body[at : at + MAX_PIECE]
            self._call.send(piece(Part.REQUEST_BODY, part, is_end=is_end and is_last))

    def _follow(self, asked: Asked) -> None:
        if self._answer is None:
            self._answer = Following(
                self._picker.parts,
                self._picker.booking,
                self._picker.rate,
                ticket=self._ticket,
                facts=self._facts,
                is_duplex=self._modes.response_body_mode == BodyMode.FULL_DUPLEX_STREAMED,
                path=self._path,
            )
        if asked.response_headers is not None:
            served = read_metadata(asked.metadata_context, LB, SERVED)
            if self._rank >= 0 and isinstance(served, str):
                self._rank = self._picker.endpoints.served(served, self._rank)
            replies = self._answer.begin(
                asked.response_headers, self._rank, was_served=served is not None
            )
        elif asked.response_body is not None:
            replies = self._answer.feed(asked.response_body)
        else:
            replies = self._answer.end_with_trailers()
        if not asked.observability_mode:
            for reply in replies:
                self._call.send(reply)

    def half_close(self) -> None:
        """Note that Envoy has nothing more to say."""
        self._settle()
        self._call.end()

    def cancel(self) -> None:
        """Note that Envoy, or its client, has gone."""
        self._settle()

    def _settle(self) -> None:
        self._stop_waiting()
        if self._task is not None:
            self._task.cancel()
        if self._answer is not None:
            self._answer.break_off()
        elif self._ticket is not None:
            self._picker.booking.settle(self._ticket)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, refusal: Refusal) -> None:
        """Let Envoy answer the client with a refusal."""
        self._settle()
        counters = self._picker.parts.counters
        counters.dropped.labels(refusal.reason).inc()
        counters.requests.labels(str(refusal.status)).inc()
        self._call.send(refused(refusal))
        self._call.end()
