"""Ranks by what was known last, while nobody decides."""

from __future__ import annotations

from balanceroute.live.processes.words import Loads


class Stopgap:
    """Sends each request to the least loaded rank that has room.

    Of the room that there was, each data plane may use its part, so that together they fill it.

    Parameters
    ----------
    plane, num_planes : int
        Which of how many this is.

    Examples
    --------
    >>> stopgap = Stopgap(0, 2)
    >>> stopgap.begin(Loads(is_open=[True, True], load_tokens=[500, 100], room=[1, 3]))
    >>> [stopgap.take(50) for _ in range(4)]
    [1, 1, 0, -1]
    >>> stopgap.give_back(1, 60)
    >>> stopgap.take(50)
    1
    """

    def __init__(self, plane: int, num_planes: int) -> None:
        self._plane, self._num_planes = plane, num_planes
        self._is_open: list[bool] = []
        self._load_tokens: list[int] = []
        self._room: list[int] = []

    def begin(self, last: Loads) -> None:
        """Go by what was told last."""
        self._is_open, self._load_tokens = list(last.is_open), list(last.load_tokens)
        # The first data planes have what cannot be divided.
        more = self._num_planes - 1 - self._plane
        self._room = [(room + more) // self._num_planes for room in last.room]

    def take(self, prompt_tokens: int) -> int:
        """Return a rank for a request, and count it there; -1 if none has room."""
        ranks = [
            rank
            for rank, (is_open, room) in enumerate(zip(self._is_open, self._room, strict=True))
            if is_open and room > 0
        ]
        if not ranks:
            return -1
        rank = min(ranks, key=self._load_tokens.__getitem__)
        self.put(rank, prompt_tokens)
        return rank

    def put(self, rank: int, prompt_tokens: int) -> None:
        """Count a request on a rank that was chosen otherwise."""
        self._room[rank] -= 1
        self._load_tokens[rank] += prompt_tokens

    def give_back(self, rank: int, num_tokens: int) -> None:
        """Note that a request has left its rank, and how many tokens with it."""
        self._room[rank] += 1
        self._load_tokens[rank] -= num_tokens
