"""Shadow mode: another process says what a policy would have done with the same requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.config import ServeConfig
from balanceroute.live.group import LiveGroup
from balanceroute.live.shadow_process import Settings, Told
from balanceroute.live.ticket import Ticket, share
from balanceroute.policies.registry import make_policy

MAX_BEHIND_BYTES = 8 << 20  # that the process has not read yet
MAX_LINE_BYTES = 16 << 20

log = logging.getLogger(__name__)


class Shadow(Collector):
    """Tells a process of its own what comes and goes, and takes in what that says.

    Parameters
    ----------
    group : LiveGroup
        Whose requests are followed.
    settings : Settings
        Of the process.
    on_told : callable
        Called with the policy, and numbers and ranks of requests that it would have sent there.
    """

    def __init__(
        self,
        group: LiveGroup,
        settings: Settings,
        on_told: Callable[[str, list[tuple[int, int]]], object],
    ) -> None:
        self.settings, self._on_told = settings, on_told
        self.told: Told | None = None
        self.trouble = ""
        self._encode = msgspec.json.Encoder().encode
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        group.arrival_watchers.append(self._note_arrival)
        group.end_watchers.append(self._note_end)

    async def start(self) -> None:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "balanceroute.live.shadow_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )
        self.told, self.trouble = None, ""
        self._reading = asyncio.create_task(self._read(self._process))
        self._write(self.settings)

    async def stop(self) -> None:
        """End the process."""
        if self._changing is not None:
            await self._changing
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def follow(self, present: str) -> None:
        """Begin anew soon: another policy chooses from now on."""
        self.settings = msgspec.structs.replace(self.settings, present=present)
        self._changing = asyncio.create_task(self._change(self._changing))

    async def _change(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        await self._end()
        await self.start()

    def _note_arrival(self, ticket: Ticket) -> None:
        known = (ticket.max_tokens, ticket.client, ticket.prompt_hash, ticket.priority)
        prompt_tokens = share(ticket.prompt_tokens, ticket.num_prompts)
        self._write(["a", ticket.number, prompt_tokens, *known])

    def _note_end(self, ticket: Ticket) -> None:
        self._write(["e", ticket.number, share(ticket.output_tokens, ticket.num_sequences)])

    def _write(self, line: object) -> None:
        if self._process is None or self._process.stdin is None or self.trouble:
            return
        pipe = self._process.stdin
        if pipe.transport.get_write_buffer_size() > MAX_BEHIND_BYTES:
            self._fail("it cannot keep up")
            return
        pipe.write(self._encode(line) + b"\n")

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.told = msgspec.json.decode(line, type=Told)
            self._on_told(self.settings.other, self.told.placed)
        self._fail(f"its process has ended with {await process.wait()}")

    def _fail(self, reason: str) -> None:
        self.told, self.trouble = None, reason
        log.error("the shadow of %s is given up: %s", self.settings.other, reason)

    @property
    def summary(self) -> str:
        """Return in words what the policy would gain."""
        other = self.settings.other
        if self.trouble:
            return f"no shadow of {other}: {self.trouble}"
        if self.told is None or self.told.gain_ratio is None:
            return f"shadow of {other}: not enough seen yet"
        return f"{other} instead: {self.told.gain_ratio:+.1%} tokens/s, estimated"

    def collect(self) -> Iterator[Metric]:
        """Return what is known; nothing that is not."""
        told, labels = self.told, ["policy"]
        if told is None:
            return
        other, present = self.settings.other, self.settings.present
        text = "Requests that the shadow has served."
        served = CounterMetricFamily("balanceroute_shadow_requests", text, labels=labels)
        served.add_metric([other], told.num_completed)
        yield served
        if told.gain_ratio is not None:
            text = "More output tokens per second by the shadow's policy, as a part; estimated."
            gain = GaugeMetricFamily("balanceroute_shadow_gain_ratio", text, labels=labels)
            gain.add_metric([other], told.gain_ratio)
            yield gain
        text = "Part of the time waited at the barrier in the twins of both policies; estimated."
        idle = GaugeMetricFamily("balanceroute_shadow_idle_ratio", text, labels=["policy", "twin"])
        twins = (
            (present, "present", told.present_idle_ratio),
            (other, "shadow", told.other_idle_ratio),
        )
        for policy, twin, ratio in twins:
            if ratio is not None:
                idle.add_metric([policy, twin], ratio)
        yield idle


def shadow_of(
    config: ServeConfig,
    group: LiveGroup,
    costs: StepCosts | None,
    on_told: Callable[[str, list[tuple[int, int]]], object],
) -> Shadow | None:
    """Return the shadow that settings ask for, if they do; `ConfigError` if it cannot be."""
    if config.shadow is None:
        return None
    assert costs is not None
    assert config.slots is not None
    make_policy(config.shadow, rng=np.random.default_rng(0))  # refuses what there is not
    settings = Settings(
        present=config.policy,
        other=config.shadow,
        seed=config.seed,
        num_ranks=group.num_ranks,
        num_slots=config.slots,
        costs=costs,
        is_immediate=None if config.binding is None else config.binding == "immediate",
    )
    return Shadow(group, settings, on_told)
