"""The way to the engines: which headers go along, and how a rank is named."""

from __future__ import annotations

from collections.abc import Iterable

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from balanceroute.live.addresses import RankAddress

RANK_HEADER, RANK_FIELD = "X-data-parallel-rank", b'"data_parallel_rank"'
NEW_RANK_FIELD = b'"routed_dp_rank"'  # of later releases of SGLang, which still take the other
# Of one connection only (RFC 9110, section 7.6.1), or set anew for the next.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# A compressed stream could not be read on its way; a compressed body has been unpacked to be read.
NOT_SENT = HOP_BY_HOP | {
    "accept-encoding",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    RANK_HEADER.lower(),
}
NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server"}
# The engine's own key would not be the router's.
SECRETS = frozenset({"authorization", "x-api-key"})
CONNECT_TIMEOUT_S = 5.0
# Engines close connections that are idle for 5 s, and a request that meets that has failed.
IDLE_S = 4.0


def request_headers(headers: CIMultiDictProxy[str], *, keeps_secrets: bool) -> CIMultiDict[str]:
    """Return a client's headers as they go on to an engine, without any rank."""
    dropped = NOT_SENT if keeps_secrets else NOT_SENT | SECRETS
    return CIMultiDict(
        [(name, value) for name, value in headers.items() if name.lower() not in dropped]
    )


def answer_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Return an engine's headers as they go back to the client."""
    return CIMultiDict(
        [(name, value) for name, value in headers.items() if name.lower() not in NOT_RETURNED]
    )


def name_rank(address: RankAddress, field: str, headers: CIMultiDict[str], body: bytes) -> bytes:
    """Name the rank in `headers`, or in the body that is returned.

    There it goes last, so that it counts, and not one that the client may have named.

    Examples
    --------
    >>> name_rank(RankAddress("http://a", 3), "body", CIMultiDict(), b'{"prompt":"x"}')
    b'{"prompt":"x","data_parallel_rank":3}'
    """
    if address.rank is None or field == "none":
        return body
    named = [its for its in (RANK_FIELD, NEW_RANK_FIELD) if its in body]
    if field == "header":
        headers[RANK_HEADER] = str(address.rank)
    elif RANK_FIELD not in named:
        named.append(RANK_FIELD)
    if not named or not body:
        return body
    end = body.rindex(b"}")
    fields = b",".join(its + f":{address.rank}".encode() for its in named)
    separator = b"" if body[:end].rstrip().endswith(b"{") else b","
    return body[:end] + separator + fields + body[end:]


class Forwarded(aiohttp.ClientRequest):
    """A request to an engine, of which its client has said all that there is to say."""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Add no headers; what could be added is looked up only where it is not there."""
        if not (hdrs.CONTENT_TYPE in self.headers and hdrs.USER_AGENT in self.headers):
            super().update_auto_headers(skip_auto_headers)


def open_session() -> aiohttp.ClientSession:
    """Return a client that passes bytes on as they are and keeps connections open."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=IDLE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=Forwarded,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=1 << 18,
    )
