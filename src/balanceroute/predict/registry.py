"""Classifiers by name."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balanceroute.errors import ConfigError
from balanceroute.predict import boosting
from balanceroute.predict.base import Classifier
from balanceroute.predict.exact_match import ExactMatch
from balanceroute.predict.files import SAVED, load, saved_name
from balanceroute.predict.learned import Learned
from balanceroute.predict.noisy_oracle import NoisyOracle
from balanceroute.predict.oracle import Oracle
from balanceroute.predict.survival import Survival
from balanceroute.specs import parse_setting, read_settings, unknown

BUILT_IN: dict[str, type[Any]] = {
    "survival": Survival,
    "exact_match": ExactMatch,
    "learned": Learned,
    "oracle": Oracle,
    "noisy_oracle": NoisyOracle,
}

GIVEN = ("rng", "output_tokens")  # arguments that come from the caller and not from the user


def classifier_names() -> list[str]:
    """Return the names of all classifiers.

    Examples
    --------
    >>> classifier_names()
    ['survival', 'exact_match', 'learned', 'oracle', 'noisy_oracle']
    """
    return list(BUILT_IN)


def is_saved(spec: str) -> bool:
    """Tell whether a specification names a file.

    Examples
    --------
    >>> is_saved("learned:model=x"), is_saved("learned:memory=9")
    (True, False)
    """
    return any(part.partition("=")[0].strip() == "model" for part in spec.split(":")[1:])


def make_classifier(
    spec: str,
    *,
    rng: np.random.Generator | None = None,
    output_tokens: NDArray[np.integer[Any]] | None = None,
) -> Classifier:
    """Build a classifier from ``NAME[:key=value…]``.

    Colons separate the settings, so that a specification can stand within one of a policy.

    Parameters
    ----------
    spec : str
        A name and settings of its constructor; or, for those that can be saved,
        ``NAME:model=FILE``.
    rng : numpy.random.Generator or None
        For classifiers that draw.
    output_tokens : integer array, shape (M,), or None
        Output lengths by request id, for the oracles.

    Returns
    -------
    Classifier
        A fresh one, or as it was saved.

    Raises
    ------
    ConfigError
        For an unknown name or setting (with the nearest known one), a value of the wrong kind or
        out of range, or an oracle where the lengths are not known.
    ModelError
        If the file cannot be read.
    MissingExtraError
        If a fresh `learned` has no scikit-learn to fit with.

    Examples
    --------
    >>> make_classifier("survival:by=global:memory=1000").settings
    {'by': 'global', 'memory': 1000, 'max_classes': 1024}
    >>> make_classifier("survivor")
    Traceback (most recent call last):
        ...
    balanceroute.errors.ConfigError: unknown classifier 'survivor'; did you mean 'survival'? Known:
    survival, exact_match, learned, oracle, noisy_oracle
    """
    name, *settings = (part.strip() for part in spec.split(":"))
    if name not in BUILT_IN:
        raise ConfigError(unknown("classifier", name, BUILT_IN))
    owner = f"classifier {name}"
    texts = read_settings(owner, settings, _known_settings(name))
    if "model" in texts:
        return _load(name, texts)
    if name == "learned":
        boosting.require()
    constructor: Any = BUILT_IN[name].__init__
    hints = typing.get_type_hints(constructor)
    arguments = {key: parse_setting(owner, key, text, hints[key]) for key, text in texts.items()}
    given = {"rng": rng, "output_tokens": output_tokens}
    for key in GIVEN:
        if key in hints:
            if given[key] is None:
                raise ConfigError(
                    f"{owner} needs {key}, which only a simulation or an evaluation has"
                )
            arguments[key] = given[key]
    try:
        classifier: Classifier = BUILT_IN[name](**arguments)
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from error
    return classifier


def _known_settings(name: str) -> list[str]:
    known = [key for key in inspect.signature(BUILT_IN[name]).parameters if key not in GIVEN]
    return [*known, "model"] if name in SAVED else known


def _load(name: str, texts: dict[str, str]) -> Classifier:
    if len(texts) > 1:
        raise ConfigError(
            f"classifier {name}: the settings come from the file {texts['model']}; leave out "
            + ", ".join(key for key in texts if key != "model")
        )
    classifier = load(Path(texts["model"]))
    if type(classifier) is not BUILT_IN[name]:
        raise ConfigError(
            f"{texts['model']} holds the classifier {saved_name(classifier)}, not {name}"
        )
    return classifier
