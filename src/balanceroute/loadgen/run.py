"""A run: when requests are sent, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from balanceroute.errors import ConfigError
from balanceroute.loadgen.bodies import RequestMaker
from balanceroute.loadgen.client import Client, Endpoint, Outcome, clock
from balanceroute.loadgen.config import DEFAULT_CONCURRENCY, LoadConfig
from balanceroute.loadgen.finish import Sending, measure
from balanceroute.loadgen.plan import timed
from balanceroute.loadgen.recorder import Measurement, Recorder
from balanceroute.loadgen.steps import StepReader
from balanceroute.types import Workload

LOOK_S = 0.5  # from one progress report, and sample of the ranks' loads, to the next
LAG_PROBE_S = 0.05  # the timers by which the generator's own lag is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a run stands; times are the wall's.

    Attributes
    ----------
    elapsed_s : float
        Since the start.
    num_requests, num_sent, num_answered, num_failed : int
        Requests in all, and so far.
    tokens_per_s : float
        Output tokens per second since the last snapshot.
    ttft_s, tpot_s : float or None
        Mean time to the first token, and per token after it, of the requests answered so far.
    """

    elapsed_s: float
    num_requests: int
    num_sent: int
    num_answered: int
    num_failed: int
    tokens_per_s: float
    ttft_s: float | None
    tpot_s: float | None


