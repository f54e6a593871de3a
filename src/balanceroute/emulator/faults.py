"""What can be made to go wrong while an emulated server runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from balanceroute.emulator.errors import ApiError

Count = Annotated[int, msgspec.Meta(ge=0)]
RankIndex = Annotated[int, msgspec.Meta(ge=0)]
Factor = Annotated[float, msgspec.Meta(ge=1)]


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong; the defaults are that nothing does.

    Attributes
    ----------
    slow_ranks : dict from int to float
        Factors, at least 1, on the time that ranks take for their work.
    dead_ranks : list of int
        Ranks that compute nothing; their requests hang.
    barrier : bool
        Whether all ranks wait for a dead one, as they do in reality.
    dead_group : bool
        Whether every answer but those of ``/emulator/…`` is 503; open ones are cut off.
    stalled_ranks : list of int
        Ranks that compute, but whose tokens nobody gets to see until the fault is cleared.
    reset_after_chunks : int
        Chunks after which the connection of a stream that begins now is reset; 0 for never.
    reject_count, reject_status : int
        How many further requests are refused, and with which status.
    bad_json_count : int
        How many further answers are cut in half, so that they are no JSON.
    wrong_usage_tokens : int
        What is added to the token counts that answers report.
    metrics_gone : bool
        Whether ``/metrics`` is 404.
    missing_metric : str or None
        Name of a metric that ``/metrics`` leaves out.
    """

    slow_ranks: dict[RankIndex, Factor] = {}
    dead_ranks: list[RankIndex] = []
    barrier: bool = True
    dead_group: bool = False
    stalled_ranks: list[RankIndex] = []
    reset_after_chunks: Count = 0
    reject_count: Count = 0
    reject_status: Literal[429, 500, 503] = 429
    bad_json_count: Count = 0
    wrong_usage_tokens: int = 0
    metrics_gone: bool = False
    missing_metric: str | None = None


class FaultBoard:
    """The faults that are switched on.

    Parameters
    ----------
    num_ranks : int
        Ranks that there are.

    Examples
    --------
    >>> board = FaultBoard(num_ranks=2)
    >>> board.change(b'{"reject_count": 1, "dead_ranks": [1]}')
    >>> board.take_rejection(), board.take_rejection(), board.now.dead_ranks
    (429, None, [1])
    """

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self.now = Faults()

    def change(self, data: bytes) -> None:
        """Set the faults that a JSON object names; the others stay.

        Raises
        ------
        ApiError
            400 if it is no such object, or a rank is out of range.
        """
        try:
            named = msgspec.json.decode(data, type=dict[str, Any])
            merged = msgspec.json.decode(msgspec.json.encode(self.now)) | named
            faults = msgspec.json.decode(msgspec.json.encode(merged), type=Faults)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError.of_status(400, f"faults: {error}") from None
        for rank in (*faults.slow_ranks, *faults.dead_ranks, *faults.stalled_ranks):
            if rank >= self._num_ranks:
                raise ApiError.of_status(400, f"faults: rank {rank} not in [0, {self._num_ranks})")
        self.now = faults

    def clear(self) -> None:
        """Switch every fault off."""
        self.now = Faults()

    def take_rejection(self) -> int | None:
        """Return the status to refuse a request with, if it is one of those to be refused."""
        if self.now.reject_count == 0:
            return None
        self.now = msgspec.structs.replace(self.now, reject_count=self.now.reject_count - 1)
        return self.now.reject_status

    def take_bad_json(self) -> bool:
        """Tell whether an answer is one of those to be cut in half."""
        if self.now.bad_json_count == 0:
            return False
        self.now = msgspec.structs.replace(self.now, bad_json_count=self.now.bad_json_count - 1)
        return True
