"""What is read off the accounts in one pass, against the view that they give column by column."""

from __future__ import annotations

import numpy as np
import pytest

from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import Ledger
from balanceroute.cluster.sight import look
from balanceroute.cluster.streams import begin, observe
from balanceroute.cluster.view import GroupView

COLUMNS = (
    "num_slots",
    "load_tokens",
    "due_tokens",
    "resident_prompt_tokens",
    "generated_tokens",
    "num_running_reqs",
    "num_waiting_reqs",
    "num_inflight_reqs",
    "clocks",
    "max_sends",
)


def group() -> tuple[Ledger, dict[str, np.ndarray]]:
    """Return a group of which rank 1 is full, rank 2 closed and rank 3 empty."""
    ledger = Ledger(num_ranks=4, keeps_events=True)
    for rank, has_stream in ((0, True), (0, False), (1, True), (1, True), (2, False)):
        begin(ledger, rank=rank, prompt_tokens=10 + rank, has_stream=has_stream)
    for output_tokens in (1, 2, 3):
        observe(ledger, 2, output_tokens)
    limits = {"num_slots": np.array([4, 2, 4, 4]), "is_open": np.array([True, True, False, True])}
    return ledger, limits


@pytest.mark.parametrize("is_immediate", [False, True])
@pytest.mark.parametrize("foreign", [(0, 0), (2, 70)], ids=["alone", "with others"])
def test_all_columns(foreign: tuple[int, int], is_immediate: bool) -> None:
    """They are the same, and those of others count where they are."""
    ledger, limits = group()
    reqs, tokens = (np.array([value, 0, 0, 0]) for value in foreign)
    accounts = ledger.ranks.copy()
    accounts["num_running"] += reqs
    accounts["load_tokens"] += tokens
    kv = np.full(4, 1000)
    expected = GroupView.of_accounts(
        accounts,
        accounts,
        now_s=5.0,
        is_immediate=is_immediate,
        num_slots=np.where(limits["is_open"], limits["num_slots"], 0),
        kv_capacity_tokens=kv,
        entries=ledger.accounts.entries,
    )
    sight = look(
        ledger.ranks, **limits, foreign_reqs=reqs, foreign_tokens=tokens, is_immediate=is_immediate
    )
    view = sight.view(
        now_s=5.0,
        kv_capacity_tokens=kv,
        costs=None,
        entries=ledger.accounts.entries,
        events=NO_EVENTS,
    )
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(expected, name), getattr(view, name), name)
    np.testing.assert_array_equal(expected.max_sends, sight.max_sends)
    assert np.count_nonzero(expected.max_sends) == sight.num_able


def test_it_stays_what_it_was() -> None:
    """A policy may keep what it has seen."""
    ledger, limits = group()
    nothing = np.zeros(4, np.int64)
    sight = look(
        ledger.ranks, **limits, foreign_reqs=nothing, foreign_tokens=nothing, is_immediate=False
    )
    before = sight.seen.copy()
    begin(ledger, rank=3, prompt_tokens=10)
    np.testing.assert_array_equal(before, sight.seen)
