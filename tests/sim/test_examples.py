"""Every example prints what its docstring says that it prints."""

from __future__ import annotations

import ast
import runpy
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
MARK = "rints:\n\n"
IS_TESTED_ELSEWHERE = ("demo.py", "ray_serve.py")  # `make demo`, `make test-ray`


def promised(path: Path) -> str:
    """Return the indented block that ends an example's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert MARK in docstring, f"{path.name}: the docstring must end with what the example prints"
    return textwrap.dedent(docstring.partition(MARK)[2]).strip("\n")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name)
        for path in sorted(EXAMPLES.glob("*.py"))
        if path.name not in IS_TESTED_ELSEWHERE
    ],
)
def test_examples_print_what_they_promise(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An example run as a script prints the block at the end of its docstring."""
    runpy.run_path(str(path), run_name="__main__")
    assert promised(path) == capsys.readouterr().out.rstrip("\n")
