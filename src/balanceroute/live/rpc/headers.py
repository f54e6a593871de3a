"""The headers that calls are opened with, unpacked once if they come again."""

from __future__ import annotations

import hpack

from balanceroute.live.rpc.calls import Opening
from balanceroute.live.rpc.frames import ConnectionFault, ErrorCode

MAX_CACHED = 1024  # blocks of headers


class HeaderReader:
    """Reads blocks of headers of one connection.

    The format refers to a table of headers that have come before. Once a peer has agreed to do
    without, equal headers are equal bytes.

    Parameters
    ----------
    max_bytes : int
        Of all headers of a call, unpacked.
    """

    def __init__(self, max_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=max_bytes)
        self._cache: dict[bytes, Opening] = {}

    def forget_table(self) -> None:
        """Note that the peer has agreed to do without the table."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> Opening:
        """Return what is of interest in a block.

        Raises
        ------
        ConnectionFault
            If it cannot be unpacked, after which nothing can.
        """
        opening = self._cache.get(block)
        if opening is not None:
            return opening
        try:
            headers = dict(self._decoder.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        opening = Opening.of(headers)
        if self._decoder.header_table_size == 0 and len(self._cache) < MAX_CACHED:
            self._cache[block] = opening
        return opening
