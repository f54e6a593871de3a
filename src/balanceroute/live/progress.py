"""How far prompts have got on ranks that prefill while they decode, which no stream tells."""

from __future__ import annotations

from collections import deque

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.ledger import Ledger
from balanceroute.kernels.arrays import Int64Array
from balanceroute.kernels.ledger import PREFILLING, WAITING, RecordArray
from balanceroute.live.ticket import Ticket


class PrefillProgress:
    """Books prompts as they get resident, step by step, in a rank's order and within its budget.

    A rank whose step is seen has spent what its decodes left of the budget on the prompts that were
    there when that step began. The last token of a prompt is left to the stream: its first output
    token tells that the prompt is resident, and puts right what was booked wrongly until then.

    Ranks that share a barrier step together, so that a step seen on some is one of all. It is
    known to be over for the others when one of those makes the next.

    Parameters
    ----------
    ledger : Ledger
        Where prompts are booked.
    budget_tokens : int
        Prompt and output tokens that a rank computes in a step.
    has_barrier : bool
        Whether the ranks step together.
    """

    def __init__(self, ledger: Ledger, *, budget_tokens: int, has_barrier: bool) -> None:
        self._ledger, self._budget_tokens = ledger, budget_tokens
        self._has_barrier = has_barrier
        self._due: list[deque[Ticket]] = [deque() for _ in range(ledger.num_ranks)]
        self._began_s = [0.0] * ledger.num_ranks  # when the step under way began, at the latest
        self._seen: set[int] = set()  # ranks, in the round of steps that is coming in

    def add_rank(self) -> None:
        """Follow one more rank, the last one."""
        self._due.append(deque())
        self._began_s.append(0.0)

    def send(self, ticket: Ticket) -> None:
        """Note that a request has been sent to its rank."""
        self._due[ticket.rank].append(ticket)

    def step(self, rank: int, now_s: float, num_slots: Int64Array) -> None:
        """Book what the step that has just been seen on `rank` has computed.

        Parameters
        ----------
        rank : int
            Whose tokens have come in.
        now_s : float
            When.
        num_slots : int64 array, shape (G,)
            Requests that may run on each rank.
        """
        if self._has_barrier and rank in self._seen:
            for other in set(range(len(self._due))) - self._seen:
                self._book(other, now_s, int(num_slots[other]))
            self._seen.clear()
        self._seen.add(rank)
        self._book(rank, now_s, int(num_slots[rank]))

    def _book(self, rank: int, now_s: float, num_slots: int) -> None:
        due, began_s = self._due[rank], self._began_s[rank]
        self._began_s[rank] = now_s
        entries, there = self._ledger.accounts.entries, self._ledger.ranks[rank]
        while due and not _is_due(due[0], rank, entries):
            due.popleft()
        budget = self._budget_tokens - int(there["num_decoding"])
        for ticket in due:
            if budget <= 0 or ticket.sent_s > began_s:
                return
            if not _is_due(ticket, rank, entries):
                continue
            if entries["state"][ticket.handle] == WAITING:
                if there["num_running"] >= num_slots:
                    return
                self._ledger.start(ticket.handle)
            chunk = min(budget, int(entries["due_tokens"][ticket.handle]))
            budget -= chunk
            booked = min(chunk, int(entries["due_tokens"][ticket.handle]) - 1)
            if booked > 0:
                self._ledger.prefill(ticket.handle, booked)


def _is_due(ticket: Ticket, rank: int, entries: RecordArray) -> bool:
    """Tell whether a request is still on the rank that it was sent to, without a token."""
    if ticket.handle < 0 or ticket.rank != rank:
        return False
    return bool(entries["state"][ticket.handle] in (WAITING, PREFILLING))


def progress_of(ledger: Ledger, costs: StepCosts | None) -> PrefillProgress | None:
    """Return who books prompts step by step, if ranks prefill and it is known how."""
    if costs is None or costs.budget_tokens is None:
        return None
    return PrefillProgress(ledger, budget_tokens=costs.budget_tokens, has_barrier=costs.has_barrier)
