"""What a ledger learns from streams of tokens, where no steps can be seen."""

from __future__ import annotations

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError
from balanceroute.kernels import ledger as kernels
from balanceroute.kernels import streams


def observe(ledger: Ledger, handle: int, output_tokens: int) -> int:
    """Book how many output tokens a request has given so far, as its stream tells.

    Its first token tells that its whole prompt is resident. One more than its rank's clock
    allows tells of a step, in which the rank's other requests must have grown as well: they
    count so at once, and each is put right by its own stream. A request that has no stream
    grows with the others.

    Parameters
    ----------
    handle : int
        A request in flight.
    output_tokens : int
        All that it has given since it was sent, at least 1.

    Returns
    -------
    int
        Steps of the rank that were not known before, at least 0.

    Examples
    --------
    >>> ledger = Ledger(num_ranks=1)
    >>> first, second = (ledger.send(rank=0, prompt_tokens=10) for _ in range(2))
    >>> observe(ledger, first, 1), observe(ledger, second, 1)
    (0, 0)
    >>> observe(ledger, first, 2), observe(ledger, second, 2)
    (1, 0)
    >>> ledger.ranks["load_tokens"], ledger.ranks["clock"]
    (array([24]), array([1]))
    """
    ledger.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
    if output_tokens < 1:
        raise ConfigError(f"output_tokens must be at least 1, got {output_tokens}")
    return int(streams.observe(ledger.accounts, handle, output_tokens))


def settle(ledger: Ledger, handle: int, output_tokens: int) -> None:
    """Book what a request has given in all, as its engine counts; tells of no step."""
    ledger.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
    if output_tokens < 0:
        raise ConfigError(f"output_tokens must be at least 0, got {output_tokens}")
    streams.settle(ledger.accounts, handle, output_tokens)


def resize(ledger: Ledger, handle: int, prompt_tokens: int) -> None:
    """Book that a prompt has another length than was said when it was sent.

    One that is shorter than what was booked of it while it was computed is resident.
    """
    ledger.expect(handle, kernels.WAITING, kernels.PREFILLING, kernels.DECODING)
    if prompt_tokens < 1:
        raise ConfigError(f"prompt_tokens must be at least 1, got {prompt_tokens}")
    entry = ledger.accounts.entries[handle]
    is_computing = entry["state"] == kernels.PREFILLING
    if is_computing and prompt_tokens <= entry["prompt_tokens"] - entry["due_tokens"]:
        streams.settle(ledger.accounts, handle, 0)
    streams.resize(ledger.accounts, handle, prompt_tokens)
