"""The classifiers of an examination: told apart by label, fitted once, and kept in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from balanceroute.errors import ConfigError, ModelError
from balanceroute.predict import Classifier, fit, load, make_classifier, save
from balanceroute.predict.evaluate import Progress
from balanceroute.predict.files import SAVED, saved_name
from balanceroute.predict.registry import classifier_names, is_saved
from balanceroute.specs import unknown
from balanceroute.types import Workload

PLAINEST, DEFAULT, BEST = "survival:by=global", "survival", "oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What was asked for.

    Attributes
    ----------
    label : str
        As a policy takes it: ``NAME[:key=value…]`` or ``NAME:model=FILE``.
    saved : Classifier or None
        The one in the file; None for a specification, which is fitted first.
    """

    label: str
    saved: Classifier | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A classifier that is tried.

    Attributes
    ----------
    label : str
        What it is called in the result.
    spec : str
        What `make_classifier` and policies build it from, fitted and fresh each time.
    """

    label: str
    spec: str


def find_candidate(text: str) -> Candidate:
    """Return what a specification or the path of a saved classifier stands for.

    A classifier's name wins over a file of the same name; write ``./NAME`` for the file.

    Raises
    ------
    ConfigError
        If there is neither such a classifier nor such a file, or a setting does not fit.
    ModelError
        If the file cannot be read.
    MissingExtraError
        If the classifier has to be fitted and its extra is not installed.

    Examples
    --------
    >>> find_candidate("survival : by=global").label
    'survival:by=global'
    >>> find_candidate("survivl")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: unknown classifier or file 'survivl'; did you mean 'survival'?
    Known: survival, exact_match, learned, oracle, noisy_oracle
    """
    name, *settings = (part.strip() for part in text.split(":"))
    if name in classifier_names():
        checked = make_classifier(
            text, rng=np.random.default_rng(0), output_tokens=np.ones(1, np.int64)
        )
        label = ":".join((name, *settings))
        return Candidate(label=label, saved=checked if is_saved(text) else None)
    try:
        saved = load(Path(text))
    except ModelError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise ConfigError(unknown("classifier or file", text, classifier_names())) from error
        raise
    return Candidate(label=f"{saved_name(saved)}:model={text}", saved=saved)


def ladder(candidate: Candidate) -> tuple[str, ...]:
    """Return the labels of all that are tried, from the plainest to the best.

    Examples
    --------
    >>> ladder(find_candidate("survival"))
    ('survival:by=global', 'survival', 'oracle')
    """
    return tuple(dict.fromkeys((PLAINEST, DEFAULT, candidate.label, BEST)))


def prepare(
    label: str,
    candidate: Candidate,
    earlier: Workload,
    path: Path,
    on_progress: Progress | None = None,
) -> Contender:
    """Fit a classifier to the earlier requests, unless it is a saved one, and keep it at `path`.

    An oracle is left as it is: it knows all from the start.
    """
    name = label.partition(":")[0]
    if name not in SAVED:
        return Contender(label=label, spec=label)
    if label == candidate.label and candidate.saved is not None:
        save(candidate.saved, path)
    else:
        save(fit(earlier, label, on_progress=on_progress), path)
    return Contender(label=label, spec=f"{name}:model={path}")
