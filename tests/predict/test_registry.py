"""Classifiers by name, with settings as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from balanceroute.errors import ConfigError, MissingExtraError
from balanceroute.predict import boosting, classifier_names, make_classifier, save
from balanceroute.predict.exact_match import ExactMatch
from balanceroute.predict.survival import Survival


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ("survival", {"by": "class", "memory": 50_000, "max_classes": 1024}),
        ("survival:by=global", {"by": "global", "memory": 50_000, "max_classes": 1024}),
        (" survival : memory = 9 ", {"by": "class", "memory": 9, "max_classes": 1024}),
        ("exact_match:max_prompts=7", {"memory": 50_000, "max_classes": 1024, "max_prompts": 7}),
    ],
)
def test_settings_reach_the_constructor(spec: str, settings: dict[str, str | int]) -> None:
    """Defaults elsewhere; spaces do not matter."""
    classifier = make_classifier(spec)
    assert isinstance(classifier, Survival | ExactMatch)
    assert settings == classifier.settings


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("survivl", "unknown classifier 'survivl'; did you mean 'survival'"),
        ("", "unknown classifier ''. Known: survival, exact_match, learned"),
        ("survival:bye=global", "unknown setting 'bye' for classifier survival; did you mean 'by'"),
        ("survival:by", "unknown setting 'by' for classifier survival"),
        ("survival:by=tenant", "classifier survival: by must be one of class, global"),
        ("survival:memory=1:memory=2", "setting 'memory' is given twice"),
        ("survival:memory=1.5", "setting memory must be of type int, got '1.5'"),
        ("survival:memory=0", "classifier survival: memory must be at least 1, got 0"),
        ("survival:max_classes=0", "classifier survival: max_classes must be at least 1, got 0"),
        ("survival:max_classes=9999999", "max_classes must be at most 1,048,576, got 9,999,999"),
        ("exact_match:max_prompts=9999999", "max_prompts must be at most 1,048,576"),
        (f"survival:memory={10**40}", "memory must be at most 1,000,000,000,000,000,000, got 1"),
        ("noisy_oracle:error=much", "setting error must be of type float or none, got 'much'"),
        ("oracle", "needs output_tokens, which only a simulation or an evaluation has"),
        ("oracle:model=x", "unknown setting 'model' for classifier oracle. Known: none"),
        ("noisy_oracle:rng=3", "unknown setting 'rng' for classifier noisy_oracle"),
    ],
)
def test_what_cannot_be_built(spec: str, message: str) -> None:
    """The nearest name, the kind asked for, or what is missing."""
    with pytest.raises(ConfigError, match=message):
        make_classifier(spec)


def test_every_name_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what only a caller can give; `learned` needs its extra not before it fits."""
    monkeypatch.setattr(boosting, "is_installed", lambda: True)
    rng, lengths = np.random.default_rng(0), np.array([3, 4])
    for name in classifier_names():
        spec = f"{name}:auc=0.7" if name == "noisy_oracle" else name
        make_classifier(spec, rng=rng, output_tokens=lengths)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not when the first fit is due."""
    monkeypatch.setattr(boosting, "is_installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"pip install 'balanceroute\[learned\]'"):
        make_classifier("learned")


def test_a_saved_classifier_is_taken_by_name(tmp_path: Path) -> None:
    """The file has the settings, and must hold what the name says."""
    path = tmp_path / "model"
    save(Survival(by="global", memory=5), path)
    classifier = make_classifier(f"survival:model={path}")
    assert isinstance(classifier, Survival)
    assert {"by": "global", "memory": 5, "max_classes": 1024} == classifier.settings
    with pytest.raises(ConfigError, match="model holds the classifier survival, not exact_match"):
        make_classifier(f"exact_match:model={path}")
    with pytest.raises(ConfigError, match=r"the settings come from the file .*; leave out memory"):
        make_classifier(f"survival:model={path}:memory=7")
