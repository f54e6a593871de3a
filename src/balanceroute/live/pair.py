"""Two twins of a group, by the policy that chooses and by another: what that would gain."""

from __future__ import annotations

from dataclasses import replace

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.ticket import Ticket
from balanceroute.live.twin import Sums, Twin

MAX_STEPS = 256  # at a time


class Pair:
    """Serves the requests of a group twice in thought, and compares.

    Both twins are the same but for the policy, so that what they have wrong (costs, how prompts are
    computed, who waits for whom) is wrong alike. They are behind the real group by as many ended
    requests as are in flight there, so that nearly all lengths are known when they are needed; a
    request that goes on in truth goes on in the twins. Left out is what comes before they have
    ended as many requests as the group has slots.

    Parameters
    ----------
    present, other : str
        The policies.
    seed, num_ranks, num_slots, costs, is_immediate
        As of `Twin`; the other policy binds as it does by nature.
    """

    def __init__(
        self,
        present: str,
        other: str,
        seed: int,
        *,
        num_ranks: int,
        num_slots: int,
        costs: StepCosts,
        is_immediate: bool | None = None,
    ) -> None:
        self.present = Twin(
            present,
            seed,
            num_ranks=num_ranks,
            num_slots=num_slots,
            costs=costs,
            is_immediate=is_immediate,
        )
        self.other = Twin(other, seed, num_ranks=num_ranks, num_slots=num_slots, costs=costs)
        self._in_flight: set[int] = set()
        self._num_ended = 0
        self._warmup = num_ranks * num_slots
        self._began: dict[Twin, Sums] = {}

    def note_arrival(self, ticket: Ticket) -> None:
        """Note a request that is new."""
        self._in_flight.add(ticket.number)
        for twin in (self.present, self.other):
            copied = Ticket(
                prompt_tokens=ticket.prompt_tokens,
                max_tokens=ticket.max_tokens,
                client=ticket.client,
                prompt_hash=ticket.prompt_hash,
                priority=ticket.priority,
            )
            twin.arrive(ticket.number, self._num_ended, copied)

    def note_end(self, ticket: Ticket) -> None:
        """Note how many tokens a request has given that has left, unless nothing is known of it.

        It may have come before, or have left a rank before, to be sent to another.
        """
        if ticket.number not in self._in_flight:
            return
        self._in_flight.remove(ticket.number)
        self._num_ended += 1
        for twin in (self.present, self.other):
            twin.learn(ticket.number, max(1, ticket.output_tokens))

    def advance(self) -> None:
        """Let both twins follow."""
        for twin in (self.present, self.other):
            twin.advance(self._num_ended - len(self._in_flight), MAX_STEPS)
            if twin not in self._began and twin.num_completed >= self._warmup:
                self._began[twin] = replace(twin.sums)

    def sums(self, twin: Twin) -> Sums | None:
        """Return what a twin has come to since its beginning was left out."""
        began = self._began.get(twin)
        if began is None or twin.sums.step_s <= began.step_s:
            return None
        now = twin.sums
        return Sums(
            num_tokens=now.num_tokens - began.num_tokens,
            step_s=now.step_s - began.step_s,
            mean_work_s=now.mean_work_s - began.mean_work_s,
            max_work_s=now.max_work_s - began.max_work_s,
        )

    @property
    def gain_ratio(self) -> float | None:
        """Return by how much more tokens per second the other policy would give; None: unknown."""
        present, other = self.sums(self.present), self.sums(self.other)
        if present is None or other is None:
            return None
        return other.tokens_per_s / present.tokens_per_s - 1.0
