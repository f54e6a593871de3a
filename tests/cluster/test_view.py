"""What a view derives from its columns."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.ledger import UNLIMITED_TOKENS, Ledger
from balanceroute.cluster.view import NO_LIMIT, GroupView
from balanceroute.errors import ConfigError
from tests.policies.views import make_view


def one_view(*, is_immediate: bool) -> GroupView:
    """Return ranks with 5, 0, 3, 0 slots, of which 2, 0, 3, 1 run or queue."""
    return make_view(
        load=[100, 0, 390, 50],
        due=[20, 0, 30, 0],
        slots=[5, 0, 3, 0],
        kv=400,
        running=[1, 0, 2, 1],
        waiting=[1, 0, 1, 0],
        is_immediate=is_immediate,
    )


def test_pooled_limits_are_what_is_free() -> None:
    """Slots and KV tokens neither taken nor promised, never below zero."""
    view = one_view(is_immediate=False)
    assert [120, 0, 420, 50] == view.committed_tokens.tolist()
    assert [3, 0, 0, 0] == view.num_free_slots.tolist()
    assert [3, 0, 0, 0] == view.max_sends.tolist()
    assert [280, 400, 0, 350] == view.free_kv_tokens.tolist()


def test_immediate_limits_are_none_but_for_ranks_without_slots() -> None:
    """A rank queues what it cannot run, unless it is away."""
    view = one_view(is_immediate=True)
    assert [NO_LIMIT, 0, NO_LIMIT, 0] == view.max_sends.tolist()
    assert [UNLIMITED_TOKENS] * 4 == view.free_kv_tokens.tolist()


def test_kv_usage_is_resident_over_capacity() -> None:
    """Tokens on their way do not count yet."""
    assert [0.25, 0.0, 0.975, 0.125] == pytest.approx(one_view(is_immediate=False).kv_usage)


def test_a_view_without_requests_has_no_ages() -> None:
    """The error says how a policy comes to see them."""
    view = one_view(is_immediate=False)
    with pytest.raises(ConfigError, match="set follows_requests on the policy"):
        view.ages_tokens(np.array([0]))


def test_ages_come_from_entries_and_clocks() -> None:
    """Tokens of the requests asked for, in that order."""
    ledger = Ledger(num_ranks=4, keeps_events=True)
    handles = [ledger.send(rank=rank, prompt_tokens=7) for rank in (3, 1)]
    for handle in handles:
        ledger.start(handle)
        ledger.prefill(handle, 7)
    ledger.step(1)
    ledger.step(1)
    ledger.step(3)
    view = one_view(is_immediate=False).with_requests(
        ledger.accounts.entries, ledger.ranks["clock"], ledger.take_events()
    )
    assert [2, 1] == view.ages_tokens(np.array(handles[::-1])).tolist()
    assert 2 == len(view.events)
    assert [120, 0, 420, 50] == view.committed_tokens.tolist()
