"""What asks an endpoint picker as Envoy does: Google's gRPC client, in Envoy's own messages."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from balanceroute.live.app import running_router
from balanceroute.live.picker.endpoints import endpoint_of
from balanceroute.live.reading import read_config
from balanceroute.live.warm import warm
from tests.live.fake_engine import Client, FakeEngine, serving

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pb = pytest.importorskip(
    "envoy.service.ext_proc.v3.external_processor_pb2", reason="xds-protos is not installed"
)
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
DESTINATION = "x-gateway-destination-endpoint"
BUFFERED, STREAMED, DUPLEX = 2, 1, 4
BODY = b'{"prompt": [1, 2, 3], "max_tokens": 9}'
STREAM_BODY = b'{"prompt": [1, 2, 3], "stream": true}'


class Gateway:
    """Speaks to a picker as Envoy does."""

    def __init__(self, channel: Any, client: Client, endpoints: list[str]) -> None:
        self.channel, self.client, self.endpoints = channel, client, endpoints

    def call(self) -> Any:
        """Return a call for one request."""
        return self.channel.stream_stream(
            PROCESS,
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )()

    async def pick(
        self, body: bytes = BODY, headers: dict[str, str] | None = None
    ) -> tuple[Any, Any]:
        """Return a call and the first answer to its request, in the protocol's own mode."""
        call = self.call()
        await call.write(asked(headers=headers))
        await call.write(pb.ProcessingRequest(request_body={"body": body, "end_of_stream": True}))
        return call, await call.read()


def asked(
    *,
    mode: int = DUPLEX,
    answer_mode: int = DUPLEX,
    path: str = "/v1/completions",
    headers: dict[str, str] | None = None,
    subset: list[str] | None = None,
    is_end: bool = False,
) -> Any:
    """Return the headers of a request as Envoy sends them."""
    message = pb.ProcessingRequest(request_headers={"end_of_stream": is_end})
    named = {":path": path, ":method": "POST", "content-length": "9"} | (headers or {})
    for name, value in named.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.protocol_config.request_body_mode = mode
    message.protocol_config.response_body_mode = answer_mode
    if subset is not None:
        hint = message.metadata_context.filter_metadata["envoy.lb.subset_hint"]
        hint[f"{DESTINATION}-subset"] = subset
    return message


def answered(status: int = 200, *, is_stream: bool = True, served: str | None = None) -> Any:
    """Return the headers of an answer as Envoy sends them."""
    message = pb.ProcessingRequest(response_headers={})
    kind = "text/event-stream; charset=utf-8" if is_stream else "application/json"
    named = {":status": str(status), "content-type": kind, "x-envoy-upstream-service-time": "1"}
    for name, value in named.items():
        message.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    if served is not None:
        message.metadata_context.filter_metadata["envoy.lb"][f"{DESTINATION}-served"] = served
    return message


def piece(body: bytes, *, is_end: bool = False) -> Any:
    return pb.ProcessingRequest(response_body={"body": body, "end_of_stream": is_end})


def mutated(common: Any) -> dict[str, str]:
    """Return the headers that an answer sets."""
    options = common.header_mutation.set_headers
    assert all(option.append_action == 2 for option in options)  # OVERWRITE_IF_EXISTS_OR_ADD
    return {option.header.key: option.header.raw_value.decode() for option in options}


@functools.cache
def compile_once() -> None:
    """Compile what the picker calls."""
    warm("br_0", num_ranks=2, costs=None)


@contextlib.asynccontextmanager
async def picking(
    num_engines: int = 2, ranks_per_engine: int = 0, **settings: object
) -> AsyncIterator[Gateway]:
    """Run a picker in front of engines; no request waits for a compiler, as with `epp`."""
    compile_once()
    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(serving(FakeEngine())) for _ in range(num_engines)
        ]
        urls = [engine.url for engine in engines]
        if ranks_per_engine:
            for engine in engines:
                engine.metrics = ""
            urls = [f"{url}@{rank}" for url in urls for rank in range(ranks_per_engine)]
        flags: dict[str, object] = {"policy": "br_0", "slots": 4, "port": 0, "grpc_port": 0}
        config = read_config(None, flags | {"worker_urls": urls} | settings, is_picker=True)
        router, port = await stack.enter_async_context(running_router(config, is_picker=True))
        target = f"127.0.0.1:{router.grpc_port}"
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        client = Client(None, router, f"http://127.0.0.1:{port}")  # type: ignore[arg-type]
        yield Gateway(channel, client, [endpoint_of(engine.url) for engine in engines])


class Told:
    """A call that notes what is sent."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def send(self, *messages: bytes) -> None:
        self.messages += [pb.ProcessingResponse.FromString(message) for message in messages]

    def linger(self) -> None:
        pass

    def take(self) -> list[Any]:
        """Return what was sent since the last time."""
        taken, self.messages = self.messages, []
        return taken
