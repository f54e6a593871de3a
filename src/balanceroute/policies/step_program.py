"""The step optimum of BF-IO (arXiv 2601.17855) as a mixed-integer linear program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from balanceroute.kernels.arrays import BoolArray, Float64Array, Int64Array
from balanceroute.policies.base import Plan

# Coefficients beyond this are scaled down: a solver's tolerances are absolute.
LARGEST_COEFFICIENT = 2.0**17


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProblem:
    """What one plan can do to the group, now and at the horizons.

    Attributes
    ----------
    loads : float64 array, shape (G, K)
        Tokens of each rank at each horizon without the plan; the first column is the present.
    weights : float64 array, shape (K,)
        What a token of imbalance counts at each horizon, above 0.
    gains : float64 array, shape (N, K)
        Tokens that each waiting request would add at each horizon, at least 0.
    prompt_tokens : int64 array, shape (N,)
        Their prompts, which have to fit `free_kv_tokens`.
    max_sends, free_kv_tokens : int64 array, shape (G,)
        Limits of each rank.
    """

    loads: Float64Array
    weights: Float64Array
    gains: Float64Array
    prompt_tokens: Int64Array
    max_sends: Int64Array
    free_kv_tokens: Int64Array


class LinearProgram(NamedTuple):
    """Minimise ``cost · x`` with ``row_lower <= A x <= row_upper``, A stored by columns."""

    cost: Float64Array  # shape (C,)
    lower: Float64Array  # shape (C,)
    upper: Float64Array  # shape (C,)
    row_lower: Float64Array  # shape (R,)
    row_upper: Float64Array  # shape (R,)
    starts: Int64Array  # shape (C + 1,): where the entries of each column begin
    indices: Int64Array  # the row of each entry
    values: Float64Array  # the entries
    num_continuous: int  # the first so many columns; the others are integers
    unit: float  # objective of one token


class Kinds(NamedTuple):
    """Requests that add the same, which the program need not tell apart."""

    gains: Float64Array  # shape (kinds, K)
    prompt_tokens: Int64Array  # shape (kinds,)
    members: list[Int64Array]  # the requests of each, oldest first


class Pairs(NamedTuple):
    """The integer columns: how many requests of a kind go to a rank."""

    kinds: Int64Array  # shape (P,)
    takers: Int64Array  # shape (P,): rows of `ranks`
    ranks: Int64Array  # ranks that take requests


def step_imbalance(problem: StepProblem, plan: Plan) -> float:
    """Compute what BF-IO minimises: the imbalance after a plan, summed over the horizons.

    Implements the objective of [1]_: ``Σ_h w_h (G·M_h - Σ_g L_g(h))``.

    Returns
    -------
    float
        Tokens, at least 0 up to rounding. Lower is better.

    References
    ----------
    .. [1] BF-IO, arXiv 2601.17855.

    Examples
    --------
    >>> problem = StepProblem(
    ...     loads=np.array([[100.0], [90.0], [70.0], [60.0]]),
    ...     weights=np.ones(1),
    ...     gains=np.array([[20.0], [35.0]]),
    ...     prompt_tokens=np.array([20, 35]),
    ...     max_sends=np.array([0, 0, 1, 1]),
    ...     free_kv_tokens=np.full(4, 1000),
    ... )
    >>> step_imbalance(problem, Plan(np.array([0, 1]), np.array([2, 3])))
    25.0
    """
    loads = problem.loads.copy()
    np.add.at(loads, plan.ranks, problem.gains[plan.requests])
    imbalance = len(loads) * loads.max(axis=0) - loads.sum(axis=0)
    return float(imbalance @ problem.weights)


def write_program(problem: StepProblem, start: Plan) -> tuple[LinearProgram, Kinds, Pairs]:
    """Write the program whose solutions place as many requests as `start` does.

    Requests that add the same count as one kind, and pairs of kind and rank that cannot be in a
    plan as good as `start` are left out; neither changes the optimum.

    The columns are M_h - its least possible value, then x, the requests of a kind on a rank. Rows:
    ``M_h >= L_g(h) + Σ gain(h) x`` for each rank that takes requests, requests per kind, slots per
    rank, requests in all, and KV tokens per rank if they can run out.
    """
    kinds = _kinds(problem)
    floor = problem.loads.max(axis=0)  # of M_h
    ceiling = _envelope_ceiling(problem, start, floor)
    ranks = np.flatnonzero(problem.max_sends > 0)
    kind_of, taker_of = np.nonzero(_fits(problem, kinds, ranks, ceiling))
    pairs = Pairs(kind_of, taker_of, ranks)
    scale = max(1.0, float(kinds.gains.max()) / LARGEST_COEFFICIENT)
    num_horizons = len(floor)
    counts = np.array([len(requests) for requests in kinds.members])
    at_most = np.minimum(counts[pairs.kinds], problem.max_sends[ranks[pairs.takers]])
    worth = kinds.gains[pairs.kinds] @ problem.weights / scale
    starts, indices, values = _columns(problem, kinds, pairs, len(start), scale)
    row_lower, row_upper = _rows(problem, kinds, ranks, len(start), floor, scale)
    program = LinearProgram(
        cost=np.concatenate((len(problem.loads) * problem.weights, -worth)),
        lower=np.zeros(num_horizons + len(worth)),
        upper=np.concatenate(((ceiling - floor) / scale, at_most)),
        row_lower=row_lower,
        row_upper=row_upper,
        starts=starts,
        indices=indices,
        values=values,
        num_continuous=num_horizons,
        unit=1.0 / scale,
    )
    return program, kinds, pairs


def read_plan(counts: Int64Array, kinds: Kinds, pairs: Pairs) -> Plan:
    """Return the plan that a solution stands for; of equal requests the oldest go first.

    Parameters
    ----------
    counts : int64 array, shape (P,)
        The integer columns.
    kinds, pairs
        As `write_program` returned them.

    Returns
    -------
    Plan
        Oldest request first.
    """
    requests, ranks = [], []
    num_used = np.zeros(len(kinds.members), np.int64)
    for pair in np.flatnonzero(counts):
        kind, count = pairs.kinds[pair], counts[pair]
        begin = num_used[kind]
        num_used[kind] += count
        requests.append(kinds.members[kind][begin : begin + count])
        ranks.append(np.full(count, pairs.ranks[pairs.takers[pair]]))
    if not requests:
        return Plan.oldest(np.zeros(0, np.int64))
    chosen, places = np.concatenate(requests), np.concatenate(ranks)
    order = np.argsort(chosen)
    return Plan(chosen[order], places[order])


def write_solution(
    plan: Plan, problem: StepProblem, kinds: Kinds, pairs: Pairs, unit: float
) -> Float64Array:
    """Return the columns that stand for a plan whose pairs are all in the program."""
    loads = problem.loads.copy()
    np.add.at(loads, plan.ranks, problem.gains[plan.requests])
    kind_of = np.empty(len(problem.gains), np.int64)
    for kind, requests in enumerate(kinds.members):
        kind_of[requests] = kind
    numbers = np.zeros((len(kinds.members), len(problem.loads)))
    np.add.at(numbers, (kind_of[plan.requests], plan.ranks), 1.0)
    rises = (loads.max(axis=0) - problem.loads.max(axis=0)) * unit
    columns: Float64Array = np.concatenate((rises, numbers[pairs.kinds, pairs.ranks[pairs.takers]]))
    return columns


def _kinds(problem: StepProblem) -> Kinds:
    rows = np.column_stack((problem.prompt_tokens, problem.gains))
    _, first, kind = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    members = [np.flatnonzero(kind.ravel() == number) for number in range(len(first))]
    return Kinds(problem.gains[first], problem.prompt_tokens[first], members)


def _envelope_ceiling(problem: StepProblem, start: Plan, floor: Float64Array) -> Float64Array:
    """Return the largest M_h that a plan as good as `start` can have."""
    cost = len(problem.loads) * problem.weights
    most = np.sort(problem.gains, axis=0)[len(problem.gains) - len(start) :].sum(axis=0)
    least = cost @ floor - (problem.loads.sum(axis=0) + most) @ problem.weights
    slack = step_imbalance(problem, start) - float(least)
    ceiling: Float64Array = floor + max(slack, 0.0) / cost
    return ceiling


def _fits(
    problem: StepProblem, kinds: Kinds, ranks: Int64Array, ceiling: Float64Array
) -> BoolArray:
    """Tell which kinds fit which ranks below the ceiling, shape (kinds, ranks)."""
    fits: BoolArray = kinds.prompt_tokens[:, None] <= problem.free_kv_tokens[ranks]
    highest = ceiling + 1e-9 * (1.0 + ceiling)  # what rounding may have taken off
    for k in range(len(ceiling)):
        fits &= kinds.gains[:, k, None] + problem.loads[ranks, k] <= highest[k]
    return fits


def _has_scarce_kv(problem: StepProblem, ranks: Int64Array, num_placed: int) -> bool:
    most = int(problem.prompt_tokens.max()) * num_placed
    return bool((problem.free_kv_tokens[ranks] < most).any())


def _kv_scale(problem: StepProblem) -> float:
    return max(1.0, float(problem.prompt_tokens.max()) / LARGEST_COEFFICIENT)


def _columns(
    problem: StepProblem, kinds: Kinds, pairs: Pairs, num_placed: int, scale: float
) -> tuple[Int64Array, Int64Array, Float64Array]:
    """Return where each column begins, the rows of its entries, and the entries."""
    num_pairs, num_ranks = len(pairs.kinds), len(pairs.ranks)
    num_horizons = problem.loads.shape[1]
    kind_row = num_ranks * num_horizons
    slot_row = kind_row + len(kinds.members)
    total_row = slot_row + num_ranks
    takers, horizons = pairs.takers[:, None], np.arange(num_horizons)
    rows = [
        takers * num_horizons + horizons,
        kind_row + pairs.kinds[:, None],
        slot_row + takers,
        np.full((num_pairs, 1), total_row),
    ]
    entries = [-kinds.gains[pairs.kinds] / scale, np.ones((num_pairs, 3))]
    if _has_scarce_kv(problem, pairs.ranks, num_placed):
        rows.append(total_row + 1 + takers)
        entries.append(kinds.prompt_tokens[pairs.kinds][:, None] / _kv_scale(problem))
    envelopes = (np.arange(num_ranks) * num_horizons + horizons[:, None]).ravel()
    indices, values = np.hstack(rows), np.hstack(entries)
    lengths = [0, *[num_ranks] * num_horizons, *[values.shape[1]] * num_pairs]
    return (
        np.cumsum(lengths),
        np.concatenate((envelopes, indices.ravel())),
        np.concatenate((np.ones(len(envelopes)), values.ravel())),
    )


def _rows(
    problem: StepProblem,
    kinds: Kinds,
    ranks: Int64Array,
    num_placed: int,
    floor: Float64Array,
    scale: float,
) -> tuple[Float64Array, Float64Array]:
    """Return the bounds of the rows."""
    envelopes = ((problem.loads[ranks] - floor) / scale).ravel()
    num_per_kind = [len(requests) for requests in kinds.members]
    upper: list[Float64Array] = [
        np.full(len(envelopes), np.inf),
        np.array(num_per_kind, np.float64),
        problem.max_sends[ranks].astype(np.float64),
        np.array([float(num_placed)]),
    ]
    if _has_scarce_kv(problem, ranks, num_placed):
        upper.append(problem.free_kv_tokens[ranks] / _kv_scale(problem))
    row_upper = np.concatenate(upper)
    row_lower = np.full(len(row_upper), -np.inf)
    row_lower[: len(envelopes)] = envelopes
    total_row = len(envelopes) + len(num_per_kind) + len(ranks)
    row_lower[total_row] = num_placed
    return row_lower, row_upper
