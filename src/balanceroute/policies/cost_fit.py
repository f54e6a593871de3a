"""The terms of a step's time, fitted to steps that were seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.arrays import Float64Array

# What a step's time is a sum of, in this order; all but the last are the slowest rank's own.
CONSTANT, REQUEST, TOKEN, PREFILL, MIXED, SHARED = range(6)
NUM_TERMS, NUM_OWN_TERMS = 6, 5
#: Which terms a model has, one model per row. A cost per request is told in tokens, as kappa0.
MODELS = np.array(list(itertools.product([False, True], repeat=NUM_TERMS)))
MODELS = MODELS[MODELS[:, TOKEN] | ~MODELS[:, REQUEST]]
MODEL_PAIRS = MODELS[:, :, None] & MODELS[:, None, :]
# What a term must lower the misfit by, in units of log(number of samples): for those that a simpler
# model does without, what the Bayesian information criterion says; for the others next to nothing.
PENALTIES = np.array([0.01, 1.0, 0.01, 0.01, 1.0, 1.0])
# Prefill is all the ranks' own or all shared, whichever fits better, before it may be some of both;
# their own where the two cannot be told apart.
SHARED_ALONE = 0.02
USUAL_SHARE = 0.4  # of a step's time in one term: a prior's deviation, which decides only what the
# samples leave open
FIRST_GUESS = np.array([1e-2, 0.0, 1e-7, 2e-5, 0.0, 0.0])  # only its ratios count

NUM_SAMPLES, NUM_AMOUNTS = 512, 5  # kept, of as many amounts of prefill: none, and quarters
OLDEST_SAMPLE = 8192  # samples ago
FEWEST_SAMPLES, SAMPLES_PER_FIT = 32, 128  # new ones, for the first fit and for later ones
FEWEST_PREFILLS = 8  # samples with prefill to trust a fit, once there has been one
MAX_TURNS, SETTLED_RATIO = 5, 1e-4  # of a search for the slowest ranks and the terms
NO_SAMPLE = -1

# Deviations are logarithms of a duration over what the terms tell.
EXACT_RATIO = 1e-4  # what is closer is as good as exact
LEAST_RATIO = 1e-3  # of a duration, told by terms that have nothing to do with it
MEDIAN_TO_STANDARD = 1.4826  # standard deviation over median absolute deviation, if normal
HUBER_SPREADS, HUBER_RATIO = 2.0, 0.2  # what counts in full
FAR_SPREADS, FAR_RATIO = 10.0, 0.4  # what something else than the load has caused
CHANGE_SPREADS, CHANGE_RATIO = 1.0, 0.03  # median of new samples that means other costs than before


def penalty_of(has_term: NDArray[np.bool_]) -> Float64Array:
    """Return what models with these terms, shape (..., NUM_TERMS), must lower the misfit by."""
    is_alone = has_term[..., SHARED] & ~has_term[..., PREFILL]
    penalties: Float64Array = has_term @ PENALTIES - (PENALTIES[SHARED] - SHARED_ALONE) * is_alone
    return penalties


MODEL_PENALTIES = penalty_of(MODELS)


class Step(NamedTuple):
    """A step as the views around it tell it; arrays have shape (G,)."""

    duration_s: float
    num_running: Float64Array
    load_tokens: Float64Array  # before any request grows
    prefilled_tokens: Float64Array
    num_decoding_after: Float64Array


class Fit(NamedTuple):
    """Terms, and how far the samples are from them."""

    terms: Float64Array
    deviations: Float64Array  # shape (NUM_SAMPLES,)
    misfit: float


class Samples:
    """Steps of different amounts of prefill, and the terms that fit them best."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.num_seen = 0
        self._own = np.zeros((NUM_OWN_TERMS, NUM_SAMPLES, num_ranks))
        self._mean_prefill = np.zeros(NUM_SAMPLES)
        self._durations_s = np.ones(NUM_SAMPLES)
        self._turns = np.full(NUM_SAMPLES, NO_SAMPLE)  # when each came
        self._amounts = np.zeros(NUM_SAMPLES, np.int64)  # of prefill: 0 to NUM_AMOUNTS - 1
        self._most_prefilled = 0
        self._work = self._fit_again()

    def add(self, step: Step, speeds: Float64Array | None) -> Float64Array | None:
        """Take a sample and do some of the work of fitting; return the terms once it is done."""
        row, most = self._free_row(), int(step.prefilled_tokens.max())
        self._most_prefilled = max(self._most_prefilled, most)
        own = self._own[:, row]
        own[CONSTANT] = 1.0
        own[REQUEST] = step.num_running
        own[TOKEN] = step.load_tokens
        own[PREFILL] = step.prefilled_tokens
        own[MIXED] = step.prefilled_tokens > 0.0
        if speeds is not None:
            own /= speeds
        self._mean_prefill[row] = step.prefilled_tokens.sum() / self.num_ranks
        self._durations_s[row] = step.duration_s
        self._turns[row] = self.num_seen
        self._amounts[row] = -(-most * (NUM_AMOUNTS - 1) // max(self._most_prefilled, 1))
        self.num_seen += 1
        return next(self._work)

    def _free_row(self) -> int:
        """Return an empty row, or else the oldest of the amount of prefill that has the most."""
        oldest = int(self._turns.argmin())
        if self._turns[oldest] == NO_SAMPLE:
            return oldest
        fullest = np.bincount(self._amounts).argmax()
        return int(np.where(self._amounts == fullest, self._turns, self.num_seen).argmin())

    def _fit_again(self) -> Generator[Float64Array | None, None, None]:
        """Fit whenever enough samples have come, one turn of a search per sample."""
        terms, spread, num_fitted = FIRST_GUESS, math.inf, 0
        while True:
            yield None
            if self.num_seen - num_fitted < min(max(num_fitted, FEWEST_SAMPLES), SAMPLES_PER_FIT):
                continue
            num_old, num_fitted = num_fitted, self.num_seen
            self._turns[self._turns < num_fitted - OLDEST_SAMPLE] = NO_SAMPLE
            fit = yield from self._best_fit(terms)
            news = float(np.median(fit.deviations[self._turns >= num_old]))
            if abs(news) > CHANGE_SPREADS * spread + CHANGE_RATIO:
                self._turns[self._turns < num_old] = NO_SAMPLE
                fit = yield from self._best_fit(terms)
            terms, spread = fit.terms, spread_of(fit.deviations[self._is_used])
            num_prefills = np.count_nonzero(self._mean_prefill[self._is_used])
            if num_prefills >= FEWEST_PREFILLS or self._most_prefilled == 0:
                yield terms

    @property
    def num_kept(self) -> int:
        """Return how many samples the next fit rests on; fewer once costs have changed."""
        return int(np.count_nonzero(self._is_used))

    @property
    def _is_used(self) -> NDArray[np.bool_]:
        is_used: NDArray[np.bool_] = self._turns != NO_SAMPLE
        return is_used

    def _best_fit(self, terms: Float64Array) -> Generator[None, None, Fit]:
        """Search from the last terms and afresh, since a search may end in a local optimum."""
        last = yield from self._search(terms)
        fresh = yield from self._search(FIRST_GUESS)
        return min(last, fresh, key=lambda fit: fit.misfit)

    def _search(self, terms: Float64Array) -> Generator[None, None, Fit]:
        """Take in turns the ranks that the terms make slowest, and the terms that fit those best.

        First with any terms that help, then with those that earn their place.
        """
        deviations = self._deviations(terms, self._columns(terms))
        terms = terms * math.exp(float(np.median(deviations[self._is_used])))
        for strictness in (0.0, 1.0):
            for _ in range(MAX_TURNS):
                earlier, terms = terms, self._improved(terms, strictness)
                yield
                if np.all(np.abs(terms - earlier) <= SETTLED_RATIO * earlier):
                    break
        deviations = self._deviations(terms, self._columns(terms))
        squares = np.minimum(deviations[self._is_used] ** 2, FAR_RATIO**2)
        misfit = len(squares) * math.log(float(squares.mean()) + EXACT_RATIO**2)
        misfit += math.log(len(squares)) * float(penalty_of(terms > 0.0))
        return Fit(terms, deviations, misfit)

    def _columns(self, terms: Float64Array) -> Float64Array:
        """Return what the terms are multiplied with, shape (NUM_TERMS, NUM_SAMPLES)."""
        times_s = terms[:NUM_OWN_TERMS] @ self._own.reshape(NUM_OWN_TERMS, -1)
        slowest = times_s.reshape(NUM_SAMPLES, -1).argmax(axis=1)
        columns = np.empty((NUM_TERMS, NUM_SAMPLES))
        columns[:NUM_OWN_TERMS] = self._own[:, np.arange(NUM_SAMPLES), slowest]
        columns[SHARED] = self._mean_prefill
        return columns

    def _deviations(self, terms: Float64Array, columns: Float64Array) -> Float64Array:
        told_s = np.maximum(terms @ columns, LEAST_RATIO * self._durations_s)
        deviations: Float64Array = np.log(self._durations_s / told_s)
        return deviations

    def _improved(self, terms: Float64Array, strictness: float) -> Float64Array:
        """Return the terms that fit best the ranks that are slowest by the present ones."""
        columns, is_used = self._columns(terms), self._is_used
        deviations = np.abs(self._deviations(terms, columns))
        spread = spread_of(deviations[is_used])
        bound = max(HUBER_SPREADS * spread, HUBER_RATIO)
        weights = is_used * bound / np.maximum(deviations, bound)
        if strictness > 0.0:  # not before, since a good sample may deviate far from poor terms
            weights[deviations > max(FAR_SPREADS * spread, FAR_RATIO)] = 0.0
        scale_s = np.maximum(terms @ columns, self._durations_s / 4.0)
        return best_terms(columns / scale_s, self._durations_s / scale_s, weights, strictness)


def best_terms(
    columns: Float64Array, durations: Float64Array, weights: Float64Array, strictness: float
) -> Float64Array:
    """Return the terms of the model that fits best for its size, none of them negative.

    The best non-negative terms are the plain least squares of some model, and there are few models.
    """
    num_samples = np.count_nonzero(weights)
    weighted = columns * weights
    gram, moments = weighted @ columns.T, weighted @ durations
    norms = np.sqrt(gram.diagonal())
    norms[norms == 0.0] = 1.0
    gram, moments = gram / np.outer(norms, norms), moments / norms
    targets, unit = np.where(MODELS, moments, 0.0)[..., None], np.eye(NUM_TERMS)
    variance = EXACT_RATIO**2
    for _ in range(2):  # the prior weighs as much as the noise allows, which the first fit tells
        ridge = variance / (num_samples * USUAL_SHARE**2)
        grams = np.where(MODEL_PAIRS, gram + ridge * unit, unit)
        solutions = np.linalg.solve(grams, targets)[..., 0]
        errors = ((solutions @ gram - 2.0 * moments) * solutions).sum(axis=1)
        errors = np.maximum(errors + (weights * durations) @ durations, 0.0)
        variances = (errors + ridge * (solutions**2).sum(axis=1)) / num_samples + EXACT_RATIO**2
        misfits = num_samples * np.log(variances)
        misfits += strictness * math.log(num_samples) * MODEL_PENALTIES
        misfits[(solutions < 0.0).any(axis=1)] = np.inf
        best = int(misfits.argmin())
        variance = float(variances[best])
    terms: Float64Array = solutions[best] / norms
    return terms


def spread_of(deviations: Float64Array) -> float:
    """Return the standard deviation of most of them."""
    return MEDIAN_TO_STANDARD * float(np.median(np.abs(deviations))) + EXACT_RATIO
