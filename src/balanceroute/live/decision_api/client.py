"""A client of the decision API, for gateways written in Python."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from balanceroute.errors import BalanceRouteError
from balanceroute.live.decision_api.definition import (
    HTTP_PATHS,
    Booked,
    Decision,
    Progress,
    Release,
    SelectRequest,
)
from balanceroute.live.rpc.protobuf import Message

M = TypeVar("M", bound=Message)


class DecisionError(BalanceRouteError):
    """The router has refused.

    Parameters
    ----------
    status : int
        As of HTTP: 400 for what was asked, 401 for the key, 404 for a reservation that is over, 408
        for no rank in time, 429 for too many that wait, 503 for no rank that is fit.
    message : str
        What was wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class DecisionClient:
    """Asks a router which rank a request should go to, and tells it what becomes of it.

    Parameters
    ----------
    url : str
        Of the router.
    key : str
        That it asks for; empty: none.

    Raises
    ------
    DecisionError
        By every method, if the router refuses.
    aiohttp.ClientError
        By every method, if it cannot be reached.
    """

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(url, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def select(self, request: SelectRequest) -> Decision:
        """Wait for a rank; it is held until it is given back, or for a lease without a word."""
        return await self._post("Select", request, Decision)

    async def progress(self, name: str, output_tokens: int, *, prompt_tokens: int = 0) -> Booked:
        """Tell how many tokens there are so far; holds the rank for another lease."""
        told = Progress(id=name, output_tokens=output_tokens, prompt_tokens=prompt_tokens)
        return await self._post("Progress", told, Booked)

    async def finish(self, name: str, output_tokens: int, *, prompt_tokens: int = 0) -> Booked:
        """Tell that a request has come to its end, and to what."""
        told = Progress(id=name, output_tokens=output_tokens, prompt_tokens=prompt_tokens)
        return await self._post("Finish", told, Booked)

    async def release(self, name: str, failure: str = "") -> Booked:
        """Give a rank back; a failure counts against it."""
        return await self._post("Release", Release(id=name, failure=failure), Booked)

    async def _post(self, method: str, message: Message, answer_type: type[M]) -> M:
        data = msgspec.json.encode(message)
        async with self._session.post(HTTP_PATHS[method], data=data) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise DecisionError(answer.status, _reason(body))
            return msgspec.json.decode(body, type=answer_type)


class _Error(msgspec.Struct):
    message: str


class _Answer(msgspec.Struct):
    error: _Error


def _reason(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Answer).error.message
    except (msgspec.DecodeError, UnicodeDecodeError):  # it is not the router that answers
        return body[:200].decode(errors="replace")
