"""deploy/kubernetes, which is rendered from the chart, against what the router does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from balanceroute.cli.epp import GRPC_PORT
from balanceroute.live.kubernetes.client import GROUP, POOLS
from balanceroute.live.reading import read_config
from balanceroute.live.services import LIVENESS, READINESS

ROOT = Path(__file__).parents[2]
FILES = {"epp.yaml": "epp", "router.yaml": "serve"}


def objects(name: str) -> dict[tuple[str, str], Any]:
    """Return a file's objects by kind and name."""
    text = (ROOT / "deploy" / "kubernetes" / name).read_text()
    found = [msgspec.yaml.decode(part) for part in re.split(r"^---$", text, flags=re.MULTILINE)[1:]]
    return {(its["kind"], its["metadata"]["name"]): its for its in found}


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pod_of(name: str) -> Any:
    return objects(name)["Deployment", "balanceroute"]["spec"]["template"]["spec"]


def test_the_settings_are_those_of_the_router(name: str, tmp_path: Path) -> None:
    """They can be read, and look where the Service and the pool of the same file are."""
    its = objects(name)
    path = tmp_path / "settings.yaml"
    path.write_text(its["ConfigMap", "balanceroute"]["data"]["settings.yaml"])
    config = read_config(path, {}, is_picker=FILES[name] == "epp")
    assert "0.0.0.0" == config.host  # noqa: S104  # what is served in a pod
    assert its["Service", config.kubernetes_service or ""]["spec"]["clusterIP"] == "None"
    assert pod_of(name)["terminationGracePeriodSeconds"] > config.shutdown_timeout_secs + 5
    if FILES[name] == "serve":
        assert config.kubernetes_pool is None
        return
    pool = its["InferencePool", config.kubernetes_pool or ""]["spec"]
    ranks = its["Service", config.kubernetes_service or ""]["spec"]
    assert pool["selector"]["matchLabels"] == ranks["selector"]
    assert [its["number"] for its in pool["targetPorts"]] == [its["port"] for its in ranks["ports"]]
    assert {"balanceroute", GRPC_PORT} == {
        pool["endpointPickerRef"]["name"],
        pool["endpointPickerRef"]["port"]["number"],
    }
    assert GRPC_PORT == config.grpc_port


def test_no_more_is_allowed_than_is_asked_for(name: str) -> None:
    """To list and watch slices, and the one pool."""
    its = objects(name)
    rules = its["Role", "balanceroute"]["rules"]
    slices = {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    }
    pool = {
        "apiGroups": [GROUP],
        "resources": [POOLS],
        "resourceNames": ["balanceroute-ranks"],
        "verbs": ["list", "watch"],
    }
    assert ([slices, pool] if FILES[name] == "epp" else [slices]) == rules
    assert "ClusterRole" not in {kind for kind, _ in its}
    subject = its["RoleBinding", "balanceroute"]["subjects"][0]["name"]
    assert pod_of(name)["serviceAccountName"] == subject


def test_containers_are_confined(name: str) -> None:
    """No root, no privileges, nothing to be written but what is mounted, and limits of memory."""
    pod = pod_of(name)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    for its in (*pod["initContainers"], *pod["containers"]):
        confined = its["securityContext"]
        assert confined["readOnlyRootFilesystem"]
        assert not confined["allowPrivilegeEscalation"]
        assert ["ALL"] == confined["capabilities"]["drop"]
        assert "memory" in its["resources"]["limits"]
        assert {"cpu", "memory"} == set(its["resources"]["requests"])
    written = {its["mountPath"] for its in pod["containers"][0]["volumeMounts"]}
    cache = {its["name"]: its["value"] for its in pod["containers"][0]["env"]}["NUMBA_CACHE_DIR"]
    assert {cache, "/tmp"} <= written  # noqa: S108  # of the pod


def test_probes_ask_for_what_is_answered(name: str) -> None:
    """The picker over gRPC, by the names that it knows; the router over HTTP."""
    its = pod_of(name)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in its["ports"]}
    assert {"path": "/liveness", "port": "http"} == its["startupProbe"]["httpGet"]
    for probe, service in (("livenessProbe", LIVENESS), ("readinessProbe", READINESS)):
        if FILES[name] == "epp":
            assert {"port": ports["grpc"], "service": service} == its[probe]["grpc"]
        else:
            assert {"path": f"/{service}", "port": "http"} == its[probe]["httpGet"]


def test_labels_meet(name: str) -> None:
    """Service, Deployment and PodDisruptionBudget mean the same pods, of which there is one."""
    its = objects(name)
    spec = its["Deployment", "balanceroute"]["spec"]
    selectors = [
        spec["selector"]["matchLabels"],
        its["Service", "balanceroute"]["spec"]["selector"],
        its["PodDisruptionBudget", "balanceroute"]["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector == selectors[0]
        assert selector.items() <= spec["template"]["metadata"]["labels"].items()
    assert 1 == spec["replicas"]


def test_the_image_has_what_the_pod_uses() -> None:
    """The Dockerfile's user, paths and ports are those of the manifests."""
    image = (ROOT / "Dockerfile").read_text()
    pod = pod_of("epp.yaml")
    assert f"USER {pod['securityContext']['runAsUser']}:" in image
    assert f"NUMBA_CACHE_DIR={pod['initContainers'][0]['command'][2].removesuffix('/.')} " in image
    ports = " ".join(str(port["containerPort"]) for port in pod["containers"][0]["ports"])
    assert f"EXPOSE {ports}" in image
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.MULTILINE)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
