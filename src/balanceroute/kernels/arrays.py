"""Names for the arrays that kernels take; shapes stand in the docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
RecordArray = NDArray[Any]  # one record per row; kernels read fields as attributes
