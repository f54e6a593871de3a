"""The endpoint picker, asked in Envoy's own messages; no Envoy needed."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import msgspec

from balanceroute.live.picker.exchange import Exchange
from balanceroute.live.picker.shared import Picker
from balanceroute.live.rpc.calls import Call
from tests.live.fake_engine import DONE, chunk, run, until
from tests.live.gateway import (
    BODY,
    BUFFERED,
    DESTINATION,
    DUPLEX,
    STREAM_BODY,
    STREAMED,
    Told,
    answered,
    asked,
    grpc,
    mutated,
    pb,
    picking,
    piece,
)


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
