"""Decisions for gateways that carry requests themselves: over HTTP, and over gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from balanceroute.cluster.costs import StepCosts
from balanceroute.live.decision_api.client import DecisionClient, DecisionError
from balanceroute.live.decision_api.definition import Decision, SelectRequest
from tests.live.fake_engine import Client, FakeEngine, routing, run, serving, until

ASKED = SelectRequest(prompt_tokens=100)


@contextlib.asynccontextmanager
async def deciding(
    num_ranks: int = 2, **settings: object
) -> AsyncIterator[tuple[Client, DecisionClient]]:
    """Run a router that decides, in front of engines that get no request from it."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(serving(FakeEngine())) for _ in range(num_ranks)]
        flags: dict[str, object] = {"decisions": True, "policy": "br_0"}
        router = await stack.enter_async_context(routing(*engines, **flags | settings))
        yield router, await stack.enter_async_context(DecisionClient(router.url))


def loads(client: Client) -> list[int]:
    """Return what is booked on each rank, tokens under way included."""
    ranks = client.router.group.ledger.ranks
    booked: list[int] = (ranks["load_tokens"] + ranks["due_tokens"]).tolist()
    return booked


def test_a_request_from_its_selection_to_its_end() -> None:
    """Its rank is level with the others' loads, its tokens are booked, and nothing is left."""

    async def test() -> None:
        async with deciding() as (router, client):
            first = await client.select(SelectRequest(prompt_tokens=1000))
            second = await client.select(SelectRequest(prompt_tokens=10))
            third = await client.select(SelectRequest(prompt_tokens=10))
            assert first.rank != second.rank == third.rank
            assert router.router.parts.addresses[first.rank].url == first.url
            assert "" == first.rank_header
            booked = await client.progress(first.id, 5, prompt_tokens=990)
            assert 5 == booked.output_tokens
            assert 995 == loads(router)[first.rank]
            assert 5 == (await client.progress(first.id, 3)).output_tokens  # told late
            assert 7 == (await client.finish(first.id, 7)).output_tokens
            assert 0 == loads(router)[first.rank]
            await client.release(second.id)
            await client.release(third.id)
            router.expect_nothing_left()

    run(test())


def test_waiting_for_a_slot() -> None:
    """A selection waits in the pool, gets the first slot that is free, and may set its limit."""

    async def test() -> None:
        async with deciding(num_ranks=1, slots=1) as (router, client):
            held = await client.select(ASKED)
            waiting = asyncio.create_task(client.select(ASKED))
            await until(lambda: router.router.group.num_waiting == 1)
            with pytest.raises(DecisionError, match=r"408: no rank within 0\.05 s"):
                await client.select(SelectRequest(prompt_tokens=1, max_wait_s=0.05))
            assert not waiting.done()
            await client.finish(held.id, 3)
            late = await waiting
            assert late.waited_s > 0.05
            await client.finish(late.id, 1)
            router.expect_nothing_left()

    run(test())


def test_a_gateway_that_goes_away_while_it_waits() -> None:
    """Its request leaves the pool."""

    async def test() -> None:
        async with deciding(num_ranks=1, slots=1) as (router, client):
            held = await client.select(ASKED)
            waiting = asyncio.create_task(client.select(ASKED))
            await until(lambda: router.router.group.num_waiting == 1)
            waiting.cancel()
            await until(lambda: router.router.group.num_waiting == 0)
            await client.release(held.id)
            router.expect_nothing_left()

    run(test())


def test_a_lease_that_is_over() -> None:
    """A word of a request holds its rank; without one the rank is free, and its end is unknown."""

    async def test() -> None:
        async with deciding() as (router, client):
            quiet = await client.select(SelectRequest(prompt_tokens=10, lease_s=0.1))
            spoken = await client.select(SelectRequest(prompt_tokens=10, lease_s=0.3))
            for num_tokens in range(1, 6):
                await asyncio.sleep(0.1)
                await client.progress(spoken.id, num_tokens)
            assert 1 == router.router.group.ledger.num_in_flight
            with pytest.raises(DecisionError, match="404: no rank is held"):
                await client.finish(quiet.id, 1)
            await client.finish(spoken.id, 6)
            with pytest.raises(DecisionError, match="404"):  # an end is told once
                await client.finish(spoken.id, 6)
            router.expect_nothing_left()

    run(test())


def test_a_prompt_that_turns_out_shorter_while_it_is_computed() -> None:
    """What the gateway says of it is booked, though more of it was taken for resident by then."""
    costs = StepCosts(constant_s=0.01, s_per_token=1e-7, budget_tokens=512)

    async def test() -> None:
        settings = {"policy": "fcfs", "costs": costs, "kv_tokens": 1 << 20}
        async with deciding(1, **settings) as (router, client):
            running = await client.select(SelectRequest(prompt_tokens=10))
            held = await client.select(SelectRequest(prompt_tokens=2000))
            for num_tokens in range(1, 5):
                await client.progress(running.id, num_tokens)
            ranks = router.router.group.ledger.ranks
            assert 0 < ranks["due_tokens"][0] <= 2000 - 511
            await client.progress(held.id, 0, prompt_tokens=300)
            assert (300 + 10 + 4, 0) == (ranks["load_tokens"][0], ranks["due_tokens"][0])
            await client.finish(held.id, 7)
            await client.finish(running.id, 5)
            router.expect_nothing_left()

    run(test())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "Expected `object`"),
        (b"{}", "prompt_tokens or prompt"),
        (b'{"prompt_tokens": -1}', ">= 0"),
        (b'{"prompt_token": 1}', "unknown field"),
        (b"{", "truncated"),
    ],
)
def test_a_selection_that_cannot_be_read(body: bytes, message: str) -> None:
    """It says what is wrong, with 400, and nothing is booked."""

    async def test() -> None:
        async with deciding() as (router, _):
            status, answer, _ = await router.post(body, "/v1/decisions")
            assert 400 == status
            assert message in msgspec.json.decode(answer)["error"]["message"]
            router.expect_nothing_left()

    run(test())


