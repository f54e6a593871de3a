"""Sphinx configuration; `make docs` builds with warnings as errors."""

from importlib.metadata import version as installed_version

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
