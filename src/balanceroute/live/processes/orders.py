"""What the processes of a router are told at their start and while they run, over pipes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.processes.in_force import InForce

STOP, LEAVE, RELOAD = "stop", "leave", "reload"


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told first.

    Attributes
    ----------
    in_force : InForce
        What it begins with.
    costs : StepCosts or None
        What a step costs, if that is known.
    file, flags : str or None, dict
        From where settings are read again.
    folder : str
        Of the sockets.
    sockets : list of int
        Those that it inherits: the brain's two, or the port's.
    plane : int
        Which data plane it is; -1: it is the brain.
    num_running : int
        Data planes that a brain finds running.
    """

    in_force: InForce
    costs: StepCosts | None
    file: str | None
    flags: dict[str, Any]
    folder: str
    sockets: list[int]
    plane: int = -1
    num_running: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a process says to the one that has started it.

    Attributes
    ----------
    in_force : InForce or None
        What has changed, if anything has.
    grpc_port : int or None
        Where gRPC is served, once it is.
    is_up : bool
        Whether it serves from now on.
    """

    in_force: InForce | None = None
    grpc_port: int | None = None
    is_up: bool = False


def read_start() -> Start:
    """Return what stands first on standard input; what follows is left there for `follow`."""
    with open(0, "rb", buffering=0, closefd=False) as pipe:
        return msgspec.json.decode(pipe.readline(), type=Start)


def report(what: Report) -> None:
    """Say something to the process that has started this one."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


async def follow(orders: Mapping[str, Callable[[], object]]) -> bool:
    """Do what is ordered until it is to stop; False if whoever gives orders is gone."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    while (order := (await reader.readline()).decode().strip()) and order != STOP:
        if order in orders:
            orders[order]()
    pipe.close()
    return order == STOP
