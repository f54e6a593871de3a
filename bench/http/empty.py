"""A picker that decides nothing: what one that decides cannot beat on this server.

``python -m bench.http.empty PORT ENDPOINT...`` takes part in the same exchanges as `balanceroute
epp` and answers alike, with the endpoints in turn. It reads no JSON, keeps no ledger and plans
nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator

import uvloop

from balanceroute.live.picker.exchange import DESTINATION, LB
from balanceroute.live.picker.messages import Part, read_asked, read_body
from balanceroute.live.picker.process import PROCESS
from balanceroute.live.picker.replies import destination, go_on, go_on_with, pieces
from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.server import RpcServer, listening

END_OF_STREAM = b"\x18\x01"  # of headers without a body


class Echo:
    """Sends one request to an endpoint, and all else back."""

    def __init__(self, call: Call, endpoint: str) -> None:
        self._call, self._body = call, b""
        metadata = destination(endpoint, LB, DESTINATION)
        sets = ((DESTINATION, endpoint),)
        self._directed = go_on_with(Part.REQUEST_HEADERS, sets, (), metadata)

    def receive(self, messages: list[bytes]) -> None:
        """Answer what is complete."""
        told: list[bytes] = []
        back: list[bytes] = []  # of the answer's body
        is_end = False
        for asked in map(read_asked, messages):
            match asked.part:
                case Part.REQUEST_HEADERS:
                    told += [self._directed] if asked.content.endswith(END_OF_STREAM) else []
                case Part.REQUEST_BODY:
                    body, is_end = read_body(asked.content)
                    self._body += body
                    if is_end:
                        told += [self._directed]
                        told += pieces(Part.REQUEST_BODY, self._body, is_end=True)
                case Part.RESPONSE_BODY:
                    body, is_end = read_body(asked.content)
                    back.append(body)
                case _:
                    told.append(go_on(Part(asked.part)))
        if back:
            told += pieces(Part.RESPONSE_BODY, b"".join(back), is_end=is_end)
        self._call.send(*told)

    def half_close(self) -> None:
        """End the call as well."""
        self._call.end()

    def cancel(self) -> None:
        """Do nothing: nothing is kept."""


async def serve(port: int, endpoints: Iterator[str]) -> None:
    """Serve until killed."""

    def open_echo(call: Call, _: Opening) -> Listener:
        return Echo(call, next(endpoints))

    server = RpcServer({PROCESS: open_echo}, max_message_bytes=1 << 20)
    async with listening(server, "127.0.0.1", port, shutdown_s=lambda: 0.0):
        print("serving", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), itertools.cycle(sys.argv[2:])))
