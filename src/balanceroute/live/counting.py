"""Prompt lengths by counting: with a tokenizer of our own, or by an engine's ``/tokenize``."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import msgspec
from msgspec.structs import replace

from balanceroute.live.carrying import Carrying, Counting
from balanceroute.live.texts import prompt_texts, tokenize_body
from balanceroute.live.tokenizer import FileTokenizer, TokenizerLike
from balanceroute.live.wire import RequestFacts

SHORT_BYTES = 1024  # half a millisecond of work; a thread is not worth its while
NUM_THREADS = 2
RETRY_S = 1.0  # between two questions to engines that do not answer in time

log = logging.getLogger(__name__)


class NoCounting:
    """Leaves it at the estimate."""

    async def count(self, _path: str, _body: bytes, facts: RequestFacts) -> RequestFacts:
        """Return the facts as they are."""
        return facts

    def stop(self) -> None:
        """Do nothing."""


class TokenizerCounting:
    """Counts the texts of a prompt; what a template adds to them is for `PromptCounter` to learn.

    Parameters
    ----------
    tokenizer : TokenizerLike
        The model's.
    """

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="tokenize")

    async def count(self, path: str, body: bytes, facts: RequestFacts) -> RequestFacts:
        """Return the facts with the tokens of the texts, if there are any."""
        if facts.prompt_ids is not None:
            return facts
        if len(body) <= SHORT_BYTES:
            return self._count(path, body, facts)
        # Texts of a megabyte take a second; no stream may stand still for that.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._count, path, body, facts)

    def _count(self, path: str, body: bytes, facts: RequestFacts) -> RequestFacts:
        found = prompt_texts(path, body)
        if found is None:
            return facts
        num_tokens = self._tokenizer.count(found.texts, is_chat=found.num_messages > 0)
        return replace(facts, text_tokens=num_tokens, num_messages=found.num_messages)

    def stop(self) -> None:
        """End the threads; nobody waits for what they still count."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Count(msgspec.Struct):
    count: int


class EngineCounting:
    """Asks an engine, which knows template and tokenizer; the estimate serves where it is silent.

    Parameters
    ----------
    session : aiohttp.ClientSession
        What to ask with.
    choose_url : callable
        Returns where to ask now; None: nowhere.
    timeout_s : float
        How long a request waits for its length.
    on_fallback : callable
        Called for each request that the estimate has to serve for want of an answer.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        choose_url: Callable[[], str | None],
        timeout_s: float,
        on_fallback: Callable[[], object],
    ) -> None:
        self._session, self._choose_url, self._on_fallback = session, choose_url, on_fallback
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._is_silent, self._ask_again_s = False, 0.0

    async def count(self, path: str, body: bytes, facts: RequestFacts) -> RequestFacts:
        """Return the facts with the length as an engine says, or as they are if none does."""
        if facts.prompt_ids is not None:
            return facts
        question = tokenize_body(path, body)
        if question is None:
            return facts
        now_s = asyncio.get_running_loop().time()
        if self._is_silent:
            if now_s < self._ask_again_s:
                self._on_fallback()
                return facts
            self._ask_again_s = now_s + RETRY_S  # this request tries; others need not wait with it
        try:
            num_tokens = await self._ask(question)
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            self._note_silence(f"{type(error).__name__}: {error}")
            return facts
        if self._is_silent:
            self._is_silent = False
            log.warning("/tokenize answers again")
        return facts if num_tokens is None else replace(facts, counted_tokens=num_tokens)

    async def _ask(self, question: bytes) -> int | None:
        """Return the length; None if the engine says that there is something wrong with it."""
        url = self._choose_url()
        if url is None:
            return None
        headers = {"Content-Type": "application/json"}
        async with self._session.post(
            f"{url}/tokenize", data=question, headers=headers, timeout=self._timeout
        ) as answer:
            if answer.status == 400:  # the prompt's fault, of which it will be told
                return None
            answer.raise_for_status()
            return msgspec.json.decode(await answer.read(), type=_Count).count

    def _note_silence(self, reason: str) -> None:
        self._on_fallback()
        self._ask_again_s = asyncio.get_running_loop().time() + RETRY_S
        if not self._is_silent:
            self._is_silent = True
            log.error("/tokenize gives no count; prompts are estimated meanwhile: %s", reason)

    def stop(self) -> None:
        """Do nothing: the session is another's."""


def counting_of(parts: Carrying) -> Counting:
    """Return what counts prompts in the way that settings ask for."""
    config = parts.config
    if config.tokenizer is not None:
        return TokenizerCounting(FileTokenizer(Path(config.tokenizer)))
    if config.count_by != "engine":
        return NoCounting()
    turns = itertools.count()

    def next_url() -> str | None:
        pairs = zip(parts.addresses, parts.health.is_open, strict=True)
        urls = [address.url for address, is_open in pairs if is_open]
        return urls[next(turns) % len(urls)] if urls else None

    return EngineCounting(
        parts.session,
        choose_url=next_url,
        timeout_s=config.tokenize_timeout_secs,
        on_fallback=parts.counters.estimated.inc,
    )
