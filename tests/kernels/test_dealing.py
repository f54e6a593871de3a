"""What waves' kernels remember of requests from plan to plan."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.kernels.dealing import since_when

NAMES = st.integers(-(2**40), 2**40) | st.integers(0, 8)


@given(st.dictionaries(NAMES, st.floats(0.0, 10.0), max_size=40), st.sets(NAMES, max_size=40))
def test_known_requests_keep_their_time(before: dict[int, float], now: set[int]) -> None:
    """Whoever was there before, by any name, keeps the time since when; all others start now."""
    ids = np.array(list(now), np.int64)
    names, times_s = np.array(list(before), np.int64), np.array(list(before.values()))
    expected = [before.get(name, 11.0) for name in ids.tolist()]
    assert expected == since_when(ids, names, times_s, 11.0).tolist()
