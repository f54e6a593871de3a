"""Shards of a fleet in processes of their own, which run at the same time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from balanceroute.errors import BalanceRouteError, ConfigError, WorkerError
from balanceroute.fleet.config import FleetConfig
from balanceroute.fleet.shard import Outcome, Sent, Shard
from balanceroute.kernels.ledger import RecordArray
from balanceroute.types import Workload

END_S = 5.0  # that a process gets to end by itself


class Shards:
    """All groups of a fleet; made by `running_shards`.

    Parameters
    ----------
    here : Shard
        That of this process.
    there : list of Connection
        To those of others.
    parts : sequence of sequences of int
        Numbers of the groups of each shard, those of this process first.
    """

    def __init__(
        self, here: Shard, there: Sequence[Connection], parts: Sequence[Sequence[int]]
    ) -> None:
        self._here, self._there = here, there
        self._parts = [np.array(part, np.int64) for part in parts]

    def run(self, until_s: float, sent: Sent, reports: RecordArray) -> None:
        """Run every group to `until_s`, and write what each tells then into `reports`."""
        calls = [(until_s, sent.where(np.isin(sent.groups, part))) for part in self._parts]
        for part, states in zip(self._parts, self._ask("run", calls), strict=True):
            reports[part] = states

    def finish(self, window_s: tuple[float, float]) -> list[Outcome]:
        """Return what has become of every shard."""
        return self._ask("finish", [(window_s,) for _ in self._parts])

    def _ask(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        own, *others = calls
        for connection, call in zip(self._there, others, strict=True):
            connection.send((method, call))
        answers = [getattr(self._here, method)(*own)]
        return answers + [_answer(connection) for connection in self._there]


@contextmanager
def running_shards(
    config: FleetConfig, workload: Workload, *, seed: int, num_processes: int
) -> Iterator[Shards]:
    """Spread the groups over so many processes, this one among them, for the time of the context.

    What comes of them does not depend on how many there are.

    Raises
    ------
    ConfigError
        If there is no process, or the groups cannot be simulated.
    """
    if num_processes < 1:
        raise ConfigError(f"--processes must be at least 1, got {num_processes}")
    num_shards = min(num_processes, config.num_groups)
    parts = [range(first, config.num_groups, num_shards) for first in range(num_shards)]
    # Spawned, since a fork would copy locks that threads of this process hold.
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    processes = []
    try:
        for part in parts[1:]:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, config, workload, part, seed), daemon=True
            )
            process.start()
            theirs.close()
            connections.append(ours)
            processes.append(process)
        yield Shards(Shard(config, workload, parts[0], seed), connections, parts)
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.join(END_S)
            if process.is_alive():
                process.kill()


def _serve(
    connection: Connection, config: FleetConfig, workload: Workload, part: range, seed: int
) -> None:
    """Do what the other end asks, until it goes away."""
    try:
        shard = Shard(config, workload, part, seed)
        while True:
            method, call = connection.recv()
            connection.send(getattr(shard, method)(*call))
    except EOFError:
        return
    except BalanceRouteError as error:
        connection.send(error)


def _answer(connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except EOFError as error:
        raise WorkerError(
            "one of the processes died, perhaps for lack of memory; run the same command again "
            "with fewer --groups or --requests"
        ) from error
    if isinstance(answer, BalanceRouteError):
        raise answer
    return answer
