"""Prompts of a given length, cut out of one long text that is made once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balanceroute.loadgen.config import Prompts
from balanceroute.types import Workload

PROMPT_STREAM = 5  # which random numbers of a seed the prompts use

# Four digits and a comma: every vocabulary has these ids, and none of them is special.
FIRST_ID, LAST_ID, ID_BYTES = 1_000, 9_999, 5

# Each with its space is four bytes, and one token in the usual vocabularies.
WORDS = (
    "the and for are but not you all any can had her was one our out day get has him his how man "
    "new now old see two way who boy did its let put say she too use dad mom act add age ago aid "
    "aim air art ask bad bag bar bed big bit box bus buy car cat cup cut die dog dry due ear eat "
    "egg end eye far fat few fit fix fly fun gas god gun guy hit hot ice job key kid law lay leg "
    "lie lot low map may mix net nor oil own pay per run sea set six sky son sun tax tea ten"
)
WORD_BYTES = 4

# Prompts begin at different places, of which there are so many; with more prompts, some are equal.
MAX_STARTS = 1 << 20


class PromptBook:
    """Hands out prompts as JSON.

    Prompts are stretches of one random sequence. They begin at different places, so that no two
    share a prefix for a cache to find, but for those of equal `prompt_hashes`, which are equal.

    Parameters
    ----------
    workload : Workload
        Lengths and hashes.
    kind : {"ids", "text"}
        Token ids or words.
    seed : int
        The same seed gives the same prompts.

    Examples
    --------
    >>> lengths = np.array([3, 2, 3], np.int32)
    >>> hashes = np.array([7, 0, 7])
    >>> workload = Workload(
    ...     name="w", prompt_tokens=lengths, output_tokens=lengths, prompt_hashes=hashes
    ... )
    >>> ids = PromptBook(workload, "ids", seed=0)
    >>> ids.prompt(0), ids.prompt(1), ids.prompt(2)
    (b'[7267,4439,8484]', b'[4439,8484]', b'[7267,4439,8484]')
    >>> PromptBook(workload, "text", seed=0).prompt(1)
    b'"age low"'
    """

    def __init__(self, workload: Workload, kind: Prompts, *, seed: int) -> None:
        self._starts = _starts(workload)
        self._num_tokens = workload.prompt_tokens
        rng = np.random.default_rng((seed, PROMPT_STREAM))
        length = int(np.max(self._starts)) + int(np.max(self._num_tokens))
        if kind == "ids":
            ids = rng.integers(FIRST_ID, LAST_ID + 1, size=length)
            self._sequence = b",".join(b"%d" % token for token in ids.tolist())
            self._width, self._open, self._close = ID_BYTES, b"[", b"]"
        else:
            words = WORDS.split()
            places = rng.integers(len(words), size=length).tolist()
            self._sequence = " ".join([words[place] for place in places]).encode()
            self._width, self._open, self._close = WORD_BYTES, b'"', b'"'

    def prompt(self, row: int, *, spared_tokens: int = 0) -> bytes:
        """Return the prompt of a request as JSON, shorter by some tokens, but not empty."""
        num_tokens = max(1, int(self._num_tokens[row]) - spared_tokens)
        begin = int(self._starts[row]) * self._width
        end = begin + num_tokens * self._width - 1  # without the last separator
        return self._open + self._sequence[begin:end] + self._close


def _starts(workload: Workload) -> NDArray[np.int64]:
    """Return where each request's prompt begins: one place for each hash that is known."""
    rows = np.arange(workload.num_requests, dtype=np.int64)
    if workload.prompt_hashes is None:
        return rows % MAX_STARTS
    _, first, inverse = np.unique(workload.prompt_hashes, return_index=True, return_inverse=True)
    known = workload.prompt_hashes != 0
    return np.where(known, first[inverse], rows).astype(np.int64) % MAX_STARTS
