"""Every row of docs/equations.md leads to code and tests that exist."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
# Names in backquotes, then "in", then a link to a Python file.
ITEM = re.compile(r"((?:`\w+`(?:, )?)+) in \[[^\]]+\]\(([^)#]+\.py)\)")


def test_functions_and_tests_are_where_the_page_says() -> None:
    """Each name is defined in the file beside it."""
    page = (DOCS / "equations.md").read_text(encoding="utf-8")
    items = ITEM.findall(page)
    missing = [
        f"{name} in {path}"
        for names, path in items
        for name in re.findall(r"\w+", names)
        if not re.search(
            rf"^\s*(?:def|class) {name}\b", (DOCS / path).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert len(items) > 80
    assert [] == missing
