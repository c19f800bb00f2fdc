"""What stands in the page's script elements: data as JSON that no markup can leave, and the only code that may run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.core import home
from tasks.reporting.charts.svg import vega_lite
from tasks.reporting.files import write_files

_NOTICE = (
    "/*! Vega {vega}, Vega-Lite {lite} and Vega-Embed {embed}: copyright University of Washington Interactive Data "
    "Lab, BSD-3-Clause; with D3, copyright Mike Bostock, ISC. */\n"
)


def script_json(value: Any) -> str:
    """``value`` as JSON in ASCII without ``<``, ``>`` or ``&``, so that neither ``</script>`` nor ``<!--`` nor a line
    separator can stand in it. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def script_code(source: str) -> str:
    """``source`` as it may stand in a script element: what HTML would read in its literals is written otherwise (HTML
    standard, 4.12.1.3), and line ends are those that a browser hashes."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", source, flags=re.IGNORECASE)


@cache
def own_code(name: str) -> str:
    """A script of this folder."""
    return script_code((Path(__file__).parent / name).read_text(encoding="utf-8"))


@cache
def vega_code() -> str:
    """Vega-Embed with all that it needs, under the global name ``vegaEmbed``: bundled once for a state folder (1.2 s),
    then read from it."""
    import vl_convert

    versions = {"vega": vl_convert.get_vega_version(), "embed": vl_convert.get_vega_embed_version()}
    lite, converter = vega_lite(), version("vl-convert-python")
    kept = home.subfolder("scripts") / f"vega-{'-'.join([*versions.values(), lite, converter])}.js"
    if kept.is_file():
        bundle = kept.read_text(encoding="utf-8")
    else:
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=lite)
        with suppress(OSError):  # it can be made again
            write_files(kept.parent, {kept.name: bundle.encode()})
    return script_code(f"{_NOTICE.format(lite=lite, **versions)}(() => {{{bundle}}})();")


def content_policy(codes: Sequence[str]) -> str:
    """A Content-Security-Policy under which only ``codes`` run, nothing is evaluated and nothing is fetched."""
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in codes]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
