"""What axe-core finds wrong with a page: contrast, names, roles, order; WCAG 2.1, A and AA."""

from __future__ import annotations

from importlib import resources

import pytest

from tests.live.browser import Page

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
RUN = """axe.run({ runOnly: %s }).then((found) => ({
  faults: found.violations.flatMap((rule) => rule.nodes.map(
    (node) => `${rule.id}: ${node.target}: ${node.failureSummary}`)),
  passed: found.passes.map((rule) => rule.id),
}))"""


async def faults_of(page: Page) -> list[str]:
    """Return what is wrong, where; contrast has been looked at for sure."""
    package = pytest.importorskip("axe_core_python")
    await page.run(resources.files(package).joinpath("axe.min.js").read_text() + "; 0")
    found = await page.run(RUN % TAGS)
    assert "color-contrast" in found["passed"], found
    faults: list[str] = found["faults"]
    return faults