async def replay(
    workload: Workload,
    config: LoadConfig,
    *,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Measurement:
    """Send a workload's requests to a server and measure what comes back.

    A request that fails is counted, and the run goes on.

    Parameters
    ----------
    workload : Workload
        Requests, with arrival times unless they are sent in a closed loop; see `read_requests`.
    config : LoadConfig
        Where, when and in what form.
    stop : asyncio.Event or None
        Ends the run when it is set; requests that are under way are cut off.
    on_progress : callable or None
        Told twice a second how the run stands.

    Returns
    -------
    Measurement
        Its `records` are what `metrics` and `report` work on.

    Raises
    ------
    ConfigError
        If the server cannot be reached, or is not what the settings say, before anything is sent.
    """
    if not config.is_saturated and workload.arrival_s is None:
        workload = timed(workload, config)
    async with Client(config) as client:
        endpoint = await client.examine()
        steps = None
        if config.steps_url is not None:
            steps = StepReader(client.session, config.steps_url)
            await steps.open()
        run = _Run(workload, config, client, endpoint, steps)
        await run.send_all(stop or asyncio.Event(), on_progress)
        return await run.finish()


class _Run:
    """One run from the first request to the last answer."""

    def __init__(
        self,
        workload: Workload,
        config: LoadConfig,
        client: Client,
        endpoint: Endpoint,
        steps: StepReader | None,
    ) -> None:
        self._workload, self._config, self._client = workload, config, client
        self._endpoint, self._steps = endpoint, steps
        self._maker = RequestMaker(workload, config, model=endpoint.model)
        self._concurrency = _concurrency(config, steps)
        self._next_row = 0
        self._open: set[Outcome] = set()
        self._lags_s: list[float] = []
        self._is_interrupted = False
        self._num_tokens = 0  # of ended requests
        self._ttft_s = _Mean()
        self._tpot_s = _Mean()
        self._start_s = clock()
        self._sent_until_s = 0.0
        self._recorder = Recorder(workload, self._start_s)

    async def send_all(
        self, stop: asyncio.Event, on_progress: Callable[[Snapshot], None] | None
    ) -> None:
        """Send until nothing is left or the time is over, and wait for the answers."""
        send = self._keep_outstanding if self._config.is_saturated else self._keep_times
        async with self._watching(on_progress):
            sending = asyncio.create_task(send())
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({sending, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._is_interrupted = not sending.done()
                stopping.cancel()
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending
        for outcome in self._open:
            self._recorder.add(outcome)

    async def finish(self) -> Measurement:
        """Return what has been measured."""
        sending = Sending(
            start_s=self._start_s,
            sent_until_s=self._sent_until_s,
            wall_s=clock() - self._start_s,
            concurrency=self._concurrency,
            lags_s=tuple(self._lags_s),
            is_interrupted=self._is_interrupted,
        )
        return await measure(
            self._workload, self._config, self._endpoint, self._recorder, self._steps, sending
        )

    async def _keep_outstanding(self) -> None:
        """Send in a closed loop: each answered request is replaced at once."""
        assert self._concurrency is not None
        num_clients = min(self._concurrency, self._workload.num_requests)
        async with asyncio.TaskGroup() as clients:
            for _ in range(num_clients):
                clients.create_task(self._send_in_turn())

    async def _send_in_turn(self) -> None:
        while self._next_row < self._workload.num_requests:
            if clock() - self._start_s >= self._config.send_s:
                self._sent_until_s = self._config.send_s
                return
            row = self._next_row
            self._next_row += 1
            await self._send(row)

    async def _keep_times(self) -> None:
        """Send in an open loop: each request at its time, whoever is still being answered."""
        assert self._workload.arrival_s is not None
        async with asyncio.TaskGroup() as requests:
            for row, due_s in enumerate(self._workload.arrival_s.tolist()):
                if due_s >= self._config.send_s:
                    break
                wait_s = self._start_s + due_s - clock()
                # Those that are due already are sent without a pause, but for a look at answers.
                await asyncio.sleep(max(0.0, wait_s))
                self._next_row = row + 1
                requests.create_task(self._send(row))
            left_s = self._start_s + self._config.send_s - clock()
            if math.isfinite(left_s) and self._next_row < self._workload.num_requests:
                await asyncio.sleep(max(0.0, left_s))
                self._sent_until_s = self._config.send_s

    async def _send(self, row: int) -> None:
        outcome = Outcome(row=row)
        self._open.add(outcome)
        await self._client.send(outcome, self._maker.body(row), self._maker.headers(row))
        self._open.discard(outcome)
        self._sent_until_s = max(self._sent_until_s, outcome.sent_s - self._start_s)
        self._recorder.add(outcome)
        self._num_tokens += outcome.num_tokens
        if outcome.piece_s and not outcome.has_failed:
            first_s, last_s = outcome.piece_s[0], outcome.piece_s[-1]
            self._ttft_s.add(first_s - outcome.sent_s)
            if outcome.num_tokens > 1:
                self._tpot_s.add((last_s - first_s) / (outcome.num_tokens - 1))

    @contextlib.asynccontextmanager
    async def _watching(
        self, on_progress: Callable[[Snapshot], None] | None
    ) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._probe_lag()),
            asyncio.create_task(self._look(on_progress or (lambda _: None))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe_lag(self) -> None:
        while True:
            before_s = clock()
            await asyncio.sleep(LAG_PROBE_S)
            self._lags_s.append(max(0.0, clock() - before_s - LAG_PROBE_S))

    async def _look(self, on_progress: Callable[[Snapshot], None]) -> None:
        before_s, before_tokens = self._start_s, 0
        while True:
            await asyncio.sleep(LOOK_S)
            if self._steps is not None:
                with contextlib.suppress(ConfigError):  # a sample less; the end will tell
                    await self._steps.look()
            now_s = clock()
            num_tokens = self._num_tokens + sum(outcome.num_tokens for outcome in self._open)
            on_progress(self._snapshot(now_s, (num_tokens - before_tokens) / (now_s - before_s)))
            before_s, before_tokens = now_s, num_tokens

    def _snapshot(self, now_s: float, tokens_per_s: float) -> Snapshot:
        return Snapshot(
            elapsed_s=now_s - self._start_s,
            num_requests=self._workload.num_requests,
            num_sent=self._next_row,
            num_answered=self._recorder.num_answered,
            num_failed=self._recorder.num_failed,
            tokens_per_s=max(0.0, tokens_per_s),
            ttft_s=self._ttft_s.value,
            tpot_s=self._tpot_s.value,
        )


class _Mean:
    """A mean of what has been so far."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        self._sum += value
        self._count += 1

    @property
    def value(self) -> float | None:
        return self._sum / self._count if self._count else None


def _concurrency(config: LoadConfig, steps: StepReader | None) -> int | None:
    """Return how many requests are kept outstanding; None for an open loop."""
    if not config.is_saturated:
        return None
    if config.pool is None:
        return config.concurrency or DEFAULT_CONCURRENCY
    assert steps is not None  # LoadConfig has seen to it
    return steps.state.num_ranks * steps.state.num_slots + config.pool
