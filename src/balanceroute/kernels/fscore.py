"""The F-score of BR-0 (design section 4)."""

from __future__ import annotations

from balanceroute.kernels.jit import kernel


@kernel
def f_score(added_tokens: int, margin_tokens: int, num_ranks: int) -> int:
    """Score placing `added_tokens` on a rank; higher is better.

    Implements Eq. (1) of [1]_::

        F = -(change of imbalance) = added - G * max(0, added - margin)

    Parameters
    ----------
    added_tokens : int
        Prompt tokens of the request, or of the set of requests; at least 0.
    margin_tokens : int
        Envelope minus the rank's load; at least 0.
    num_ranks : int
        G, at least 1.

    Returns
    -------
    int
        Tokens of imbalance removed; negative where the placement adds some.

    References
    ----------
    .. [1] BalanceRoute, arXiv 2605.06113.

    Examples
    --------
    Slope +1 while the set fits the margin, -(G - 1) beyond it:

    >>> f_score(500, 1000, 8), f_score(1500, 1000, 8)
    (500, -2500)
    """
    return added_tokens - num_ranks * max(0, added_tokens - margin_tokens)
