"""Sphinx configuration; `make docs` builds with warnings as errors."""

from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

project = "BalanceRoute"
copyright = "the BalanceRoute authors"
version = release = installed_version("balanceroute")

extensions = ["myst_parser"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3  # so that [text](page.md#heading) resolves
exclude_patterns = ["_build"]
# The contents list pages in reading order by pattern; one without a page is left out.
suppress_warnings = ["toc.empty_glob"]

html_theme = "furo"  # follows the reader's light or dark setting
html_title = f"BalanceRoute {release}"

PICTURES = Path(__file__).parent / "_pictures"  # by `make screenshots`; not kept with the source
PLACE = "<!-- pictures -->"


def show_pictures(_: Sphinx, page: str, source: list[str]) -> None:
    """Put the pictures that there are where a page has a place for them."""
    if page == "operating":
        shown = []
        for path in sorted(PICTURES.glob("dashboard-*.png")):
            width, scheme = path.stem.split("-")[1:]
            shown.append(f"![The live page, {width} pixels wide, {scheme}](_pictures/{path.name})")
        source[0] = source[0].replace(PLACE, "\n\n".join(shown))


def setup(app: Sphinx) -> None:
    """Have pages changed before they are read."""
    app.connect("source-read", show_pictures)
