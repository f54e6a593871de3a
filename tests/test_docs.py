"""The examples in README.md and docs/ print what they show."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?:python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def interactive_examples() -> list[object]:
    """Return each page's path and its fenced `>>>` examples, joined."""
    found: list[object] = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        blocks = FENCE.findall(page.read_text(encoding="utf-8"))
        examples = "\n".join(block for block in blocks if ">>> " in block)
        if examples:
            name = str(page.relative_to(ROOT))
            found.append(pytest.param(name, examples, id=name))
    return found


@pytest.mark.parametrize(("page", "examples"), interactive_examples())
def test_examples_print_what_they_show(page: str, examples: str) -> None:
    """Every example gives the output below it; a page's examples share their names."""
    test = doctest.DocTestParser().get_doctest(examples, {}, page, page, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    result = runner.run(test, out=report.append)
    assert result.failed == 0, "".join(report)
