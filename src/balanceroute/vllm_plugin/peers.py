"""What the API servers of one vLLM server tell each other: what each has on every rank."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from balanceroute.kernels.ledger import Int64Array, RecordArray

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - memory, and only ours may read what we put there
NUM_FIGURES = 3  # requests in flight; tokens, resident ones and those on their way


class Peers:
    """A board in shared memory with one row per API server, on which each writes its own.

    A row is written after each change and read at each choice, so nothing is stale, except that two
    servers may choose in the same instant. The figures are eight bytes each and written whole; one
    server may see another's requests and tokens of two neighbouring instants, never a torn number.

    Parameters
    ----------
    name : str
        Known to all servers of the group, and to no other group on the machine.
    num_ranks, num_peers, own_index : int
        G, how many API servers there are, and which one this is.

    Examples
    --------
    >>> boards = [Peers("example", num_ranks=2, num_peers=2, own_index=i) for i in range(2)]
    >>> from balanceroute.cluster.ledger import Ledger
    >>> ledger = Ledger(num_ranks=2)
    >>> _ = ledger.send(rank=1, prompt_tokens=100)
    >>> boards[0].tell(ledger.ranks)
    >>> boards[1].others()
    (array([0, 1]), array([0, 0]), array([  0, 100]))
    >>> boards[0].remove()
    """

    def __init__(self, name: str, *, num_ranks: int, num_peers: int, own_index: int) -> None:
        folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        self._path = folder / f"balanceroute-{os.getuid()}-{digest}"
        num_bytes = num_peers * NUM_FIGURES * num_ranks * 8
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.ftruncate(descriptor, num_bytes)
            memory = mmap.mmap(descriptor, num_bytes)
        finally:
            os.close(descriptor)
        self._board: Int64Array = np.frombuffer(memory, np.int64).reshape(
            num_peers, NUM_FIGURES, num_ranks
        )
        self._own: Int64Array = self._board[own_index]
        self._own[:] = 0

    def tell(self, ranks: RecordArray) -> None:
        """Write what this server has on the ranks, `RANK_ACCOUNT` of shape (G,)."""
        np.add(ranks["num_running"], ranks["num_waiting"], out=self._own[0])
        self._own[1] = ranks["load_tokens"]
        self._own[2] = ranks["due_tokens"]

    def others(self) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Return what the others have there, int64 of shape (G,) each.

        Requests, resident tokens, and tokens on their way.
        """
        others: Int64Array = self._board.sum(axis=0) - self._own
        return others[0], others[1], others[2]

    def remove(self) -> None:
        """Take the board's name away; who has it keeps it."""
        self._path.unlink(missing_ok=True)
