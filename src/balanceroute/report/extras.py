"""The optional dependencies of the web page, Jinja2 and Plotly; nothing else imports them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from balanceroute import __version__
from balanceroute.errors import MissingExtraError

TEMPLATES = Path(__file__).parent / "templates"

_CURE = "install it with: pip install 'balanceroute[report]'"


def plotly_js() -> str:
    """Return the source of plotly.js, for a page that loads nothing from elsewhere.

    Raises
    ------
    MissingExtraError
        If Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError(f"the HTML report needs Plotly; {_CURE}") from error
    source: str = get_plotlyjs()
    return source


def render_page(
    name: str, values: Mapping[str, object], plots: Mapping[str, Mapping[str, object]]
) -> str:
    """Fill a page of `TEMPLATES`, escaping every value.

    Parameters
    ----------
    name : str
        A template that extends ``page.html.jinja``.
    values : mapping
        What it and that one name: `title`, `subtitle`, `schema`, `caveat` and its own.
    plots : mapping of str to mapping
        Data and layout of each drawing by its id, as Plotly takes them.

    Raises
    ------
    MissingExtraError
        If Jinja2 or Plotly is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError(f"the HTML report needs Jinja2; {_CURE}") from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {
        "version": __version__,
        "style": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "report.js").read_text(encoding="utf-8"),
        "plotly": plotly_js(),
        "plots": plots,
    }
    return environment.get_template(name).render({**values, **shared})
