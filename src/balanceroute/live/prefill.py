"""Prefill on other machines: each prompt is computed there, and its rank is chosen afterwards."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import msgspec
from multidict import CIMultiDict

from balanceroute.live.answers import Refusal
from balanceroute.live.engine_metrics import read_engine_states
from balanceroute.live.tokens import read_usage

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

log = logging.getLogger(__name__)


class PrefillTier:
    """Servers that compute prompts and hold them until a decode rank fetches them.

    A prompt goes to the server with the fewest prompt tokens under way. One whose KV cache is
    fuller than allowed gets none until what it holds has been fetched.

    Parameters
    ----------
    urls : list of str
        Of the servers; at least one.
    max_kv_usage : float
        In (0, 1].
    session : aiohttp.ClientSession
        What to send with.
    """

    def __init__(
        self, urls: list[str], *, max_kv_usage: float, session: aiohttp.ClientSession
    ) -> None:
        self._urls, self._max_kv_usage, self._session = urls, max_kv_usage, session
        self.due_tokens = [0] * len(urls)
        self.kv_usage = [0.0] * len(urls)
        self._changed = asyncio.Event()

    async def prefill(
        self, path: str, body: bytes, headers: CIMultiDict[str], prompt_tokens: int
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
            If no server could do it.
        """
        reason = "no prefill server is configured"
        for _ in self._urls:
            server = await self._choose()
            self.due_tokens[server] += prompt_tokens
            try:
                url = self._urls[server] + path
                async with self._session.post(url, data=_probe(body), headers=headers) as answer:
                    said = await answer.read()
                if answer.ok:
                    return _with_params(body, said), _prompt_tokens(said)
                reason = f"{self._urls[server]} answers HTTP {answer.status}"
            except (aiohttp.ClientError, OSError) as error:
                reason = f"{self._urls[server]}: {type(error).__name__}: {error}"
            finally:
                self.due_tokens[server] -= prompt_tokens
                self._notify()
            log.warning("prefill failed: %s", reason)
        raise Refusal(502, f"prefill failed: {reason}", "prefill_failed")

    async def look(self, timeout_s: float) -> None:
        """Ask the servers how full they are; one that does not say counts as empty."""
        for server, url in enumerate(self._urls):
            usage = 0.0
            try:
                timeout = aiohttp.ClientTimeout(total=timeout_s)
                async with self._session.get(url + "/metrics", timeout=timeout) as answer:
                    states = read_engine_states(await answer.text())
                usage = max((state.kv_usage for state in states.values()), default=0.0)
            except (aiohttp.ClientError, OSError, TimeoutError):
                log.warning("%s does not tell its KV usage", url)
            self.kv_usage[server] = usage
        self._notify()

    async def _choose(self) -> int:
        while True:
            fit = [n for n, usage in enumerate(self.kv_usage) if usage < self._max_kv_usage]
            if fit:
                return min(fit, key=self.due_tokens.__getitem__)
            self._changed.clear()
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()


def _probe(body: bytes) -> bytes:
    """Return the request that computes a prompt and one token."""
    request: dict[str, Any] = msgspec.json.decode(body)
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
