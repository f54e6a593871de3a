"""What all requests of a picker share."""

from __future__ import annotations

from dataclasses import dataclass, field

from balanceroute.live.booking import Booking
from balanceroute.live.deadlines import Deadlines
from balanceroute.live.parts import Parts
from balanceroute.live.picker.endpoints import Endpoints
from balanceroute.live.tokens import EventRate


@dataclass(eq=False, slots=True)
class Picker:
    """The parts that decide, and what is learned on the way."""

    parts: Parts
    booking: Booking
    endpoints: Endpoints
    rate: EventRate = field(default_factory=EventRate)
    deadlines: Deadlines = field(default_factory=Deadlines)

    @staticmethod
    def of(parts: Parts) -> Picker:
        """Return a picker that decides with the parts of a router."""
        return Picker(parts, Booking(parts), Endpoints(parts))
