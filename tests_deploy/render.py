"""Writes deploy/kubernetes anew from the chart, with Helm's own engine: `make manifests`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART, MANIFESTS = DEPLOY / "helm" / "balanceroute", DEPLOY / "kubernetes"
FILES = {"epp.yaml": "epp", "router.yaml": "serve"}
HEAD = "# Written by `make manifests` from deploy/helm/balanceroute; change the chart.\n"


def rendered(values: dict[str, Any]) -> dict[str, str]:
    """Return each template's text; those that give nothing, and the notes, are left out."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name="balanceroute", namespace="default")
    return {
        name.rpartition("/")[2]: text.strip() + "\n"
        for name, text in sorted(texts.items())
        if name.endswith(".yaml") and text.strip()
    }


def manifest(mode: str) -> str:
    """Return a file for `kubectl apply`, which Helm does not manage."""
    parts = rendered({"mode": mode}).values()
    whole = HEAD + "".join(f"---\n{part}" for part in parts)
    return whole.replace("managed-by: Helm", "managed-by: kubectl")


def main() -> None:
    """Write the files."""
    for name, mode in FILES.items():
        (MANIFESTS / name).write_text(manifest(mode))


if __name__ == "__main__":
    main()
