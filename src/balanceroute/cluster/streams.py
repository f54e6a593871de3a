"""What a ledger learns from streams of tokens, where no steps can be seen."""

from __future__ import annotations

from balanceroute.cluster.ledger import Ledger
from balanceroute.errors import ConfigError
from balanceroute.kernels import ledger as kernels
from balanceroute.kernels import streams

IN_FLIGHT = (kernels.WAITING, kernels.PREFILLING, kernels.DECODING)


def begin(
    ledger: Ledger,
    *,
    rank: int,
    prompt_tokens: int,
    request: int = kernels.UNKNOWN,
    client: int = kernels.UNKNOWN,
    max_tokens: int = 0,
    prompt_hash: int = 0,
    has_stream: bool = True,
) -> int:
    """Book a request as `Ledger.send` does, and return its handle.

    Parameters
    ----------
    rank, prompt_tokens, request, client, max_tokens, prompt_hash
        As of `Ledger.send`.
    has_stream : bool
        Whether its tokens will be seen. Nobody tells when another one starts, so that is taken to
        be resident at once, and grows with its rank.

    Examples
    --------
    >>> ledger = Ledger(num_ranks=1)
    >>> handles = [begin(ledger, rank=0, prompt_tokens=10, has_stream=its) for its in (True, False)]
    >>> ledger.ranks["due_tokens"], ledger.ranks["load_tokens"]
    (array([10]), array([10]))
    """
    streamed = 1 if has_stream else 0
    told = (rank, prompt_tokens, request, client, max_tokens, prompt_hash, streamed)
    handle = streams.begin(ledger.accounts, *told)
    if handle == streams.REFUSED:
        ledger.reserve(1)
        ledger.reserve_events(1)
        handle = streams.begin(ledger.accounts, *told)
    if handle == streams.REFUSED:  # not for want of room: this says what is wrong
        ledger.send(rank=rank, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    return handle


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
    num_steps = streams.observe(ledger.accounts, handle, output_tokens)
    if num_steps == streams.REFUSED:
        ledger.expect(handle, *IN_FLIGHT)
        raise ConfigError(f"output_tokens must be at least 1, got {output_tokens}")
    return num_steps


def end(
    ledger: Ledger,
    handle: int,
    prompt_tokens: int = 0,
    output_tokens: int = 0,
    *,
    has_completed: bool = True,
) -> int:
    """Close an account as `Ledger.finish` does, by what the engine says if it does.

    Parameters
    ----------
    handle : int
        A request in flight.
    prompt_tokens, output_tokens : int
        As for `resize` and `settle`; 0 where nothing is said.
    has_completed : bool
        Whether it has come to its own end.

    Returns
    -------
    int
        Requests that are left in flight.

    Examples
    --------
    >>> ledger = Ledger(num_ranks=1, keeps_events=True)
    >>> handles = [begin(ledger, rank=0, prompt_tokens=10) for _ in range(2)]
    >>> end(ledger, handles[0], 12, 5)
    1
    >>> ledger.take_events()[["prompt_tokens", "generated_tokens"]].tolist()[-1]
    (12, 5)
    """
    told = (prompt_tokens, output_tokens, 1 if has_completed else 0)
    num_left = streams.end(ledger.accounts, handle, *told)
    if num_left == streams.REFUSED:
        ledger.reserve_events(1)
        if prompt_tokens > 0 and output_tokens == 0:  # it may still be computed: see whether it can
            resize(ledger, handle, prompt_tokens)
        num_left = streams.end(ledger.accounts, handle, *told)
    if num_left == streams.REFUSED:
        ledger.expect(handle, *IN_FLIGHT)
    return num_left


def settle(ledger: Ledger, handle: int, output_tokens: int) -> None:
    """Book what a request has given in all, as its engine counts; tells of no step."""
    ledger.expect(handle, *IN_FLIGHT)
    if output_tokens < 0:
        raise ConfigError(f"output_tokens must be at least 0, got {output_tokens}")
    streams.settle(ledger.accounts, handle, output_tokens)


def resize(ledger: Ledger, handle: int, prompt_tokens: int) -> None:
    """Book that a prompt has another length than was said when it was sent.

    One that is shorter than what was booked of it while it was computed is resident.
    """
    ledger.expect(handle, *IN_FLIGHT)
    if prompt_tokens < 1:
        raise ConfigError(f"prompt_tokens must be at least 1, got {prompt_tokens}")
    entry = ledger.accounts.entries[handle]
    is_computing = entry["state"] == kernels.PREFILLING
    if is_computing and prompt_tokens <= entry["prompt_tokens"] - entry["due_tokens"]:
        streams.settle(ledger.accounts, handle, 0)
    streams.resize(ledger.accounts, handle, prompt_tokens)
