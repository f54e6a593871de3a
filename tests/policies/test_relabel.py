"""Ranks are names: relabelling them relabels the choice."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balanceroute.cluster.view import GroupView
from tests.policies.views import build, make_view, placements

# Prompts are multiples of 64 and loads differ modulo 64, so no sums of tokens can ever be equal.
GRAIN = 64
BY_TOKENS = ["least_tokens", "br_0", "br_0,select_by=margin", "br_0,s_greedy=0", "trtllm_adp"]
BY_REQUESTS = ["least_requests", "vllm", "vllm_4w_r", "vllm_rust"]


def relabelled(view: GroupView, order: list[int]) -> GroupView:
    """Return the view in which rank g is what was rank order[g]."""
    columns: dict[str, Any] = {}
    for field in fields(view):
        value = getattr(view, field.name)
        if isinstance(value, np.ndarray) and field.name not in ("entries", "events"):
            columns[field.name] = value[order]
    return replace(view, **columns)


def assert_relabels(spec: str, view: GroupView, prompts: list[int], order: list[int]) -> None:
    """Compare the plan for a view with the plan for the relabelled one."""
    expected = placements(build(spec), view, prompts)
    renamed = placements(build(spec), relabelled(view, order), prompts)
    assert expected == [(request, order[rank]) for request, rank in renamed]


@pytest.mark.parametrize("spec", BY_TOKENS)
@given(st.data())
def test_policies_that_count_tokens(spec: str, data: st.DataObject) -> None:
    """Whole plans agree, since no two ranks ever hold equally much."""
    order = data.draw(st.permutations(range(data.draw(st.integers(1, 7)))))
    grains = [data.draw(st.integers(0, 200)) for _ in order]
    view = make_view(
        load=[GRAIN * grain + g for g, grain in enumerate(grains)],
        slots=[data.draw(st.integers(0, 5)) for _ in order],
    )
    prompts = [GRAIN * grain for grain in data.draw(st.lists(st.integers(1, 100), max_size=12))]
    assert_relabels(spec, view, prompts, order)


@pytest.mark.parametrize("spec", BY_REQUESTS)
@given(st.data())
def test_policies_that_count_requests(spec: str, data: st.DataObject) -> None:
    """One request at a time, since a request sent may make two ranks equal."""
    num_ranks = data.draw(st.integers(1, 7))
    order = data.draw(st.permutations(range(num_ranks)))
    running = data.draw(st.permutations(range(10)))[:num_ranks]
    view = make_view(load=[1] * num_ranks, running=running, slots=99, is_immediate=True)
    assert_relabels(spec, view, [5], order)


@given(st.data())
def test_smg_least_load(data: st.DataObject) -> None:
    """Tokens decide while no KV limit presses."""
    num_ranks = data.draw(st.integers(1, 7))
    order = data.draw(st.permutations(range(num_ranks)))
    load = data.draw(
        st.lists(st.integers(0, 10**6), min_size=num_ranks, max_size=num_ranks, unique=True)
    )
    assert_relabels("smg_least_load", make_view(load=load, is_immediate=True), [5], order)
