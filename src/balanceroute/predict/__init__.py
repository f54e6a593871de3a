"""Termination classifiers: who ends when.

A classifier learns from the requests that a router sees and says which of those that run or wait
end within so many steps.
"""

from balanceroute.predict.base import Classifier, Requests, expected_steps, requests_of
from balanceroute.predict.checked import Checked
from balanceroute.predict.evaluate import Bin, Evaluation, evaluate, fit, split_by_time
from balanceroute.predict.files import load, save
from balanceroute.predict.registry import classifier_names, make_classifier

__all__ = [
    "Bin",
    "Checked",
    "Classifier",
    "Evaluation",
    "Requests",
    "classifier_names",
    "evaluate",
    "expected_steps",
    "fit",
    "load",
    "make_classifier",
    "requests_of",
    "save",
    "split_by_time",
]
