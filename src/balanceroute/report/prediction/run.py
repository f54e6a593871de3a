"""Fit classifiers on the earlier part of a trace and try them on the later: `predict evaluate`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from balanceroute.errors import ConfigError
from balanceroute.predict import Evaluation, evaluate, make_classifier, split_by_time
from balanceroute.predict.base import checked_horizon
from balanceroute.predict.evaluate import checked_fit_ratio
from balanceroute.report.experiment import FEWEST_SLOT_FILLS, SLOT_FILLS, Progress
from balanceroute.report.prediction.contenders import (
    BEST,
    DEFAULT,
    Contender,
    find_candidate,
    ladder,
    prepare,
)
from balanceroute.report.prediction.gains import LOOKING_AHEAD, with_classifier
from balanceroute.report.prediction.requests import read_requests
from balanceroute.report.prediction.result import BinResult, ClassifierResult, PredictionResult
from balanceroute.report.result import SimulationResult
from balanceroute.report.runs import POLICY_STREAM, group_info, run_policy
from balanceroute.report.workload import workload_info
from balanceroute.sim.config import SimConfig
from balanceroute.sim.warm import warm
from balanceroute.types import Workload
from balanceroute.workload import PRESETS, draw, head

DEFAULT_MAX_REQUESTS = 40_000  # of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """A classifier, tried on the later part of a trace beside others.

    Classifiers learn each request of the later part after they were asked about it, and in the
    simulations what the policy sees, as in use.

    Attributes
    ----------
    classifier : str
        Specification, or path of a saved classifier.
    source : str
        Preset or trace file, in order of arrival.
    config : SimConfig
        The group on which policies use the classifiers; saturated.
    horizon : int
        H, in steps, at least 1.
    fit_ratio : float
        Part of the requests that classifiers are fitted on, in (0, 1).
    format_name : str or None
        Format of the file; None detects it.
    num_requests : int or None
        First so many; None takes 40,000 of a file at most, 20,000 of a preset.
    seed, num_repeats : int
        The first seed, and how many seeds the simulations take from there on.
    """

    classifier: str
    source: str
    config: SimConfig
    horizon: int = 80
    fit_ratio: float = 0.5
    format_name: str | None = None
    num_requests: int | None = None
    seed: int = 0
    num_repeats: int = 1

    def __post_init__(self) -> None:
        checked_horizon(self.horizon)
        checked_fit_ratio(self.fit_ratio)
        if self.num_repeats < 1:
            raise ConfigError(f"--repeats must be at least 1, got {self.num_repeats}")
        if self.seed < 0:
            raise ConfigError(f"--seed must be at least 0, got {self.seed}")

    def run(self, on_progress: Progress | None = None) -> PredictionResult:
        """Fit, ask and simulate."""
        say = on_progress or (lambda _what, _done: None)
        candidate = find_candidate(self.classifier)
        trace, described = read_requests(
            self.source,
            format_name=self.format_name,
            num_requests=self.num_requests,
            default_requests=DEFAULT_MAX_REQUESTS,
            seed=self.seed,
            on_progress=partial(say, f"reading {self.source}"),
        )
        earlier, later = split_by_time(trace, self.fit_ratio)
        with tempfile.TemporaryDirectory(prefix="balanceroute-") as folder:
            contenders = [
                prepare(label, candidate, earlier, Path(folder, str(i)), partial(say, label))
                for i, label in enumerate(ladder(candidate))
            ]
            evaluations = [self._evaluate(each, later, say) for each in contenders]
            used = [each for each in contenders if each.label in (DEFAULT, candidate.label, BEST)]
            simulation = self._simulate(used, later, say)
        return PredictionResult(
            trace=described,
            num_earlier_requests=earlier.num_requests,
            num_later_requests=later.num_requests,
            classifier=candidate.label,
            is_saved=candidate.saved is not None,
            horizon=self.horizon,
            num_samples=evaluations[0].num_samples,
            end_ratio=evaluations[0].end_ratio,
            classifiers=tuple(map(_result, contenders, evaluations)),
            simulation=simulation,
        )

    def _evaluate(self, contender: Contender, later: Workload, say: Progress) -> Evaluation:
        classifier = make_classifier(
            contender.spec,
            rng=np.random.default_rng((self.seed, POLICY_STREAM)),
            output_tokens=later.output_tokens,
        )
        return evaluate(
            classifier,
            later,
            self.horizon,
            is_taught=True,
            on_progress=partial(say, f"ask {contender.label}"),
        )

    def _simulate(
        self, contenders: list[Contender], later: Workload, say: Progress
    ) -> SimulationResult:
        workload = self._served(later)
        specs = {}
        for policy, without in LOOKING_AHEAD.items():
            specs[without] = without
            for each in contenders:
                label = with_classifier(policy, each.label)
                specs[label] = with_classifier(policy, each.spec)
        for label, spec in specs.items():
            say(f"compiling {label}", 0.0)
            warm(spec, self.config)
        runs = [
            run_policy(
                spec,
                workload,
                self.config,
                seed=seed,
                label=label,
                on_progress=partial(say, f"{label}, seed {seed}"),
            )[0]
            for seed in range(self.seed, self.seed + self.num_repeats)
            for label, spec in specs.items()
        ]
        return SimulationResult(
            workload=workload_info(
                workload, None if self.source in PRESETS else later.num_requests
            ),
            group=group_info(self.config),
            runs=tuple(runs),
        )

    def _served(self, later: Workload) -> Workload:
        """Return as many requests as fill the slots some times, drawn anew if there are too few."""
        num_slots = self.config.num_ranks * self.config.num_slots
        if later.num_requests < FEWEST_SLOT_FILLS * num_slots:
            return draw(later, num_requests=SLOT_FILLS * num_slots, seed=self.seed)
        return replace(head(later, SLOT_FILLS * num_slots), arrival_s=None)


def _result(contender: Contender, evaluation: Evaluation) -> ClassifierResult:
    return ClassifierResult(
        classifier=contender.label,
        auc=evaluation.auc,
        brier=evaluation.brier,
        mae_steps=evaluation.mae_steps,
        bins=tuple(BinResult(**asdict(each)) for each in evaluation.bins),
    )
