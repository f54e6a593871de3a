"""An emulated group behind its server: who waits for which tokens, faults, and KV transfers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from balanceroute.emulator.admission import Admission, admit
from balanceroute.emulator.clockwork import Clockwork
from balanceroute.emulator.config import ServerConfig
from balanceroute.emulator.engine import Engine, Trouble
from balanceroute.emulator.faults import FaultBoard
from balanceroute.emulator.meters import Meters
from balanceroute.emulator.openai import Ask
from balanceroute.emulator.replies import Reply
from balanceroute.emulator.request import Request
from balanceroute.emulator.transfer import ENGINE_KEY, REQUEST_KEY, KvExchange


@dataclass(slots=True)
class Job:
    """A request, and who waits for its tokens."""

    admission: Admission
    reply: Reply
    arrived_s: float
    last_token_s: float = 0.0  # of the wall; once it has a token


class EmulatedGroup:
    """One group: engine, clockwork, faults, meters.

    Parameters
    ----------
    config : ServerConfig
        What it is told.
    index : int
        Which of the process's groups it is.
    exchange : KvExchange
        Shared by the groups between which KV can be fetched.
    """

    def __init__(self, config: ServerConfig, index: int, exchange: KvExchange) -> None:
        self.config = config
        self.index = index
        self.role = config.role_of(index)
        self.engine = Engine(config.engine)
        self.clockwork = Clockwork(
            self.engine,
            speedup=config.speedup,
            on_begin=self._fetch_admitted,
            on_outputs=self._deliver,
        )
        self.faults = FaultBoard(config.engine.num_ranks)
        self.meters = [Meters() for _ in self.engine.ranks]
        self.created = int(time.time())
        self.urls: list[str] = []  # of its servers, when they are up
        self._exchange = exchange
        self._jobs: dict[Request, Job] = {}
        self._num_admitted = 0
        self._num_blocks_named = 0

    @property
    def url(self) -> str:
        """Return where it is reached, rank 0 if each rank has a port."""
        return self.urls[0]

    @property
    def num_open(self) -> int:
        """Return how many requests somebody waits for."""
        return len(self._jobs)

    def admit(
        self, ask: Ask, *, rank: int | None, output_tokens: int | None, request_id: str | None
    ) -> Admission:
        """Give a request its number, its length and its name; `start` begins it.

        Raises
        ------
        ApiError
            404 for another model, 400 for a prompt that is too long.
        """
        admission = admit(
            ask,
            self.config,
            self.role,
            number=(self.index, self._num_admitted),
            rank=rank,
            output_tokens=output_tokens,
            request_id=request_id,
            usage_error=self.faults.now.wrong_usage_tokens,
        )
        self._num_admitted += 1
        return admission

    def start(self, admission: Admission, reply: Reply) -> None:
        """Submit a request to the engine; `reply` gets its tokens until `drop`."""
        request = admission.request
        self.engine.submit(request)
        self._jobs[request] = Job(admission, reply, self.clockwork.now_s)
        if request.rank in self.faults.now.stalled_ranks:
            reply.withhold(True)
        self.clockwork.wake()

    def drop(self, request: Request) -> None:
        """Forget who waits for a request, and abort it if it has not finished."""
        job = self._jobs.pop(request, None)
        if job is None or request.is_finished:
            return
        assert request.rank is not None
        self.meters[request.rank].num_ended["abort"] += 1
        self.engine.abort(request)
        if job.admission.fetches is not None:
            self._exchange.fetch(job.admission.fetches)
        self.clockwork.wake()

    def apply_faults(self) -> None:
        """Let the engine and the open answers have what the fault board says."""
        faults = self.faults.now
        for rank in range(len(self.engine.ranks)):
            self.engine.troubles[rank] = Trouble(
                faults.slow_ranks.get(rank, 1.0), rank in faults.dead_ranks, faults.barrier
            )
        for request, job in self._jobs.items():
            job.reply.withhold(request.rank in faults.stalled_ranks)
        if faults.dead_group:
            self.cut_all()
        self.clockwork.wake()

    def cut_all(self) -> None:
        """Break off every answer that is under way."""
        for job in self._jobs.values():
            job.reply.cut()

    def stop(self) -> None:
        """Make no further step, and cut off who still waits."""
        self.clockwork.stop()
        self.cut_all()

    def _deliver(self, outputs: Sequence[Request], now_s: float) -> None:
        """Tell everybody about the tokens of a step."""
        # Nearly all had their last token at the same time, so a step has few different gaps.
        gaps: dict[tuple[int, float], int] = {}
        for request in outputs:
            job, rank = self._jobs[request], request.rank
            assert rank is not None
            if request.generated_tokens == 1:
                self.meters[rank].first_token.observe(now_s - job.arrived_s)
            else:
                gap = (rank, job.last_token_s)
                gaps[gap] = gaps.get(gap, 0) + 1
            job.last_token_s = now_s
            if request.generated_tokens < request.output_tokens:
                job.reply.push(None)
            else:
                self._finish(request, job, now_s)
        for (rank, last_s), count in gaps.items():
            self.meters[rank].inter_token.observe(now_s - last_s, count)

    def _finish(self, request: Request, job: Job, now_s: float) -> None:
        assert request.rank is not None
        meters = self.meters[request.rank]
        meters.num_ended[request.finish_reason] += 1
        meters.request.observe(now_s - job.arrived_s)
        if job.admission.offers is not None:
            self._offer(job.admission, job.admission.offers)
        job.reply.push(request.finish_reason)

    def _offer(self, admission: Admission, params: dict[str, object]) -> None:
        """Keep a request's KV for the decode side, and complete the parameters that name it."""
        request, engine_id = admission.request, f"emulated-{self.config.seed}-{self.index}"
        first_block = self._num_blocks_named
        self._num_blocks_named += request.num_blocks
        port = int(self.url.rpartition(":")[2])
        params |= {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": list(range(first_block, first_block + request.num_blocks)),
            ENGINE_KEY: engine_id,
            REQUEST_KEY: admission.key,
            "remote_host": self.config.host,
            "remote_port": port,
            "tp_size": 1,
        }

        def release() -> None:
            timer.cancel()
            self.engine.release(request)
            self.clockwork.wake()

        loop, timeout_s = asyncio.get_running_loop(), self.config.kv_hold_timeout_s
        timer = loop.call_later(timeout_s, self._exchange.fetch, params)
        self._exchange.hold(engine_id, admission.key, release)

    def _fetch_admitted(self) -> None:
        """Fetch the KV of prompts that have got their blocks in the step that begins."""
        if self.role not in ("decode", "both"):
            return
        for rank in self.engine.ranks:
            for request in rank.admitted:
                job = self._jobs.get(request)  # a dead rank's may be gone
                if job is not None and job.admission.fetches is not None:
                    self._exchange.fetch(job.admission.fetches)
