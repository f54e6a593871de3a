"""Gradient boosting by scikit-learn, which the extra ``learned`` installs: imported here only."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from balanceroute.errors import MissingExtraError
from balanceroute.kernels.arrays import Float64Array

MAX_TENANTS = 250  # scikit-learn's limit for a categorical feature is 255
TENANT_FEATURE = 2

#: Chosen on the traces named in docs/predict.md; 60 to 200 trees and leaves of 15 to 127 differ by
#: less than the traces do.
NUM_TREES = 100
LEARNING_RATE = 0.1
MAX_LEAVES = 31
MIN_LEAF_ROWS = 5
LEAF_SHRINKAGE_ENDS = 8.0  # pulls a leaf's factor towards 1, in expected ends


def is_installed() -> bool:
    """Return whether the extra is there."""
    return importlib.util.find_spec("sklearn") is not None


def require() -> None:
    """Raise `MissingExtraError` unless the extra is there."""
    if not is_installed():
        raise MissingExtraError(
            "the classifier 'learned' needs scikit-learn to fit; install it with: "
            "pip install 'balanceroute[learned]'"
        )


class Factors:
    """Trees that say by which factor the ends of a row exceed what was expected.

    Parameters
    ----------
    features : float64 array, shape (R, F)
        What a row is; column TENANT_FEATURE is a tenant's number below MAX_TENANTS, NaN if unknown.
    ends, expected_ends : float64 array, shape (R,)
        Counted ends, and those that the overall hazard would have given; above 0.
    """

    def __init__(
        self, features: Float64Array, ends: Float64Array, expected_ends: Float64Array
    ) -> None:
        require()
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        self._limits: Any = threadpool_limits
        self._trees: Any = HistGradientBoostingRegressor(
            loss="poisson",
            learning_rate=LEARNING_RATE,
            max_iter=NUM_TREES,
            max_leaf_nodes=MAX_LEAVES,
            min_samples_leaf=MIN_LEAF_ROWS,
            l2_regularization=LEAF_SHRINKAGE_ENDS,
            categorical_features=[TENANT_FEATURE],
            early_stopping=False,
            random_state=0,
        )
        # One thread: the work is small, and threads that wait for one another on busy cores have
        # been seen to make it a hundred times slower.
        with threadpool_limits(limits=1, user_api="openmp"):
            self._trees.fit(features, ends / expected_ends, sample_weight=expected_ends)

    def of(self, features: Float64Array) -> Float64Array:
        """Return the factor of each row, above 0."""
        with self._limits(limits=1, user_api="openmp"):
            factors: Float64Array = np.asarray(self._trees.predict(features), np.float64)
        return factors
