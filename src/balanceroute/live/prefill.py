"""Prefill on other machines: each prompt is computed there, and its rank is chosen afterwards."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict

from balanceroute.live.addresses import RankAddress
from balanceroute.live.answers import Refusal, Relayed
from balanceroute.live.engine_metrics import read_engine_states
from balanceroute.live.tokens import read_usage
from balanceroute.live.upstream import name_rank

# What vLLM's connectors want to be told, and give back for the decode side.
PARAMS = "kv_transfer_params"
ASK = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens")
LEFT_OUT = ("stream_options", *LIMITS)
# Of the responses endpoint vLLM takes no such parameters; there the decode rank computes prompts.
SPLIT_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
RETRIED = frozenset({408, 429})  # of the 4xx; the others say what is wrong with the request

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PrefillServer:
    """One server of the tier, as far as the router knows.

    Attributes
    ----------
    address : RankAddress
        Where it is.
    due_tokens : int
        Of prompts that it computes.
    kv_usage, kv_tokens : float, int
        How full it was when it was last asked, in [0, 1], and what it can hold; 0 if unknown.
    new_tokens : int
        Of prompts sent since then, which its usage does not show yet.
    is_well : bool
        Whether it could be reached last.
    """

    address: RankAddress
    due_tokens: int = 0
    kv_usage: float = 0.0
    kv_tokens: int = 0
    new_tokens: int = 0
    is_well: bool = True

    def has_room(self, prompt_tokens: int, max_kv_usage: float) -> bool:
        """Tell whether another prompt may come; one too long for the limit may come alone.

        Examples
        --------
        >>> server = PrefillServer(RankAddress("http://a"), kv_usage=0.5, kv_tokens=1000)
        >>> server.has_room(400, 0.9), server.has_room(401, 0.9)
        (True, False)
        >>> PrefillServer(RankAddress("http://a"), kv_tokens=1000).has_room(950, 0.9)
        True
        """
        if self.kv_tokens <= 0:
            return self.kv_usage < max_kv_usage
        held_tokens = self.kv_usage * self.kv_tokens + self.new_tokens
        is_empty = held_tokens == 0 and self.due_tokens == 0
        return is_empty or held_tokens + prompt_tokens <= max_kv_usage * self.kv_tokens


class PrefillTier:
    """Servers that compute prompts and hold them until a decode rank fetches them.

    A prompt goes to the server with the fewest prompt tokens under way. One whose KV cache would be
    fuller than allowed gets none until what it holds has been fetched.

    Parameters
    ----------
    addresses : list of RankAddress
        Of the servers; at least one.
    rank_field : str
        How a rank behind a shared URL is named.
    max_kv_usage : float
        In (0, 1].
    session : aiohttp.ClientSession
        What to send with.
    """

    def __init__(
        self,
        addresses: list[RankAddress],
        *,
        rank_field: str,
        max_kv_usage: float,
        session: aiohttp.ClientSession,
    ) -> None:
        self.servers = [PrefillServer(address) for address in addresses]
        self._rank_field, self._max_kv_usage, self._session = rank_field, max_kv_usage, session
        self.num_requests = 0  # that wait for a server, or for what it computes
        self._changed = asyncio.Event()

    async def prefill(
        self,
        path: str,
        body: bytes,
        headers: CIMultiDict[str],
        *,
        prompt_tokens: int,
        queue_timeout_s: float,
    ) -> tuple[bytes, int]:
        """Have a prompt computed.

        Returns
        -------
        tuple of bytes and int
            The body to send to a decode rank, and the prompt's length as the server counts it, 0 if
            it does not say.

        Raises
        ------
        Refusal
            If no server could do it, or none had room in time; or what a server has to say against
            the request.
        """
        if path not in SPLIT_PATHS:
            return body, 0
        reason = ""
        tried: list[PrefillServer] = []
        self.num_requests += 1
        try:
            while len(tried) < len(self.servers):
                server = await self._choose(prompt_tokens, tried, queue_timeout_s)
                tried.append(server)
                answer, reason = await self._compute(server, path, body, headers, prompt_tokens)
                if answer is not None:
                    return _with_params(body, answer), _prompt_tokens(answer)
                log.warning("prefill failed: %s", reason)
        finally:
            self.num_requests -= 1
        raise Refusal(502, f"prefill failed: {reason}", "prefill_failed")

    async def _compute(
        self,
        server: PrefillServer,
        path: str,
        body: bytes,
        headers: CIMultiDict[str],
        prompt_tokens: int,
    ) -> tuple[bytes | None, str]:
        """Return a server's answer, or why there is none."""
        address, headers = server.address, headers.copy()
        probe = name_rank(address, self._rank_field, headers, _probe(body))
        server.due_tokens += prompt_tokens
        server.new_tokens += prompt_tokens
        try:
            async with self._session.post(
                address.url + path, data=probe, headers=headers
            ) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, OSError) as error:
            server.is_well = False
            return None, f"{address.name}: {type(error).__name__}: {error}"
        finally:
            server.due_tokens -= prompt_tokens
            self._changed.set()
        server.is_well = True
        if answer.ok:
            return said, ""
        if answer.status < 500 and answer.status not in RETRIED:
            raise Relayed(answer.status, said, "prefill_refused")
        return None, f"{address.name} answers HTTP {answer.status}"

    async def look(self, timeout_s: float) -> None:
        """Ask the servers how full they are; one that does not say counts as empty."""
        await asyncio.gather(*(self._look(server, timeout_s) for server in self.servers))
        self._changed.set()

    async def _look(self, server: PrefillServer, timeout_s: float) -> None:
        timeout, name = aiohttp.ClientTimeout(total=timeout_s), server.address.name
        try:
            url = server.address.url + "/metrics"
            async with self._session.get(url, timeout=timeout) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
            if server.is_well:
                log.error("prefill server %s does not tell its KV usage", name)
            server.is_well, server.kv_usage, server.new_tokens = False, 0.0, 0
            return
        server.is_well, server.new_tokens = True, server.due_tokens
        states = read_engine_states(text)
        if server.address.rank is not None:
            number = server.address.rank
            states = {number: states[number]} if number in states else {}
        server.kv_tokens = sum(state.kv_tokens for state in states.values())
        # Where the server chooses among its ranks, the fullest one stands for all.
        server.kv_usage = max((state.kv_usage for state in states.values()), default=0.0)

    async def _choose(
        self, prompt_tokens: int, tried: list[PrefillServer], queue_timeout_s: float
    ) -> PrefillServer:
        try:
            async with asyncio.timeout(queue_timeout_s):
                while True:
                    left = [server for server in self.servers if server not in tried]
                    # Those that are away come last, for they may be back.
                    left = [server for server in left if server.is_well] or left
                    limit = self._max_kv_usage
                    fit = [server for server in left if server.has_room(prompt_tokens, limit)]
                    if fit:
                        return min(fit, key=lambda server: server.due_tokens)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            message = f"no prefill server has had room within {queue_timeout_s:g} s"
            raise Refusal(408, message, "queue_timeout") from error


def _probe(body: bytes) -> bytes:
    """Return the request that computes a prompt and one token."""
    try:
        request: dict[str, Any] = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # In a part that routing does not read; an engine would say the same.
        raise Refusal(400, f"the body is not JSON: {error}", "bad_body") from error
    for name in LEFT_OUT:
        request.pop(name, None)
    return msgspec.json.encode(request | {"max_tokens": 1, "stream": False, PARAMS: ASK})


def _with_params(body: bytes, answer: bytes) -> bytes:
    """Return the request with what the prefill server has said about where the prompt lies."""
    try:
        params = msgspec.json.decode(answer)[PARAMS]
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        message = f"the prefill server gave no {PARAMS}; is a KV connector configured there?"
        raise Refusal(502, message, "prefill_failed") from error
    request: dict[str, Any] = msgspec.json.decode(body)
    return msgspec.json.encode(request | {PARAMS: params})


def _prompt_tokens(answer: bytes) -> int:
    usage = read_usage(answer)
    return usage.prompt_tokens if usage is not None else 0