def test_refusals() -> None:
    """No fit rank is 503, a full queue 429; failures that are told close a rank; keys are asked."""

    async def test() -> None:
        async with deciding(num_ranks=1, slots=1, queue_size=0, api_keys=["k"]) as (router, nobody):
            with pytest.raises(DecisionError, match="401"):
                await nobody.select(ASKED)
            async with DecisionClient(router.url, key="k") as client:
                held = await client.select(ASKED)
                with pytest.raises(DecisionError, match="429"):
                    await client.select(ASKED)
                await client.release(held.id, "")
        async with deciding(num_ranks=1, health_check_interval_secs=30.0) as (router, client):
            for _ in range(2):
                held = await client.select(ASKED)
                await client.release(held.id, "connection refused")
            with pytest.raises(DecisionError, match="503"):
                await client.select(ASKED)
            router.expect_nothing_left()

    run(test())


def test_a_text_and_a_rank_behind_a_shared_port() -> None:
    """A text is estimated, the rank's own number told, and a silent request booked at its end."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine:
            urls = [f"{engine.url}@0"]
            async with routing(engine, decisions=True, worker_urls=urls) as router:
                async with DecisionClient(router.url) as client:
                    asked = SelectRequest(prompt="word " * 160, is_silent=True)
                    held = await client.select(asked)
                    assert ("0", 200) == (held.rank_header, held.prompt_tokens)
                    ended = await client.finish(held.id, 40, prompt_tokens=160)
                    assert 40 == ended.output_tokens
                router.expect_nothing_left()

    run(test())


def test_that_it_is_off_unless_asked_for() -> None:
    """Without the setting the paths are the engine's, as before."""

    async def test() -> None:
        async with serving(FakeEngine()) as engine, routing(engine) as router:
            status, _, _ = await router.post(b"{}", "/v1/decisions")
            assert 404 == status

    run(test())


def message_classes(text: str) -> dict[str, Any]:
    """Return Google's own classes for the definition that a router shows."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptor_pb2.FileDescriptorProto(
        name="decisions.proto", package="balanceroute.v1", syntax="proto3"
    )
    kinds = {"int64": 3, "double": 1, "string": 9, "bool": 8}
    message = None
    for line in text.splitlines():
        words = line.rstrip("{;").split()
        if line.startswith("message"):
            message = file.message_type.add(name=words[1])
        elif message is not None and "=" in words:
            kind, name, _, number = words
            message.field.add(name=name, number=int(number), type=kinds[kind], label=1)
    return dict(factory.GetMessages([file]))


def test_grpc_with_other_peoples_client() -> None:
    """Google's client and messages, made from the definition, get the same answers."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

    async def test() -> None:
        async with deciding(num_ranks=1, slots=1, grpc_port=0, api_keys=["k"]) as (router, _):
            async with aiohttp.ClientSession() as session:
                key = {"Authorization": "Bearer k"}
                url = router.url + "/v1/decisions.proto"
                async with session.get(url, headers=key) as answer:
                    classes = message_classes(await answer.text())
            target = f"127.0.0.1:{router.router.grpc_port}"
            async with grpc.aio.insecure_channel(target) as channel:

                async def call(method: str, asked: str, answer: str, **fields: Any) -> Any:
                    made = channel.unary_unary(
                        f"/balanceroute.v1.Decisions/{method}",
                        request_serializer=lambda message: message.SerializeToString(),
                        response_deserializer=classes[f"balanceroute.v1.{answer}"].FromString,
                    )
                    message = classes[f"balanceroute.v1.{asked}"](**fields)
                    return await made(message, metadata=[("authorization", "Bearer k")])

                held = await call("Select", "SelectRequest", "Decision", prompt_tokens=100)
                assert (0, 100, 60.0) == (held.rank, held.prompt_tokens, held.lease_s)
                waiting = asyncio.create_task(
                    call("Select", "SelectRequest", "Decision", prompt_tokens=7, priority=-3)
                )
                await until(lambda: router.router.group.num_waiting == 1)
                told = {"id": held.id, "output_tokens": 300}
                assert 300 == (await call("Progress", "Progress", "Booked", **told)).output_tokens
                await call("Finish", "Progress", "Booked", **told)
                await call("Release", "Release", "Booked", id=(await waiting).id)
                for fields, method, code in [
                    ({}, "Select", grpc.StatusCode.INVALID_ARGUMENT),
                    ({"prompt_tokens": -1}, "Select", grpc.StatusCode.INVALID_ARGUMENT),
                    ({}, "Release", grpc.StatusCode.INVALID_ARGUMENT),  # of nothing
                    ({}, "Nothing", grpc.StatusCode.UNIMPLEMENTED),
                ]:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call(method, "SelectRequest", "Decision", **fields)
                    assert code == caught.value.code()
                with pytest.raises(grpc.aio.AioRpcError, match="no rank is held"):
                    await call("Finish", "Progress", "Booked", **told)
                router.expect_nothing_left()
            assert isinstance(held.id, str)

    run(test())


def test_a_decision_as_json() -> None:
    """Names in JSON are those of the definition."""
    text = msgspec.json.encode(Decision(id="a", rank=1, url="http://a:1"))
    names = ["id", "rank", "url", "rank_header", "prompt_tokens", "waited_s", "lease_s"]
    assert names == list(msgspec.json.decode(text))
