"""One request that Envoy carries: it waits for its rank, and its answer is followed."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from multidict import CIMultiDict

from balanceroute.live.answers import Refusal, overdue
from balanceroute.live.counting import NoCounting
from balanceroute.live.deadlines import Deadline
from balanceroute.live.picker.answer import Following
from balanceroute.live.picker.endpoints import subset_of
from balanceroute.live.picker.messages import (
    Asked,
    BodyMode,
    Part,
    read_asked,
    read_body,
    read_headers,
    read_metadata,
    read_modes,
)
from balanceroute.live.picker.refusing import expect_readable, refused
from balanceroute.live.picker.replies import (
    destination,
    go_on,
    go_on_with,
    header_mutation,
    pieces,
)
from balanceroute.live.picker.shared import Picker
from balanceroute.live.rpc.calls import FAILED, Call
from balanceroute.live.rpc.frames import Status
from balanceroute.live.rpc.protobuf import BadMessage
from balanceroute.live.tenants import check_authorization, tenant_of_headers
from balanceroute.live.ticket import Ticket, ticket_of
from balanceroute.live.upstream import RANK_HEADER, SECRETS, name_rank
from balanceroute.live.wire import PATHS, BadBody, RequestFacts, read_request

LB, SUBSET_HINT = "envoy.lb", "envoy.lb.subset_hint"  # namespaces of metadata
DESTINATION = "x-gateway-destination-endpoint"
SUBSET, SERVED = f"{DESTINATION}-subset", f"{DESTINATION}-served"
# A compressed answer could not be followed; who asks for a rank is not believed.
RANK = RANK_HEADER.lower()
ALWAYS_REMOVED = ("accept-encoding", RANK)

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
        self._modes: tuple[int, int] = (BodyMode.NONE, BodyMode.NONE)  # of request and answer
        self._headers: dict[str, str] = {}
        self._path = ""
        self._tenant: str | None = None
        self._allowed: frozenset[str] | None = None
        self._pieces: list[bytes] = []
        self._has_trailers = self._is_passed_on = False
        self._deadline: Deadline | None = None
        self._task: asyncio.Task[None] | None = None
        self._facts: RequestFacts | None = None
        self._ticket: Ticket | None = None
        self._rank, self._num_bytes = -1, 0
        self._answer: Following | None = None

    def receive(self, messages: list[bytes]) -> None:
        """Take in what Envoy says, and answer if it is time."""
        is_observed = False
        try:
            for message in messages:
                asked = read_asked(message)
                is_observed = asked.is_observed
                self._take_in(asked)
        except (BadMessage, UnicodeDecodeError) as error:
            self._settle()
            self._call.end(Status.INVALID_ARGUMENT, f"this is not external processing: {error}")
            return
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if self._answer is not None:
            told = self._answer.take_told()
            if not is_observed:
                self._call.send(*told)

    def _take_in(self, asked: Asked) -> None:
        if asked.modes:
            self._modes = read_modes(asked.modes)
        match asked.part:
            case Part.REQUEST_HEADERS:
                self._begin(asked.content, asked.metadata)
            case Part.REQUEST_BODY:
                self._take_body(asked.content)
            case Part.REQUEST_TRAILERS:
                self._has_trailers = True
                self._end_body()
            case _:
                self._follow(asked)

    def _begin(self, content: bytes, metadata: bytes) -> None:
        config = self._picker.parts.config
        its, is_end = read_headers(content)
        self._headers, self._path = its, its.get(":path", "").partition("?")[0]
        check_authorization(its.get("authorization", ""), config)
        if config.has_tenants:
            self._tenant = tenant_of_headers(CIMultiDict(its), config)
        if metadata:
            hint = read_metadata(metadata, SUBSET_HINT, SUBSET)
            if hint is not None:
                self._allowed = subset_of(hint)
        if is_end or self._path not in PATHS:
            self._rank = self._picker.endpoints.next_rank(self._allowed)
            self._is_passed_on = True
            self._call.send(self._sent_on(Part.REQUEST_HEADERS, b"")[0])
            return
        expect_readable(its)
        if self._allowed is not None:
            self._picker.endpoints.open_ranks(self._allowed)  # else nothing can come of it
        self._picker.booking.expect_room(self._tenant)
        if self._modes[0] == BodyMode.BUFFERED:
            self._call.send(go_on(Part.REQUEST_HEADERS))
        elif not self._is_duplex:
            raise Refusal(500, "request_body_mode must be FULL_DUPLEX_STREAMED", "bad_setting")

    @property
    def _is_duplex(self) -> bool:
        return self._modes[0] == BodyMode.FULL_DUPLEX_STREAMED

    def _take_body(self, content: bytes) -> None:
        body, is_end = read_body(content)
        if self._is_passed_on:
            told = [go_on(Part.REQUEST_BODY)]
            if self._is_duplex:
                told = pieces(Part.REQUEST_BODY, body, is_end=is_end)
            self._call.send(*told)
            return
        self._num_bytes += len(body)
        if self._num_bytes > (limit := self._picker.parts.config.max_body_bytes):
            raise Refusal(413, f"the body has more than {limit} bytes", "bad_request")
        self._pieces.append(body)
        if is_end:
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
        self._ticket = ticket_of(facts, parts.prompts.count(facts))
        self._ticket.pinned_rank = self._picker.endpoints.pinned(self._allowed)
        limit_s = parts.config.queue_timeout_secs
        self._deadline = self._picker.deadlines.expect(limit_s, partial(self._give_up, limit_s))
        self._picker.booking.enter(self._ticket, self._tenant, self._placed)
        self._call.linger()

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
        ticket.on_placed = _forget  # else each would keep the other from being let go
        self._rank = ticket.rank
        body, self._pieces = b"".join(self._pieces), []
        if self._is_duplex:
            message, sent = self._sent_on(Part.REQUEST_HEADERS, body)
            told = pieces(Part.REQUEST_BODY, sent, is_end=not self._has_trailers)
            if self._has_trailers:
                told.append(go_on(Part.REQUEST_TRAILERS))
            self._call.send(message, *told)
        else:
            self._call.send(self._sent_on(Part.REQUEST_BODY, body)[0])
        self._picker.booking.note_wait(ticket)

    def _sent_on(self, part: Part, body: bytes) -> tuple[bytes, bytes]:
        """Return the answer that names the endpoint, and the body as it goes there."""
        parts = self._picker.parts
        address, config = parts.addresses[self._rank], parts.config
        endpoints = self._picker.endpoints.named(self._rank, self._allowed)
        named: CIMultiDict[str] = CIMultiDict()
        sent = name_rank(address, config.rank_field, named, body)
        sets = ((DESTINATION, endpoints), *((RANK, rank) for rank in named.values()))
        present = (*ALWAYS_REMOVED, *(SECRETS if config.asks_for_keys else ()))
        removes = tuple(name for name in present if name in self._headers)
        if len(sets) > 1 and RANK in removes:
            removes = tuple(name for name in removes if name != RANK)
        metadata = destination(endpoints, LB, DESTINATION)
        if sent is body:
            return go_on_with(part, sets, removes, metadata), body
        mutation = header_mutation(sets, (*removes, "content-length"))
        changed = None if self._is_duplex else sent
        return go_on(part, mutation=mutation, body=changed) + metadata, sent

    def _follow(self, asked: Asked) -> None:
        answer = self._answer
        if answer is None:
            answer = self._answer = Following(
                self._picker,
                ticket=self._ticket,
                facts=self._facts,
                mode=self._modes[1],
                path=self._path,
            )
        if asked.part == Part.RESPONSE_BODY:
            answer.feed(asked.content)
        elif asked.part == Part.RESPONSE_HEADERS:
            served = read_metadata(asked.metadata, LB, SERVED)
            if self._rank >= 0 and isinstance(served, str):
                self._rank = self._picker.endpoints.served(served, self._rank)
            answer.begin(asked.content, self._rank, was_served=served is not None)
        else:
            answer.end_with_trailers()

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
            self._ticket.on_placed = _forget

    def _stop_waiting(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None:
            deadline.cancel()

    def _refuse(self, refusal: Refusal) -> None:
        """Let Envoy answer the client with a refusal."""
        self._settle()
        self._picker.parts.counters.dropped.labels(refusal.reason).inc()
        self._picker.parts.counters.count_answer(refusal.status)
        self._call.send(refused(refusal))
        self._call.end()


def _forget(_: Ticket) -> None:
    """Do nothing: the request has gone on, or it has been given up."""
