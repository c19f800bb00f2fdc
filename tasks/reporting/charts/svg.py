"""From a drawing to SVG inside a page: text stays text, ink follows the page, equal drawings give equal bytes."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#010203", "#040506", "#070809"
"""Stand-ins: in the SVG they become ``currentColor`` and the page's ``--faint`` and ``--paper``."""

WIDTH = 5.1
"""Inches; 367 units at 72 to the inch: on a phone of 390 px the text keeps its size."""

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML 1.0 has no way to write; a file's name may hold them."""

_RC: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a run's name may hold a dollar sign
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def inline_svg(key: str, label: str, height: float, draw: Callable[[Figure], None]) -> str:
    """Draw on a canvas of `WIDTH` x ``height`` inches and return SVG to stand inside a page.

    No pyplot and no global state but the rc context; ids depend on the drawing only, so equal tables give equal bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_RC, "svg.hashsalt": key}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # A name in a script that matplotlib's font has not: the page's reader draws it with a font of its own.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", _inline(buffer.getvalue(), key, label))


def _inline(svg: str, key: str, label: str) -> str:
    """Without prolog and fixed size; ids made unique in the page; stand-in colours replaced by the page's."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{key}-", body)
    body = body.replace(INK, "currentColor").replace(FAINT, "var(--faint)").replace(PAPER, "var(--paper)")
    opening = re.search(r'viewBox="[^"]+"', body)
    assert opening is not None
    attributes = f'{opening.group()} role="img" aria-label="{html.escape(label)}" xmlns="http://www.w3.org/2000/svg"'
    return f'<svg {attributes} xmlns:xlink="http://www.w3.org/1999/xlink">{body[body.index(">") + 1 :]}'.strip()
