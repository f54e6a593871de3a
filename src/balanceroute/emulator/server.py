"""The HTTP face of an emulated group: vLLM's endpoints for generation, and what routers ask."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import HttpVersion11, web

from balanceroute import __version__
from balanceroute.emulator.admin import add_admin_routes
from balanceroute.emulator.admission import Admission, check_model
from balanceroute.emulator.bodies import EmbeddingsBody, TokenizeBody, decode
from balanceroute.emulator.errors import ApiError
from balanceroute.emulator.group import EmulatedGroup
from balanceroute.emulator.metrics import CONTENT_TYPE, GroupMetrics
from balanceroute.emulator.openai import (
    Ask,
    content_text,
    count_prompt,
    read_chat,
    read_completion,
    read_response,
)
from balanceroute.emulator.replies import Reply, StreamReply, WholeReply
from balanceroute.emulator.tokens import chat_token_ids, embed, text_token_ids

RANK_HEADER = "X-data-parallel-rank"
LENGTH_HEADER = "X-Emulated-Output-Tokens"
ID_HEADER = "X-Request-Id"
STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8"}
MAX_BODY_BYTES = 64 << 20
ADMIN_PREFIX = "/emulator/"
# The release whose behaviour is emulated, with a local part so that nobody takes it for vLLM.
VERSION = f"0.32.0+balanceroute.{__version__}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GroupServer:
    """What one port answers.

    Parameters
    ----------
    group : EmulatedGroup
        The group behind it.
    rank : int or None
        The rank that the port is for; None if it is for all of them.
    """

    def __init__(self, group: EmulatedGroup, rank: int | None) -> None:
        self._group = group
        self._rank = rank
        self._num_ranks = len(group.engine.ranks) if rank is None else 1
        shown = range(self._num_ranks) if rank is None else (rank,)
        self._metrics = GroupMetrics(group, shown)

    def application(self) -> web.Application:
        """Return the application with its routes."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._answer_errors])
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/responses", self._responses),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/tokenize", self._tokenize),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.route("*", "/ping", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._show_metrics),
            ]
        )
        add_admin_routes(app, self._group)
        return app

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Put every error into vLLM's form."""
        try:
            if self._group.faults.now.dead_group and not request.path.startswith(ADMIN_PREFIX):
                raise ApiError.of_status(503, "the group is dead")
            return await handler(request)
        except web.HTTPException as error:
            failure = ApiError.of_status(error.status, error.reason)
        except ApiError as error:
            failure = error
        return web.Response(
            status=failure.status, body=failure.body, content_type="application/json"
        )

    # ------------------------------------------------------------------------------- generation

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_completion)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_chat)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, read_response)

    async def _generate(
        self, request: web.Request, read: Callable[[bytes], Ask]
    ) -> web.StreamResponse:
        status = self._group.faults.take_rejection()
        if status is not None:
            raise ApiError.of_status(status, "refused on purpose (POST /emulator/faults)")
        ask = read(await request.read())
        admission = self._group.admit(
            ask,
            rank=self._rank_for(request, ask),
            output_tokens=_asked_length(request),
            request_id=request.headers.get(ID_HEADER),
        )
        is_garbled = self._group.faults.take_bad_json()
        if ask.is_stream:
            return await self._stream(request, admission, is_garbled)
        body = await self._run(admission, WholeReply(admission.dialect))
        return json_response(body[: len(body) // 2] if is_garbled else body)

    async def _stream(
        self, request: web.Request, admission: Admission, is_garbled: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        transport = request.transport
        if transport is not None:  # else the client has gone already
            reply = StreamReply(
                admission.dialect,
                transport,
                is_chunked=request.version >= HttpVersion11,
                interval=self._group.config.stream_interval,
                reset_after=self._group.faults.now.reset_after_chunks,
                is_garbled=is_garbled,
            )
            await self._run(admission, reply)
        return response

    async def _run(self, admission: Admission, reply: Reply) -> bytes:
        """Have a request served; it is aborted if the client goes away meanwhile."""
        self._group.start(admission, reply)
        try:
            return await reply.done
        finally:
            self._group.drop(admission.request)

    def _rank_for(self, request: web.Request, ask: Ask) -> int | None:
        """Return the rank that a request is for; None leaves it to the engine."""
        pinned = ask.rank
        # vLLM overlooks a header that is no number, too.
        with contextlib.suppress(KeyError, ValueError):
            pinned = int(request.headers[RANK_HEADER])
        if pinned is not None and not 0 <= pinned < self._num_ranks:
            message = f"data_parallel_rank {pinned} is out of range [0, {self._num_ranks})."
            raise ApiError(400, message)
        return pinned if self._rank is None else self._rank

    # --------------------------------------------------------------------------- other questions

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = decode(await request.read(), EmbeddingsBody)
        check_model(body.model, self._group.config)
        is_one = isinstance(body.input, str) or (bool(body.input) and type(body.input[0]) is int)
        prompts = [body.input] if is_one else list(body.input)
        if not prompts:
            raise ApiError(400, "input must not be empty", param="input")
        counted = [count_prompt(prompt) for prompt in prompts]
        vectors = [embed(ids()) for _, ids in counted]
        is_base64 = body.encoding_format == "base64"
        data = [
            {
                "index": i,
                "object": "embedding",
                "embedding": _as_base64(vector) if is_base64 else vector,
            }
            for i, vector in enumerate(vectors)
        ]
        num_tokens = sum(count for count, _ in counted)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        answer = {"object": "list", "data": data, "model": self._group.config.model, "usage": usage}
        return json_response(msgspec.json.encode(answer))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = decode(await request.read(), TokenizeBody)
        check_model(body.model, self._group.config)
        if body.messages is not None:
            ids = chat_token_ids([content_text(message.content) for message in body.messages])
        else:
            ids = text_token_ids(body.prompt or "")
        max_model_len = self._group.config.context_tokens
        answer = {"count": len(ids), "max_model_len": max_model_len, "tokens": ids}
        return json_response(msgspec.json.encode(answer | {"token_strs": None}))

    async def _models(self, _: web.Request) -> web.Response:
        config = self._group.config
        card = {
            "id": config.model,
            "object": "model",
            "created": self._group.created,
            "owned_by": "vllm",
            "root": config.model,
            "parent": None,
            "max_model_len": config.context_tokens,
            "permission": [],
        }
        return json_response(msgspec.json.encode({"object": "list", "data": [card]}))

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"version": VERSION}))

    async def _show_metrics(self, _: web.Request) -> web.Response:
        if self._group.faults.now.metrics_gone:
            raise ApiError.of_status(404, "Not Found")
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def json_response(body: bytes) -> web.Response:
    """Return a response with a JSON body."""
    return web.Response(body=body, content_type="application/json")


def _asked_length(request: web.Request) -> int | None:
    """Return the output length that a client says in a header; None if it does not."""
    text = request.headers.get(LENGTH_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ApiError(400, f"{LENGTH_HEADER} must be a number of at least 1, got {text!r}")
    return int(text)


def _as_base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
