"""The endpoint picker, asked by Google's gRPC client in Envoy's own messages; no Envoy needed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
import pytest

from balanceroute.live.addresses import RankAddress
from balanceroute.live.app import running_router
from balanceroute.live.picker.endpoints import endpoint_of
from balanceroute.live.picker.exchange import Exchange
from balanceroute.live.picker.shared import Picker
from balanceroute.live.reading import read_config
from balanceroute.live.rpc.calls import Call
from balanceroute.live.warm import warm
from tests.live.fake_engine import DONE, Client, FakeEngine, chunk, run, serving, until

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


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Let no request here wait for a compiler, as `epp` does."""
    warm("br_0", num_ranks=2, costs=None)


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


@contextlib.asynccontextmanager
async def picking(
    num_engines: int = 2, ranks_per_engine: int = 0, **settings: object
) -> AsyncIterator[Gateway]:
    """Run a picker in front of engines."""
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


def test_a_stream_from_its_headers_to_its_end() -> None:
    """Header and metadata name the same endpoints, bodies come back whole, tokens are booked."""

    async def test() -> None:
        async with picking() as its:
            call, first = await its.pick(headers={"accept-encoding": "gzip"})
            common = first.request_headers.response
            sets = mutated(common)
            names = sets[DESTINATION].split(",")
            assert sorted(its.endpoints) == sorted(names)  # the chosen one, and a fall-back
            metadata = first.dynamic_metadata["envoy.lb"]
            assert {DESTINATION: sets[DESTINATION]} == dict(metadata)
            assert ["accept-encoding"] == list(common.header_mutation.remove_headers)
            second = await call.read()
            streamed = second.request_body.response.body_mutation.streamed_response
            assert (BODY, True) == (streamed.body, streamed.end_of_stream)
            await call.write(answered(served=names[0]))
            worker = mutated((await call.read()).response_headers.response)
            assert {"x-balanceroute-worker": f"http://{names[0]}"} == worker
            data = chunk() + chunk()
            await call.write(piece(data))
            back = (await call.read()).response_body.response.body_mutation.streamed_response
            assert (data, False) == (back.body, back.end_of_stream)
            ranks = its.client.router.group.ledger.ranks
            assert 5 == int(ranks["load_tokens"].sum())
            await call.write(piece(DONE, is_end=True))
            back = (await call.read()).response_body.response.body_mutation.streamed_response
            assert (DONE, True) == (back.body, back.end_of_stream)
            its.client.expect_nothing_left()
            await call.done_writing()
            assert grpc.aio.EOF is await call.read()
            assert grpc.StatusCode.OK == await call.code()

    run(test())


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


def test_what_comes_together_is_answered_together() -> None:
    """Pieces of an answer's body leave as one where they go back, and are told one by one else."""

    async def test() -> None:
        async with picking() as its:
            parts = its.client.router.parts
            for answer_mode, num_told in ((DUPLEX, 2), (STREAMED, 4)):
                call = Told()
                exchange = Exchange(Picker.of(parts), cast(Call, call))
                body = pb.ProcessingRequest(request_body={"body": BODY, "end_of_stream": True})
                said = [asked(answer_mode=answer_mode), body]
                exchange.receive([each.SerializeToString() for each in said])
                assert not call.messages  # the plan comes with the next turn of the loop
                await until(lambda: parts.group.num_waiting == 0)
                assert ["request_headers", "request_body"] == [
                    each.WhichOneof("response") for each in call.take()
                ]
                usage = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
                said = [answered(is_stream=False), piece(usage[:9]), piece(usage[9:])]
                said += [piece(b"", is_end=True)]
                exchange.receive([each.SerializeToString() for each in said])
                told = call.take()
                assert num_told == len(told)
                back = told[-1].response_body.response.body_mutation.streamed_response
                expected = (usage, True) if answer_mode == DUPLEX else (b"", False)
                assert expected == (back.body, back.end_of_stream)
                exchange.cancel()
                await until(lambda: parts.group.ledger.num_in_flight == 0)
            assert 4 == parts.meters.tokens._value.get()

    run(test())


def test_what_is_over_is_let_go() -> None:
    """Nothing of a request waits for a collector, which comes late where much is kept for good."""

    async def test() -> None:
        async with picking(num_engines=1, slots=1) as its:
            parts = its.client.router.parts
            body = pb.ProcessingRequest(request_body={"body": BODY, "end_of_stream": True})
            said = [each.SerializeToString() for each in (asked(), body)]
            exchanges = [Exchange(Picker.of(parts), cast(Call, Told())) for _ in range(2)]
            gc.collect()
            gc.disable()
            try:
                for exchange in exchanges:
                    exchange.receive(said)
                await until(lambda: parts.group.num_waiting == 1)  # the other has the slot
                exchanges[0].receive([answered(is_stream=False).SerializeToString()])
                kept = [weakref.ref(each) for each in exchanges]
                while exchanges:
                    exchanges.pop().cancel()
                del exchange
                assert [None, None] == [each() for each in kept]
            finally:
                gc.enable()

    run(test())


