"""What came of replaying a log of decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from balanceroute.live.decision_file import CutShort
from balanceroute.live.decisions import Line, reasons
from balanceroute.live.replaying import replayed
from balanceroute.live.scene import Replayed


@dataclass(eq=False, slots=True, kw_only=True)
class Comparison:
    """What came of replaying a log.

    Attributes
    ----------
    num_plans, num_differing : int
        Plans, and those that are other bytes now.
    difference, cut : str
        The first of these, and where the log ends in the middle; empty if there is none.
    plans : list of bytes
        What the policy says now, if that was asked for.
    reasons : list of dict
        Of the request that was asked about, as `reasons` returns them with every other rank.
    """

    num_plans: int = 0
    num_differing: int = 0
    difference: str = ""
    cut: str = ""
    plans: list[bytes] = field(default_factory=list)
    reasons: list[Line] = field(default_factory=list)

    @staticmethod
    def of(path: Path, *, keeps_plans: bool = False, about: str | None = None) -> Comparison:
        """Replay a log; see `replayed` for what is raised."""
        found, numbers = Comparison(), set[int]()
        try:
            for decision in replayed(path):
                found._take(decision, keeps_plans=keeps_plans)
                if about is not None:
                    numbers.update(row[0] for row in decision.line.arrived if row[-1] == about)
                    found._explain(decision, numbers)
        except CutShort as error:
            found.cut = f"{error} after {found.num_plans:,} whole decisions"
        return found

    def _take(self, decision: Replayed, *, keeps_plans: bool) -> None:
        self.num_plans += 1
        now, then = decision.bytes_now, decision.bytes_then
        if keeps_plans:
            self.plans.append(_numbered(decision, now))
        if now == then:
            return
        self.num_differing += 1
        if not self.difference:
            lines = [_numbered(decision, plan).decode() for plan in (then, now)]
            self.difference = "then {}\nnow  {}".format(*lines)

    def _explain(self, decision: Replayed, numbers: set[int]) -> None:
        plan = decision.then
        if numbers.isdisjoint(decision.pool.ids[plan.requests].tolist()):
            return
        told = reasons(decision.view, decision.pool, plan, decision.view.num_ranks)
        tokens = decision.pool.prompt_tokens[plan.requests].tolist()
        for why, num_tokens in zip(told, tokens, strict=True):
            if why["request"] in numbers:
                where = {"n": decision.line.number, "t": decision.line.now_s, "tokens": num_tokens}
                self.reasons.append(why | where)


def _numbered(decision: Replayed, plan: bytes) -> bytes:
    """Return a plan as a line of its own."""
    return b'{"n":%d,"plan":%b}' % (decision.line.number, plan)
