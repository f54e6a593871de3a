from __future__ import annotations

from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests_deploy.render import CHART, FILES, MANIFESTS, manifest, rendered

OWN_KINDS = ("InferencePool",)  # of the Gateway API Inference Extension, whose schema is not here
VERSIONS = ("1.32", "1.37")
FULL: dict[str, Any] = {
    "image": {"repository": "models/balanceroute", "tag": "abc", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "pull"}],
    "ranks": {"selector": {"app": "x", "role": "decode"}, "targetPorts": [1, 2], "perPort": 4},
    "settings": {"policy": "br_0", "slots": 72, "shutdown_timeout_secs": 1.5},
    "failureMode": "FailClose",
    "secretName": "keys",
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
BARE: dict[str, Any] = {"podDisruptionBudget": {"enabled": False}}


def test_helm_has_nothing_to_say_against_the_chart() -> None:
    """Neither errors nor warnings, by its own lint."""
    found = helm_python.lint(str(CHART))
    assert ([], []) == (found["messages"], found["errors"])


@pytest.mark.parametrize("mode", ["epp", "serve"])
@pytest.mark.parametrize("values", [{}, FULL, BARE], ids=["default", "full", "bare"])
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_rendered_is_what_kubernetes_knows(
    mode: str, values: dict[str, Any], version: str
) -> None:
    """By the schemas that Kubernetes publishes, with no field that they do not name."""
    kinds = []
    for text in rendered(values | {"mode": mode}).values():
        for its in yaml.safe_load_all(text):
            kinds.append(its["kind"])
            if its["kind"] not in OWN_KINDS:
                kubernetes_validate.validate(its, version, strict=True)
    assert ("InferencePool" in kinds) == (mode == "epp")
    assert ("PodDisruptionBudget" in kinds) == (values is not BARE)


@pytest.mark.parametrize("name", FILES)
def test_the_manifests_are_those_of_the_chart(name: str) -> None:
    """Else `make manifests` is due."""
    assert manifest(FILES[name]) == (MANIFESTS / name).read_text()


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "both"},
        {"replicas": 2},
        {"ranks": {"targetPorts": list(range(1, 10))}},
        {"ranks": {"selector": {"app": ""}, "targetPorts": []}},
        {"settings": {"worker_urls": ["http://10.0.0.1:8000"]}},
        {"settings": {"admin_token": "secret"}},
        {"failureMode": "Open"},
    ],
)
def test_values_that_are_none_are_refused(values: dict[str, Any]) -> None:
    """By the chart's schema, before anything is made."""
    with pytest.raises(helm_python.HelmError):
        rendered(values)
