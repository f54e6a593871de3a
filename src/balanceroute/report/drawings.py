"""The drawings of a comparison's page: which runs each shows, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from balanceroute.metrics import PolicyFigures, Spread, compare
from balanceroute.report.digest import RunDigest
from balanceroute.report.figures import (
    Curve,
    Figure,
    distribution,
    envelopes,
    rank_loads,
    time_shares,
)
from balanceroute.report.measured.rows import full_name
from balanceroute.report.measurement import figure
from balanceroute.report.result import MeasuredResult, SimulationResult

_SHARES = ("constant_ratio", "efficiency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A run and its line."""

    curve: Curve
    run: RunDigest


def draw_sections(
    result: SimulationResult, digests: Sequence[RunDigest], measured: Sequence[RunDigest]
) -> dict[str, list[Figure]]:
    """Return the drawings of each section of the page.

    Parameters
    ----------
    result : SimulationResult
        The figures.
    digests : sequence of RunDigest
        Simulated runs; of each policy the first is drawn.
    measured : sequence of RunDigest
        One for each of the result's measured runs, or none.
    """
    drawn = _in_order(result, digests, measured)
    sampled = [each for each in drawn if each.run.time_s.size]
    largest = max((float(each.run.load_tokens.max()) for each in sampled), default=0.0)
    curves = [(each.curve, each.run) for each in sampled]
    return {
        "time": [time_shares(_shares(result))] if result.group.barrier else [],
        "loads": [
            rank_loads(f"loads-{i}", each.curve.name, each.run, max_tokens=largest)
            for i, each in enumerate(sampled)
        ],
        "envelopes": [envelopes(curves)] if curves and result.group.ranks > 1 else [],
        "latencies": [
            distribution("tpot", "TPOT", "ms", [(each.curve, each.run.tpot) for each in drawn]),
            distribution("ttft", "TTFT", "s", [(each.curve, each.run.ttft) for each in drawn]),
            distribution("wait", "wait", "s", [(each.curve, each.run.wait) for each in drawn]),
        ],
    }


def _in_order(
    result: SimulationResult, digests: Sequence[RunDigest], measured: Sequence[RunDigest]
) -> list[Drawn]:
    """Return the policies, each followed by what was measured of it, then what is of none."""
    first: dict[str, RunDigest] = {}
    for run in digests:
        first.setdefault(run.policy, run)
    places = {policy: place for place, policy in enumerate(first)}
    simulated = [
        (place, Drawn(curve=Curve(name=policy, index=place), run=first[policy]))
        for policy, place in places.items()
    ]
    others = []
    for each, run in zip(result.measured if measured else (), measured, strict=True):
        # A name that no policy has gets a colour of its own, the next.
        place = places.setdefault(each.run.policy, len(places))
        curve = Curve(name=full_name(result, each), index=place, is_measured=True)
        others.append((place, Drawn(curve=curve, run=run)))
    return [drawn for _, drawn in sorted(simulated + others, key=lambda pair: pair[0])]


def _shares(result: SimulationResult) -> list[PolicyFigures]:
    """Return where the time goes, for policies and for runs whose steps are known."""
    policies = compare(((run.policy, run.metrics) for run in result.runs), _SHARES)
    shares: list[PolicyFigures] = []
    for policy in policies:
        shares.append(policy)
        shares += [
            _measured_shares(result, each)
            for each in result.measured
            if each.simulated_policy == policy.policy
        ]
    shares += [_measured_shares(result, it) for it in result.measured if not it.simulated_policy]
    return [each for each in shares if each.spreads["efficiency"].mean is not None]


def _measured_shares(result: SimulationResult, measured: MeasuredResult) -> PolicyFigures:
    return PolicyFigures(
        policy=full_name(result, measured),
        num_runs=1,
        spreads={
            name: Spread(mean=figure(measured.run.metrics, name), std=None) for name in _SHARES
        },
    )
