"""From a Vega-Lite specification to SVG inside a page: text stays text, ink follows the page, equal input gives equal
bytes."""

from __future__ import annotations

import html
import json
import math
import re
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.reporting.charts.engine import Engine

WIDTH = 367
"""Units of every drawing: on a phone of 390 px its text keeps its size."""

_WIDER = 1.15
"""Fonts are laid out so much larger than they are drawn: the font of a page's reader may be wider than ours."""

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 has no way to write; a file's name may hold them, and vl-convert dies of them."""

_UNSEEN = re.compile(r'<path class="(?:back|fore)ground"[^<>]*></path>|<path class="(?:back|fore)ground"[^<>]*/>')
"""Frames of groups; ours have neither fill nor stroke."""

_IDLE = re.compile(r' (?:class|role|aria-[a-z]+|pointer-events|font-family|stroke-miterlimit)="[^"]*"| opacity="1"')
"""Attributes that nothing on the page reads, or that the root has for all."""


RESERVED = 48 * 2**30
"""Bytes of addresses that the drawing engine (V8) reserves, and somewhat more; of memory it takes a few hundred MB."""


def addresses_left() -> float:
    """Bytes of addresses that this process may still reserve (``ulimit -v``); inf where nothing limits them."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return float(limit - used)


def inline_svg(key: str, label: str, spec: dict[str, Any]) -> str:
    """Draw ``spec`` in this process and return SVG to stand inside a page, its ids begun with ``key``.

    Where the process may not reserve the addresses that the engine wants, which would end it, two lines say so instead.
    """
    if addresses_left() < RESERVED:
        return _not_drawn(label)
    text = json.dumps(_written(spec), allow_nan=False)
    asked = _asked.pop(text, None) or (_engine.ask(text) if _engine else None)
    svg = _within(PATIENCE, asked) if asked else None
    return _inline(svg or _drawn(text), key, writable(label))


PATIENCE = 60.0
"""Seconds for the engine's process, before a drawing is made in this one."""

_engine: Engine | None = None
_asked: dict[str, Future[str]] = {}


def start_engine() -> None:
    """Start the engine's process, to be ready when there is something to draw. Without it drawings are made here."""
    global _engine
    if _engine is None and addresses_left() >= RESERVED:
        with suppress(OSError):
            _engine = Engine(vega_lite())


def draw_ahead(spec: dict[str, Any]) -> None:
    """Have the engine's process, where there is one, draw what `inline_svg` will be asked for."""
    if _engine is not None:
        text = json.dumps(_written(spec), allow_nan=False)
        _asked[text] = _engine.ask(text)


def _within(seconds: float, asked: Future[str]) -> str | None:
    """What was asked of the engine's process; None where it has ended, or hangs."""
    try:
        return asked.result(seconds)
    except (OSError, ValueError, TimeoutError):
        return None


def _drawn(text: str) -> str:
    import vl_convert

    return vl_convert.vegalite_to_svg(text, vl_version=vega_lite())


def _not_drawn(label: str) -> str:
    lines = (
        "Not drawn: the limit on this process's addresses (ulimit -v)",
        "is below what drawing needs. The CSV has the numbers.",
    )
    texts = "".join(
        f'<text x="8" y="{18 + 16 * place}" font-size="10px" fill="currentColor">{line}</text>'
        for place, line in enumerate(lines)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} 44" role="img" aria-label="{html.escape(writable(label))}" '
        f'font-family="sans-serif" xmlns="http://www.w3.org/2000/svg">{texts}</svg>'
    )


def vega_lite() -> str:
    """The newest version of Vega-Lite that vl-convert has."""
    import vl_convert

    return max(vl_convert.get_vegalite_versions(), key=lambda version: [int(part) for part in version.split(".")])


def writable(text: str) -> str:
    """``text`` without what XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _written(part: Any) -> Any:
    """A specification in which every text is `writable` and every font `_WIDER`."""
    if isinstance(part, dict):
        return {
            name: value * _WIDER if name.lower().endswith("fontsize") else _written(value)
            for name, value in part.items()
        }
    if isinstance(part, list | tuple):
        return [_written(value) for value in part]
    return writable(part) if isinstance(part, str) else part


def _inline(svg: str, key: str, label: str) -> str:
    """Without fixed size and idle attributes; numbers to two places; ids that no other drawing of the page has (Vega
    counts them through the process)."""
    opening, body = svg.split(">", 1)
    ids: dict[str, str] = {}
    body = re.sub(r"<[^<>]*>", lambda tag: _lean(tag.group()), _UNSEEN.sub("", body))
    body = re.sub(
        r'(<[^<>]* id="|href="#|url\(#)([\w-]+)',
        lambda found: found[1] + ids.setdefault(found[2], f"{key}-{len(ids)}"),
        body,
    )
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', opening)
    assert box is not None
    width, height = (math.ceil(float(side)) for side in box.groups())
    return (
        f'<svg viewBox="0 0 {max(width, WIDTH)} {height}" role="img" aria-label="{html.escape(label)}" '
        f'font-family="sans-serif" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    ).strip()


def _lean(tag: str) -> str:
    tag = re.sub(r'font-size="([\d.]+)px"', lambda found: f'font-size="{float(found[1]) / _WIDER:.3g}px"', tag)
    return re.sub(r"-?\d+\.\d{3,}(?:e-?\d+)?", lambda found: f"{float(found.group()):.2f}", _IDLE.sub("", tag))
