"""The report's Markdown twin, for pull requests and terminals: the same sentences and numbers, without the figures."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.core.visible import uncontrolled
from tasks.reporting.render.document import Document
from tasks.reporting.tables.views import Table


def render_markdown(document: Document) -> str:
    """GitHub-flavoured Markdown in which everything from models and data is text, never markup."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"# {escape(document.name)}"
    yield ""
    yield " | ".join(f"{escape(label)}: {escape(value)}" for label, value in document.facts).replace(" | ", "; ")
    yield ""
    for warning in document.findings.warnings:
        yield f"> **{escape(warning)}**"
        yield ""
    yield "## What the numbers say"
    yield ""
    yield from (f"- {escape(sentence)}" for sentence in document.findings.sentences)
    yield ""
    if document.headline:
        yield f"## {escape(document.headline.title)}"
        yield ""
        yield from _table(document.headline)
    if document.notes:
        yield f"## {escape(document.notes_title)}"
        yield ""
        yield from (f"- {escape(note)}" for note in document.notes)
        yield ""
    for section in document.sections:
        yield f"## {escape(section.title)}"
        yield ""
        for table in (*section.shown, *section.folded):
            if table.rows or table.note:
                yield f"### {escape(table.title)}"
                yield ""
                yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    if table.rows:
        yield _row([escape(title) for title in table.header])
        yield _row(["---" if place < table.words else "---:" for place in range(len(table.header))])
        yield from (_row([escape(cell.plain) for cell in row]) for row in table.rows)
    else:
        yield "Not measured."
    yield ""
    if table.note:
        yield escape(table.note)
        yield ""


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """``text`` as literal characters on one line: HTML, table bars, emphasis, code, links and images are disarmed."""
    flat = uncontrolled(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|!]|(?<!\w)_|_(?!\w))", r"\\\1", flat)
