"""What one rank computes in a step, as vLLM's scheduler decides it.

The rules are those of `balanceroute.kernels.scheduler`, for KV memory in blocks: running requests
first, then prefills under way, then the rank's own queue, within slots, KV blocks and token budget.
A rank short of blocks throws out the request admitted last, which goes to the front of the queue
and recomputes everything it had; in a step in which a rank preempts it admits nobody.
"""

from __future__ import annotations

from collections import deque

from balanceroute.emulator.request import Request, State


class Rank:
    """One rank's queue, running requests and KV blocks.

    Parameters
    ----------
    num_slots : int
        Requests that may run at once.
    num_blocks, block_size : int
        KV blocks, and tokens in each.
    speed : float
        Relative to the nominal rank.

    Examples
    --------
    >>> rank = Rank(num_slots=2, num_blocks=4, block_size=16, speed=1.0)
    >>> rank.enqueue(Request(prompt_tokens=20, output_tokens=2))
    >>> rank.enqueue(Request(prompt_tokens=40, output_tokens=1))
    >>> rank.schedule(1024)  # 2 blocks for the first; 3 more are not there for the second
    >>> rank.num_running, rank.num_waiting, rank.used_blocks, rank.prefill_tokens
    (1, 1, 2, 20)
    """

    def __init__(self, *, num_slots: int, num_blocks: int, block_size: int, speed: float) -> None:
        self._num_slots = num_slots
        self._num_blocks = num_blocks
        self._block_size = block_size
        self.speed = speed
        self._waiting: deque[Request] = deque()
        # Dictionaries as ordered sets, in the order of admission.
        self._running: dict[Request, None] = {}
        self._prefilling: dict[Request, None] = {}
        # Requests whose newest token needs a block of its own; they get it in the next step.
        self._growing: list[Request] = []
        self.used_blocks = 0
        self.load_tokens = 0
        self.prefill_tokens = 0  # computed in the step under way
        self.admitted: list[Request] = []  # in the step under way
        self.total_prompt_tokens = 0
        self.total_generated_tokens = 0
        self.num_preemptions = 0

    @property
    def num_running(self) -> int:
        """Return how many requests have a slot."""
        return len(self._running)

    @property
    def num_decoding(self) -> int:
        """Return how many requests get a token in the step under way."""
        return len(self._running) - len(self._prefilling)

    @property
    def num_waiting(self) -> int:
        """Return how many requests are queued."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Return the part of the KV blocks that is in use, in [0, 1]."""
        return self.used_blocks / self._num_blocks

    def enqueue(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        request.state = State.WAITING
        request.due_tokens = request.prompt_tokens
        self._waiting.append(request)

    def schedule(self, budget_tokens: int) -> None:
        """Decide what is computed in the step that begins."""
        self.prefill_tokens = 0
        self.admitted.clear()
        preempted = self._make_room()
        budget = budget_tokens - self.num_decoding
        if self._prefilling:
            budget, fell = self._continue_prefills(budget)
            preempted = preempted or fell
        if not preempted:
            self._admit(budget)

    def end_step(self, outputs: list[Request]) -> None:
        """Give every decoding request its token, and let those go whose last one it was."""
        decoding, one = State.DECODING, 1 % self._block_size
        finished: list[Request] = []
        self.load_tokens += self.num_decoding
        self.total_generated_tokens += self.num_decoding
        for request in self._running:
            if request.state is not decoding:
                continue
            outputs.append(request)
            request.generated_tokens += 1
            request.resident_tokens += 1
            if request.generated_tokens == request.output_tokens:
                finished.append(request)
            elif request.resident_tokens % self._block_size == one:
                self._growing.append(request)
        for request in finished:
            self._finish(request)

    def drop(self, request: Request) -> None:
        """Take a request off the rank, wherever it is."""
        if request.state is State.WAITING:
            self._waiting.remove(request)
        elif request.state is State.HELD:
            self.used_blocks -= request.num_blocks
        else:
            self._vacate(request)
        request.state = State.ENDED

    def _make_room(self) -> bool:
        """Give blocks to the tokens of the last step; tell whether somebody had to go for that."""
        for request in self._growing:
            if request.state is State.DECODING:
                request.num_blocks += 1
                self.used_blocks += 1
        self._growing.clear()
        preempted = False
        while self.used_blocks > self._num_blocks:
            self._preempt_last()
            preempted = True
        return preempted

    def _continue_prefills(self, budget: int) -> tuple[int, bool]:
        """Spend the budget on prefills under way; return what is left, and if anybody fell."""
        preempted = False
        for request in tuple(self._prefilling):
            # Those thrown out for one before them are the youngest, so nobody follows them.
            if budget <= 0 or request not in self._prefilling:
                break
            chunk = min(budget, request.due_tokens)
            while self.used_blocks + self._more_blocks(request, chunk) > self._num_blocks:
                preempted = True
                self._preempt_last()
                if request not in self._prefilling:
                    return budget, True
            self._compute(request, chunk)
            budget -= chunk
        return budget, preempted

    def _admit(self, budget: int) -> None:
        while self._waiting and budget > 0 and len(self._running) < self._num_slots:
            request = self._waiting[0]
            # All of a prompt has to fit, though the budget may cut it.
            if self.used_blocks + self._more_blocks(request, request.due_tokens) > self._num_blocks:
                return
            # A prompt that comes from elsewhere takes no budget, the token after it takes one.
            chunk = request.due_tokens if request.is_prefilled else min(budget, request.due_tokens)
            self._waiting.popleft()
            self._running[request] = None
            self._prefilling[request] = None
            request.state = State.PREFILLING
            self.admitted.append(request)
            self._compute(request, chunk)
            budget -= 1 if request.is_prefilled else chunk

    def _compute(self, request: Request, num_tokens: int) -> None:
        """Make prompt tokens resident; with the last one the request decodes from this step on."""
        num_blocks = self._more_blocks(request, num_tokens)
        request.num_blocks += num_blocks
        self.used_blocks += num_blocks
        request.resident_tokens += num_tokens
        request.due_tokens -= num_tokens
        self.load_tokens += num_tokens
        if not request.is_prefilled:
            self.prefill_tokens += num_tokens
        if request.due_tokens == 0:
            request.state = State.DECODING
            del self._prefilling[request]
            if request.generated_tokens == 0:
                self.total_prompt_tokens += request.prompt_tokens

    def _more_blocks(self, request: Request, num_tokens: int) -> int:
        return -(-(request.resident_tokens + num_tokens) // self._block_size) - request.num_blocks

    def _preempt_last(self) -> None:
        """Throw out the request admitted last, to the front of the queue."""
        request = next(reversed(self._running))
        self._vacate(request)
        request.state = State.WAITING
        request.num_blocks = 0
        request.resident_tokens = 0
        request.due_tokens = request.prompt_tokens + request.generated_tokens
        request.is_prefilled = False  # what was fetched is gone
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._waiting.appendleft(request)

    def _finish(self, request: Request) -> None:
        if request.holds_kv:
            num_blocks = request.num_blocks
            self._vacate(request)
            self.used_blocks += num_blocks
            request.state = State.HELD
        else:
            self._vacate(request)
            request.state = State.ENDED

    def _vacate(self, request: Request) -> None:
        """Take a running request's slot, tokens and blocks back."""
        del self._running[request]
        self._prefilling.pop(request, None)
        self.load_tokens -= request.resident_tokens
        self.used_blocks -= request.num_blocks
