"""The process in which a shadow lives, so that requests never wait for it.

Reads lines of JSON: the settings, then ``["a", …]`` for a request that has come and ``["e", …]``
for one that has left. Writes what the twins have come to, once a second at most.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time

import msgspec

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.pair import Pair
from balanceroute.live.ticket import Ticket

TELL_S = 1.0
NICENESS = 10


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow is told at its start."""

    present: str
    other: str
    seed: int
    num_ranks: int
    num_slots: int
    costs: StepCosts
    is_immediate: bool | None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow tells.

    Attributes
    ----------
    gain_ratio, present_idle_ratio, other_idle_ratio : float or None
        None: not known yet.
    num_completed : int
        Requests that the other policy's twin has ended.
    placed : list of pair of int
        Numbers of requests, and the ranks that the other policy has chosen, since the last time.
    """

    gain_ratio: float | None
    present_idle_ratio: float | None
    other_idle_ratio: float | None
    num_completed: int
    placed: list[tuple[int, int]]


def main() -> None:
    """Follow the router until it closes the pipe."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    pair = Pair(
        settings.present,
        settings.other,
        settings.seed,
        num_ranks=settings.num_ranks,
        num_slots=settings.num_slots,
        costs=settings.costs,
        is_immediate=settings.is_immediate,
    )
    due_s = time.monotonic() + TELL_S
    for line in sys.stdin.buffer:
        kind, number, *rest = msgspec.json.decode(line)
        ticket = _ticket(rest) if kind == "a" else Ticket(prompt_tokens=1)
        ticket.number = number
        if kind == "a":
            pair.note_arrival(ticket)
        else:
            ticket.output_tokens = rest[0]
            pair.note_end(ticket)
            pair.advance()
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + TELL_S
            sys.stdout.buffer.write(msgspec.json.encode(told(pair)) + b"\n")
            sys.stdout.buffer.flush()


def _ticket(known: list[int]) -> Ticket:
    prompt_tokens, max_tokens, client, prompt_hash, priority = known
    return Ticket(
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        client=client,
        prompt_hash=prompt_hash,
        priority=priority,
    )


def told(pair: Pair) -> Told:
    """Return what the twins have come to; what has been placed is told once."""
    idle = []
    for twin in (pair.present, pair.other):
        sums = pair.sums(twin)
        ratio = math.nan if sums is None else sums.idle_ratio
        idle.append(None if math.isnan(ratio) else ratio)
    placed, pair.other.placed = pair.other.placed, []
    pair.present.placed.clear()
    return Told(
        gain_ratio=pair.gain_ratio,
        present_idle_ratio=idle[0],
        other_idle_ratio=idle[1],
        num_completed=pair.other.num_completed,
        placed=placed,
    )


if __name__ == "__main__":
    main()
