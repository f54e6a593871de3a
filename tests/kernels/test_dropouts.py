"""The hard projection's sums against a recount of all requests."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from balanceroute.kernels.dropouts import enter, leave, leave_ended, loads_ahead, no_dropouts
from balanceroute.kernels.ledger import ENDED, REQUEST_EVENT, SENT
from balanceroute.kernels.project import FOLLOWED

NUM_RANKS, CAPACITY = 2, 5


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_sums_equal_a_recount(data: st.DataObject) -> None:
    """Requests come, go and are looked at anew while the clocks run, at different paces."""
    horizon = data.draw(st.integers(0, 9))
    dropouts = no_dropouts(CAPACITY, NUM_RANKS, horizon)
    followed = np.zeros(CAPACITY, FOLLOWED)
    clocks = np.array([0, 3])
    there: dict[int, tuple[int, int, int]] = {}  # rank, tokens at clock 0, clock of the end
    for _ in range(data.draw(st.integers(1, 12))):
        for handle in data.draw(st.sets(st.integers(0, CAPACITY - 1))):
            leave(dropouts, handle)
            there.pop(handle, None)
            if data.draw(st.booleans()):
                rank, steps = data.draw(st.integers(0, 1)), data.draw(st.integers(1, horizon + 1))
                tokens = data.draw(st.integers(1, 99))
                followed[handle]["rank"] = rank
                counted = np.array([min(steps, horizon)], np.float64)
                enter(
                    dropouts, followed, np.array([handle]), np.array([tokens]), counted, clocks, 99
                )
                end = clocks[rank] + steps if steps < horizon else 1 << 40
                there[handle] = (rank, tokens - clocks[rank], end)
        expected = np.zeros((NUM_RANKS, horizon + 1))
        for rank, base, end in there.values():
            for h in range(horizon + 1):
                expected[rank, h] += (base + clocks[rank] + h) * (clocks[rank] + h < end)
        assert expected.tolist() == loads_ahead(dropouts, clocks).tolist()
        nearest = [
            min(
                [end - clocks[rank] for where, _, end in there.values() if where == rank], default=9
            )
            for rank in range(NUM_RANKS)
        ]
        clocks += [data.draw(st.integers(0, max(0, min(most, 9) - 1))) for most in nearest]


def test_a_request_is_looked_at_again_when_it_should_have_ended() -> None:
    """Or after the longest wait, if that is sooner."""
    dropouts, followed = no_dropouts(3, 1, 80), np.zeros(3, FOLLOWED)
    steps = np.array([1.0, 19.6, 30.0])
    enter(dropouts, followed, np.arange(3), np.full(3, 50), steps, np.array([7]), 20)
    assert [8, 27, 27] == followed["due_clock"].tolist()


def test_steps_are_rounded() -> None:
    """A request expected to go on for 2.4 steps of 4 holds two more loads, one for 2.5 three."""
    for steps, expected in ((2.4, [9.0, 10.0, 0.0, 0.0, 0.0]), (2.5, [9.0, 10.0, 11.0, 0.0, 0.0])):
        dropouts, followed = no_dropouts(1, 1, 4), np.zeros(1, FOLLOWED)
        enter(dropouts, followed, np.array([0]), np.array([9]), np.array([steps]), np.array([0]), 9)
        assert [expected] == loads_ahead(dropouts, np.array([0])).tolist()


def test_only_ended_requests_leave() -> None:
    """Other events change no sums, and neither does the end of a request that is in none."""
    dropouts, followed = no_dropouts(2, 1, 0), np.zeros(2, FOLLOWED)
    enter(dropouts, followed, np.array([0]), np.array([9]), np.ones(1), np.array([0]), 9)
    for kind, handle, expected in ((SENT, 0, 9.0), (ENDED, 1, 9.0), (ENDED, 0, 0.0)):
        events = np.zeros(1, REQUEST_EVENT)
        events["kind"], events["handle"] = kind, handle
        leave_ended(dropouts, events)
        assert [[expected]] == loads_ahead(dropouts, np.array([0])).tolist()
