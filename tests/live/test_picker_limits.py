"""Whom the endpoint picker refuses, lets wait, or does not count."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from balanceroute.live.addresses import RankAddress
from tests.live.fake_engine import chunk, run, until
from tests.live.gateway import (
    BODY,
    DESTINATION,
    PROCESS,
    STREAM_BODY,
    answered,
    asked,
    grpc,
    mutated,
    pb,
    picking,
    piece,
)


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
        async with picking(num_engines=1, slots=1, queue_size=0) as its:
            held, _ = await its.pick()
            call = its.call()
            await call.write(asked())
            refusal = (await call.read()).immediate_response
            assert 429 == refusal.status.code
            names = {option.header.key for option in refusal.headers.set_headers}
            assert {"retry-after", "content-type", "x-balanceroute-dropped-reason"} == names
            assert 429 == msgspec.json.decode(refusal.body)["error"]["code"]
            assert grpc.aio.EOF is await call.read()
            held.cancel()
        async with picking() as its:
            _, first = await its.pick(b"no JSON")
            assert 400 == first.immediate_response.status.code
            call = its.call()
            await call.write(asked(headers={"content-encoding": "gzip"}))
            refusal = (await call.read()).immediate_response
            assert 415 == refusal.status.code
            message = msgspec.json.decode(refusal.body)["error"]["message"]
            assert "the body is gzip; unpack it before ext_proc (Envoy's decompressor)" == message
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


def test_an_answer_that_is_not_shown() -> None:
    """Its end is booked as one that nobody has seen, and not as a stream that was cut."""

    async def test() -> None:
        async with picking() as its:
            for mode, num_cut in ((0, 0), (4, 1)):  # NONE and FULL_DUPLEX_STREAMED
                call = its.call()
                await call.write(asked(answer_mode=mode))
                body = {"body": STREAM_BODY, "end_of_stream": True}
                await call.write(pb.ProcessingRequest(request_body=body))
                await call.read()
                await call.read()
                await call.write(answered())
                await call.read()
                await call.done_writing()
                await until(lambda: its.client.router.group.ledger.num_in_flight == 0)
                counters = its.client.router.parts.counters
                assert num_cut == counters.cut._value.get()
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
