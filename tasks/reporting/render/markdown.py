"""The report's Markdown form, for pull requests and terminals: the same sentences and numbers, without the figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tasks.core.visible import uncontrolled
from tasks.reporting.render.condense import condensed, warned
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
    if document.sample:
        yield f"A problem: {escape(document.sample)}"
        yield ""
    for sentence in document.findings.lead or document.findings.sentences:
        yield escape(sentence)
        yield ""
    if document.tally:
        counts = ", ".join(f"{number} {words}" for _, number, words in document.tally.counts)
        yield escape(f"{document.tally.title}: {counts}. {document.tally.aside}".strip())
        yield ""
    warnings = document.findings.warnings
    if warnings:
        yield f"> **{escape(warned(warnings))}**"
        yield ""
    if document.headline:
        yield f"## {escape(document.headline.title)}"
        yield ""
        yield from _table(document.headline)
    for title, listed in (("Warnings", warnings), (document.notes_title, document.notes)):
        if listed:
            yield f"## {escape(title)}"
            yield ""
            yield from _list(listed)
    for section in document.sections:
        yield f"## {escape(section.title)}"
        yield ""
        if section.intro:
            yield escape(section.intro)
            yield ""
        if section.said:
            yield from _list(section.said)
        for table in section.tables:
            yield from _titled(table)


def _list(sentences: Sequence[str]) -> Iterator[str]:
    yield from (f"- {escape(sentence)}" for sentence in sentences)
    yield ""


def _titled(table: Table) -> Iterator[str]:
    if table.rows or table.note:
        yield f"### {escape(table.title)}"
        yield ""
        yield from _table(table)


def _table(full: Table) -> Iterator[str]:
    table = condensed(full)
    if table.rows:
        yield table_row([escape(title) for title in table.header])
        yield table_row(["---" if place < table.words else "---:" for place in range(len(table.header))])
        yield from (table_row([escape(cell.plain) for cell in row]) for row in table.rows)
    else:
        yield "Not measured."
    yield ""
    if table.note:
        yield escape(table.note)
        yield ""


def table_row(cells: Sequence[str]) -> str:
    """A row of a table, of what is Markdown already."""
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """``text`` as literal characters on one line: HTML, table bars, emphasis, code, links and images are disarmed."""
    flat = uncontrolled(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|!]|(?<!\w)_|_(?!\w))", r"\\\1", flat)