def test_a_long_body_comes_back_in_pieces_that_envoy_takes() -> None:
    """Each has at most 64 KiB, and together they are the body."""

    async def test() -> None:
        body = msgspec.json.encode({"prompt": "x" * 200_000})
        async with picking(max_body_bytes=1 << 20, kv_tokens=1 << 20) as its:
            call, _ = await its.pick(body)
            pieces: list[Any] = []
            while not pieces or not pieces[-1].end_of_stream:
                answer = await call.read()
                pieces.append(answer.request_body.response.body_mutation.streamed_response)
            assert body == b"".join(each.body for each in pieces)
            assert max(len(each.body) for each in pieces) <= 1 << 16
            call.cancel()
            await until(lambda: its.client.router.group.ledger.num_in_flight == 0)

    run(test())


def test_modes_in_which_envoy_keeps_the_bodies() -> None:
    """With BUFFERED and STREAMED every message gets one answer, and no body comes back."""

    async def test() -> None:
        async with picking(num_engines=1, ranks_per_engine=2) as its:
            call = its.call()
            await call.write(asked(mode=BUFFERED, answer_mode=STREAMED))
            assert not (await call.read()).request_headers.response.HasField("header_mutation")
            body = {"body": BODY, "end_of_stream": True}
            await call.write(pb.ProcessingRequest(request_body=body))
            common = (await call.read()).request_body.response
            assert {DESTINATION, "x-data-parallel-rank"} == set(mutated(common))
            assert not common.HasField("body_mutation")
            await call.write(answered(is_stream=False))
            await call.read()
            usage = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'
            await call.write(piece(usage, is_end=True))
            answer = await call.read()
            assert not answer.response_body.response.HasField("body_mutation")
            its.client.expect_nothing_left()

    run(test())


def test_ranks_that_share_a_port() -> None:
    """The rank goes along as a header, and only places where its number means it are fall-backs."""

    async def test() -> None:
        async with picking(num_engines=2, ranks_per_engine=2) as its:
            seen = set()
            for _ in range(4):
                _, first = await its.pick(headers={"x-data-parallel-rank": "7"})
                sets = mutated(first.request_headers.response)
                names = sets[DESTINATION].split(",")
                assert sorted(its.endpoints) == sorted(names)
                seen.add((names[0], sets["x-data-parallel-rank"]))
            assert 4 == len(seen)

    run(test())


def test_an_endpoint_that_took_over() -> None:
    """The request is booked on the rank that has served it, as Envoy says."""

    async def test() -> None:
        async with picking() as its:
            call, first = await its.pick(STREAM_BODY)
            await call.read()
            chosen, other = mutated(first.request_headers.response)[DESTINATION].split(",")
            await call.write(answered(served=other))
            assert f"http://{other}" in str(await call.read())
            inflight = its.client.router.group.ledger.ranks
            booked = (inflight["num_running"] + inflight["num_waiting"]).tolist()
            assert 1 == booked[its.endpoints.index(other)]
            assert 0 == booked[its.endpoints.index(chosen)]

    run(test())


def test_subsets() -> None:
    """Only endpoints of the hint are named; one that names none that is fit gets 503."""

    async def test() -> None:
        async with picking(num_engines=3) as its:
            for name in [*its.endpoints, *its.endpoints]:
                call = its.call()
                await call.write(asked(subset=[name]))
                body = {"body": BODY, "end_of_stream": True}
                await call.write(pb.ProcessingRequest(request_body=body))
                first = await call.read()
                assert name == mutated(first.request_headers.response)[DESTINATION]
            for none in ([], ["10.0.0.1:80"]):
                call = its.call()
                await call.write(asked(subset=none))
                assert 503 == (await call.read()).immediate_response.status.code

    run(test())


def test_refusals() -> None:
    """Bad JSON is 400, a full queue 429 with Retry-After, no fit rank 503, all in OpenAI's form."""

    async def test() -> None:
        async with picking(queue_size=0) as its:
            call = its.call()
            await call.write(asked())
            refusal = (await call.read()).immediate_response
            assert 429 == refusal.status.code
            names = {option.header.key for option in refusal.headers.set_headers}
            assert {"retry-after", "content-type", "x-balanceroute-dropped-reason"} == names
            assert 429 == msgspec.json.decode(refusal.body)["error"]["code"]
            assert grpc.aio.EOF is await call.read()
        async with picking() as its:
            _, first = await its.pick(b"no JSON")
            assert 400 == first.immediate_response.status.code
            for rank in range(2):
                its.client.router.health.drain(rank, is_draining=True)
            call = its.call()
            await call.write(asked())
            assert 503 == (await call.read()).immediate_response.status.code
            its.client.expect_nothing_left()

    run(test())


