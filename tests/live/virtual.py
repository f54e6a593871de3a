"""A router's bookkeeping beside an emulated engine, in virtual time: what it knows is compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balanceroute.emulator.config import EngineConfig
from balanceroute.emulator.engine import Engine
from balanceroute.emulator.request import Request
from balanceroute.live.group import LiveGroup
from balanceroute.live.ticket import Ticket
from balanceroute.policies import make_policy


@dataclass
class Virtual:
    """An engine and the group that a router makes of its streams; `steps` runs both.

    Attributes
    ----------
    config : EngineConfig
        The ranks.
    lengths : int64 array, shape (N, 2)
        Prompt and output tokens of the requests, as they come.
    policy : str
        Chooses.
    num_waiting : int
        Requests beyond the slots that are kept in the pool.
    stream_interval : int
        Tokens per chunk of a stream.
    knows_costs : bool
        Whether the router is told what steps cost.
    """

    config: EngineConfig
    lengths: NDArray[np.int64]
    policy: str = "br_auto"
    num_waiting: int = 32
    stream_interval: int = 1
    knows_costs: bool = True
    now_s: float = 0.0
    engine: Engine = field(init=False)
    group: LiveGroup = field(init=False)

    def __post_init__(self) -> None:
        self.engine = Engine(self.config)
        self.group = LiveGroup(
            num_ranks=self.config.num_ranks,
            policy=make_policy(self.policy, rng=np.random.default_rng(0)),
            num_slots=self.config.num_slots,
            costs=self.config.costs if self.knows_costs else None,
            clock=lambda: self.now_s,
        )
        self._outputs: dict[Ticket, int] = {}
        self._sent: dict[Request, Ticket] = {}
        self._requests = iter(self.lengths.tolist())
        self._is_exhausted = False

    def steps(self) -> Iterator[int]:
        """Make steps until there are no more requests to come; yield after each one's streams."""
        for _ in range(self.config.num_ranks * self.config.num_slots + self.num_waiting):
            self._enter()
        num_steps = 0
        while not self._is_exhausted:
            for ticket in self.group.plan():
                request = Request(
                    prompt_tokens=ticket.prompt_tokens,
                    output_tokens=self._outputs[ticket],
                    rank=ticket.rank,
                )
                self._sent[request] = ticket
                self.engine.submit(request)
            duration_s = self.engine.begin_step(self.now_s)
            assert duration_s is not None, "a policy that holds everything back"
            self.now_s += duration_s
            for request in self.engine.end_step():
                self._stream(request)
            num_steps += 1
            yield num_steps

    def _enter(self) -> None:
        prompt_tokens, output_tokens = next(self._requests, (0, 0))
        if prompt_tokens == 0:
            self._is_exhausted = True
            return
        ticket = Ticket(prompt_tokens=prompt_tokens)
        self._outputs[ticket] = output_tokens
        self.group.enter(ticket)

    def _stream(self, request: Request) -> None:
        ticket, num_tokens = self._sent[request], request.generated_tokens
        if request.is_finished or num_tokens == 1 or num_tokens % self.stream_interval == 0:
            self.group.grow(ticket, num_tokens - ticket.output_tokens)
        if request.is_finished:
            self.group.close(ticket, has_completed=True)
            del self._sent[request], self._outputs[ticket]
            self._enter()
