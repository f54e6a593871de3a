"""The result document ``balanceroute.prediction.v1``; `docs/predict.md` describes it.

Fields may be added within version 1, so readers skip those that they do not know; none is renamed,
removed or given another meaning.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from balanceroute.files import indented_json
from balanceroute.report.result import SimulationResult
from balanceroute.report.workload import WorkloadInfo

SCHEMA: Literal["balanceroute.prediction.v1"] = "balanceroute.prediction.v1"


class BinResult(msgspec.Struct, frozen=True, kw_only=True):
    """Samples with p within one tenth of [0, 1].

    Attributes
    ----------
    number : int
        Which tenth, 0 to 9; tenths without samples are left out.
    num_samples : int
        How many samples there are.
    mean_prob, end_ratio : float
        Their mean p, and the share of them that ended; equal if calibrated.
    """

    number: int
    num_samples: int
    mean_prob: float
    end_ratio: float


class ClassifierResult(msgspec.Struct, frozen=True, kw_only=True):
    """How well one classifier tells who ends within the horizon.

    Attributes
    ----------
    classifier : str
        As a policy takes it.
    auc : float or None
        Probability that a sample that ends has a larger p than one that does not; higher is better,
        0.5 is chance. None if all end or none does.
    brier : float
        Mean of (p - outcome)²; lower is better.
    mae_steps : float
        Mean distance of ĉ from min(remaining, H), in steps; lower is better.
    bins : tuple of BinResult
        The calibration curve.
    """

    classifier: str
    auc: float | None
    brier: float
    mae_steps: float
    bins: tuple[BinResult, ...]


class PredictionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one classifier on one trace, beside others.

    Attributes
    ----------
    schema : str
        Name and version of this document.
    trace : WorkloadInfo
        The requests, both parts together.
    num_earlier_requests, num_later_requests : int
        How they were split: fitted on, and asked about.
    classifier : str
        The one that was asked for, as in `classifiers`.
    is_saved : bool
        Whether it came from a file. Then it learnt nothing of the earlier part here.
    horizon : int
        H, in steps.
    num_samples : int
        Requests at ages, as a router finds them running, that each classifier was asked about.
    end_ratio : float
        Share of them that end within H.
    classifiers : tuple of ClassifierResult
        From the simplest to the oracle.
    simulation : SimulationResult
        Policies with these classifiers on requests of the later part.
    """

    schema: Literal["balanceroute.prediction.v1"] = SCHEMA
    trace: WorkloadInfo
    num_earlier_requests: int
    num_later_requests: int
    classifier: str
    is_saved: bool
    horizon: int
    num_samples: int
    end_ratio: float
    classifiers: tuple[ClassifierResult, ...]
    simulation: SimulationResult

    def name_of(self, classifier: str) -> str:
        """Return a classifier's name as tables have room for it, less the path of a saved one."""
        is_long = self.is_saved and classifier == self.classifier
        return f"{classifier.partition(':')[0]} (saved)" if is_long else classifier

    @property
    def shown(self) -> tuple[ClassifierResult, ...]:
        """Return those whose calibration is shown: the one asked for and the plainest."""
        names = (self.classifiers[0].classifier, self.classifier)
        return tuple(each for each in self.classifiers if each.classifier in names)


def to_json(result: PredictionResult) -> bytes:
    """Encode a result as indented JSON that ends in a line feed, fields in the order above."""
    return indented_json(result)
