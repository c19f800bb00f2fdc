"""A page as files: HTML, Markdown, its figures and its chief tables, for viewers of MLflow and Prefect, and slides."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

import polars as pl

from tasks.core.visible import uncontrolled
from tasks.reporting.charts.picture import Picture
from tasks.reporting.render.document import Document
from tasks.reporting.render.html import render_html
from tasks.reporting.render.markdown import render_markdown
from tasks.reporting.tables.views import Table

TABLES = (
    "headline",
    "claims",
    "open-questions",
    "claims-not-measured",
    "accuracy",
    "mcnemar",
    "cosines",
    "truncation",
    "soups",
    "trajectories",
)
"""Keys of the tables that are files as well; a viewer of artifacts shows a CSV file as a table."""

_LIGHT = {"currentColor": "#1b1f24", "var(--faint)": "#aab2bb", "var(--rule)": "#dfe3e8", "var(--paper)": "#ffffff"}
_SCALE = 2
"""Pixels of the PNG a unit of the drawing, whose text is 10 units high."""


def page_files(document: Document) -> dict[str, bytes]:
    """``report.html``, which is first, and ``report.md``."""
    return {"report.html": render_html(document).encode(), "report.md": render_markdown(document).encode()}


def figure_files(pictures: Iterable[Picture]) -> dict[str, bytes]:
    """``figures/KEY.svg`` and ``figures/KEY.png`` of every figure, dark on white whatever the page is read on."""
    import vl_convert

    files: dict[str, bytes] = {}
    for picture in pictures:
        svg = standalone(picture.svg)
        files[f"figures/{picture.key}.svg"] = svg.encode()
        files[f"figures/{picture.key}.png"] = vl_convert.svg_to_png(svg, scale=_SCALE)
    return files


def standalone(svg: str) -> str:
    """A drawing of the page as a file of its own: its colours named, its background white, its size written down."""
    for word, colour in _LIGHT.items():
        svg = svg.replace(word, colour)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None  # as `tasks.reporting.charts.svg` writes it
    width, height = box.groups()
    opening, rest = svg.split(">", 1)
    return f'{opening} width="{width}" height="{height}"><rect width="{width}" height="{height}" fill="#ffffff"/>{rest}'


def table_files(document: Document) -> dict[str, bytes]:
    """``tables/KEY.csv`` of the tables of `TABLES` that have rows."""
    chosen = {table.key: table for table in document.tables if table.rows}
    return {f"tables/{key}.csv": table_csv(chosen[key]).encode() for key in TABLES if key in chosen}


def table_csv(table: Table) -> str:
    """RFC 4180, as the page's own download has it: what qualifies a cell stands in a column of its own, and a text that
    a spreadsheet would run as a formula gets an apostrophe."""
    qualified = [any(row[place].subs for row in table.rows) for place in range(len(table.header))]
    header = [
        name
        for title, more in zip(table.header, qualified, strict=True)
        for name in ((title, f"{title} (detail)") if more else (title,))
    ]
    rows = [
        [
            text
            for cell, more in zip(row, qualified, strict=True)
            for text in ((cell.text, "; ".join(cell.subs)) if more else (cell.text,))
        ]
        for row in table.rows
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerows([[inert(text) for text in line] for line in (header, *rows)])
    return buffer.getvalue()


def frame_csv(frame: pl.DataFrame) -> bytes:
    """A frame at full precision. Names in it are what people called their runs: no spreadsheet is to run them."""
    return frame.with_columns(pl.col(pl.String).map_elements(inert, return_dtype=pl.String)).write_csv().encode()


def inert(text: str) -> str:
    """``text`` as a spreadsheet shows it and does not run it. A number keeps its sign, if no call follows."""
    text = uncontrolled(text)
    formula = re.match(r"[=@\t\r\n]|[+-](?![\d.\s]|$)|[+-].*[|!(=@]", text, re.DOTALL)
    return f"'{text}" if formula else text
