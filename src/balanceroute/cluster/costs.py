"""What a step costs, as far as it is known to whoever plans."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCosts:
    """What a step of a group costs.

    With n_g running requests, L_g resident tokens and p_g prompt tokens computed in the step, rank
    g of speed v_g takes ``t_g``, and the group a barrier later (design section 6)::

        t_g = (C + t_l * (kappa0 * n_g + L_g) + (1 - sigma) * t_p * p_g + m * [p_g > 0]) / v_g
        step = max_g t_g + sigma * t_p * mean_g p_g

    Attributes
    ----------
    constant_s : float
        C, seconds, at least 0.
    s_per_token : float
        t_l, seconds per resident token, at least 0.
    kappa0_tokens : float
        Resident tokens that cost as much as one more running request, at least 0.
    prefill_s_per_token : float
        t_p, seconds per prompt token computed, at least 0.
    prefill_shared : float
        sigma, in [0, 1]: the part of t_p that falls to all ranks alike, whoever's prompt it is, as
        where experts are spread over the ranks. Equal prefill on every rank costs ``t_p * p``
        whatever it is.
    mixed_step_s : float
        m, seconds, at least 0: what a rank's step takes longer because it prefills at all.
    budget_tokens : int or None
        Tokens that a rank may compute in a step, one for each decoding request included. None:
        ranks do not prefill, and a prompt is resident as soon as its request has a slot.
    has_barrier : bool
        Whether a step ends for all ranks when the slowest is done. False: the figures are of ranks
        that step by themselves.
    num_samples : int or None
        Steps that the figures are learned from, at least 1; None: they are stated.

    Examples
    --------
    >>> costs = StepCosts(constant_s=0.01, s_per_token=1e-7, prefill_s_per_token=2e-5,
    ...                   budget_tokens=2048)
    >>> round(costs.constant_s + costs.prefill_s_per_token * costs.budget_tokens, 6)
    0.05096
    """

    constant_s: float
    s_per_token: float
    kappa0_tokens: float = 0.0
    prefill_s_per_token: float = 0.0
    prefill_shared: float = 0.0
    mixed_step_s: float = 0.0
    budget_tokens: int | None = None
    has_barrier: bool = True
    num_samples: int | None = None

    @property
    def own_prefill_s_per_token(self) -> float:
        """Return the part of t_p that falls to the rank of the prompt, seconds per token."""
        return (1.0 - self.prefill_shared) * self.prefill_s_per_token