def test_waiting_in_the_pool() -> None:
    """No answer comes until a slot is free; whose client goes leaves; 408 in the end."""

    async def test() -> None:
        async with picking(num_engines=1, slots=1, queue_timeout_secs=2.0) as its:
            group = its.client.router.group
            held, _ = await its.pick()
            late = asyncio.create_task(its.pick())
            await until(lambda: group.num_waiting == 1)
            gone = its.call()
            await gone.write(asked())
            body = {"body": BODY, "end_of_stream": True}
            await gone.write(pb.ProcessingRequest(request_body=body))
            await until(lambda: group.num_waiting == 2)
            gone.cancel()
            await until(lambda: group.num_waiting == 1)
            assert not late.done()
            held.cancel()  # the client of the first has gone, and its slot is free
            call, first = await late
            assert first.HasField("request_headers")
            _, refused = await its.pick()
            assert 408 == refused.immediate_response.status.code
            call.cancel()
            await until(lambda: group.ledger.num_in_flight == 0)
            its.client.expect_nothing_left()

    run(test())


def test_a_stream_that_stops_short() -> None:
    """The client gets an error event behind what has come, and the rank has failed once."""

    async def test() -> None:
        async with picking() as its:
            call, _ = await its.pick(STREAM_BODY)
            await call.read()
            await call.write(answered())
            await call.read()
            await call.write(piece(chunk(), is_end=True))
            back = (await call.read()).response_body.response.body_mutation.streamed_response
            assert back.body.startswith(chunk())
            error = msgspec.json.decode(back.body.removeprefix(chunk()).removeprefix(b"data: "))
            assert 502 == error["error"]["code"]
            its.client.expect_nothing_left()

    run(test())


def test_a_rank_that_envoy_cannot_be_told(caplog: pytest.LogCaptureFixture) -> None:
    """It fails the request that is to go there, and neither the policy nor any other request."""

    async def test() -> None:
        async with picking(num_engines=1) as its:
            parts = its.client.router.parts
            held, _ = await its.pick()
            url, parts.addresses[0] = parts.addresses[0], RankAddress("http://vllm-0:8000")
            with pytest.raises(grpc.aio.AioRpcError, match="the router has failed"):
                await its.pick()
            assert "must be an IP address" in caplog.text
            assert "the policy has failed" not in caplog.text
            parts.addresses[0] = url
            late, first = await its.pick()
            assert first.HasField("request_headers")
            assert 2 == its.client.router.group.ledger.num_in_flight
            held.cancel()
            late.cancel()
            await until(lambda: its.client.router.group.ledger.num_in_flight == 0)

    run(test())


def test_requests_that_make_no_load() -> None:
    """What has no body, and other paths, go to the ranks in turn, and are not booked."""

    async def test() -> None:
        async with picking() as its:
            seen = []
            for _ in range(2):
                call = its.call()
                await call.write(asked(path="/v1/models", is_end=True))
                common = (await call.read()).request_headers.response
                seen.append(mutated(common)[DESTINATION].split(",")[0])
                await call.write(answered(is_stream=False))
                assert (await call.read()).HasField("response_headers")
            assert sorted(its.endpoints) == sorted(seen)
            its.client.expect_nothing_left()

    run(test())


def test_health_and_what_is_no_external_processing() -> None:
    """Liveness stays while readiness goes with the ranks; other services and bytes are refused."""
    health = pytest.importorskip("grpc_health.v1.health_pb2")

    async def test() -> None:
        async with picking() as its:
            check = its.channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health.HealthCheckRequest.SerializeToString,
                response_deserializer=health.HealthCheckResponse.FromString,
            )
            names = ["", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"]

            async def statuses() -> list[int]:
                asks = [health.HealthCheckRequest(service=name) for name in names]
                return [(await check(ask)).status for ask in asks]

            assert [1, 1, 1, 1] == await statuses()
            for rank in range(2):
                its.client.router.health.drain(rank, is_draining=True)
            assert [2, 1, 2, 2] == await statuses()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(health.HealthCheckRequest(service="other"))
            assert grpc.StatusCode.NOT_FOUND == caught.value.code()
            raw = its.channel.stream_stream(PROCESS)()
            await raw.write(b"\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw.read()
            assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()

    run(test())
