"""The report as one self-contained HTML file: no network; everything from models and data is escaped.

Figures and tables stand without a script; scripts add the charts that answer to a reader, and the downloads.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.visible import uncontrolled
from tasks.reporting.render.condense import condensed, warned
from tasks.reporting.render.document import Document
from tasks.reporting.render.scripts import content_policy, own_code, script_json, vega_code

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST_CAPTION = 240
"""Characters of a caption that stands open: about two lines."""


def render_html(document: Document) -> str:
    """The page. Autoescape is on; only the SVG that we drew and the scripts that we wrote go in as they are, data for
    scripts as JSON without markup. Its Content-Security-Policy lets no other script run."""
    data, codes = (
        [("figure-numbers", script_json({picture.key: picture.data for picture in document.drawn}))],
        [own_code("report.js")],
    )
    if document.explore is not None:
        data.append(("explore-data", script_json(document.explore.data)))
        codes += [vega_code(), own_code("explore.js")]
    return _template().render(
        document=document, data=data, codes=codes, policy=content_policy(codes), longest=LONGEST_CAPTION
    )


def _readable(value: object) -> object:
    """What is data, without the control characters that a browser does not show and a terminal obeys."""
    return uncontrolled(value) if type(value) is str else value


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"condensed": condensed, "warned": warned}
    return environment.get_template("report.html.j2")
