"""The report as one self-contained HTML file: no script, no network; everything from models and data is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.reporting.document import Document

if TYPE_CHECKING:
    from jinja2 import Template


def render_html(document: Document) -> str:
    """The page. Autoescape is on; only the SVG that we drew ourselves goes in as it is."""
    return _template().render(document=document)


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2")
