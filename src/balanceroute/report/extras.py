"""The optional dependencies of the web page, Jinja2 and Plotly; nothing else imports them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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


def render_template(name: str, values: Mapping[str, object]) -> str:
    """Fill a template of `TEMPLATES`, escaping every value.

    Raises
    ------
    MissingExtraError
        If Jinja2 is not installed.
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
    return environment.get_template(name).render(values)
