"""What is booked for the requests that Serve has been given a replica for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from balanceroute.live.ticket import Ticket
from balanceroute.live.wire import RequestFacts
from balanceroute.ray_serve.calls import CallMeter
from balanceroute.ray_serve.desk import Desk


@dataclass(eq=False, slots=True, kw_only=True)
class Call:
    """One request on its way to a replica.

    `pending` is Serve's, and `future` the one that it had when the replica was chosen.
    `is_confirmed`: Serve has said that the replica has taken it.
    `is_over`: it is not booked any more; a completion may still be to come, of what has failed.
    `is_ending`: its completion has come before the end of its stream was read.
    """

    pending: Any
    future: asyncio.Future[Any]
    desk: Desk
    facts: RequestFacts | None
    ticket: Ticket
    replica: str
    chosen_s: float
    is_confirmed: bool = False
    is_over: bool = False
    is_ending: bool = False
    meter: CallMeter | None = None


class Calls:
    """Finds calls by what Serve says of them; several may share its internal id."""

    def __init__(self) -> None:
        self._of: dict[str, list[Call]] = {}

    def __iter__(self) -> Iterator[Call]:
        return (call for calls in list(self._of.values()) for call in list(calls))

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def add(self, call: Call) -> None:
        """Remember a call."""
        self._of.setdefault(call.pending.metadata.internal_request_id, []).append(call)

    def booked_for(self, pending: Any) -> Call | None:
        """Return what is booked for a request."""
        calls = self._of.get(pending.metadata.internal_request_id, ())
        return next((its for its in calls if its.pending is pending and not its.is_over), None)

    def completed(self, request_id: str, replica: str) -> Call | None:
        """Return the call that a completion is of: the oldest that has had none."""
        calls = self._of.get(request_id, ())
        return next((its for its in calls if its.replica == replica and not its.is_ending), None)

    def forget(self, call: Call) -> None:
        """Forget a call, if it is known."""
        request_id = call.pending.metadata.internal_request_id
        calls = self._of.get(request_id, [])
        if call in calls:
            calls.remove(call)
        if not calls:
            self._of.pop(request_id, None)
