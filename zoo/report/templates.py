"""The environment of the report's templates, which escape every value they print."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from zoo.report.words import conjunction

HERE = Path(__file__).parent


def environment() -> jinja2.Environment:
    """A new environment of the templates beside this module."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["conjunction"] = conjunction
    return templates


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no request, no script


def style() -> Markup:
    """The style sheet of the pages."""
    return Markup((HERE / "report.css").read_text("utf-8"))


def iframe(title: str, page: str, height: int = 720) -> str:
    """A page as one element, for a notebook's `_repr_html_`; height in CSS pixels."""
    element = Markup(
        '<iframe title="{}" sandbox="allow-scripts allow-popups" srcdoc="{}" '
        'style="width: 100%; height: {}px; border: 0"></iframe>'
    )
    return str(element.format(title, page, height))
