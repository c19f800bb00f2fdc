"""A comparison of adapters before it is HTML or Markdown."""

from __future__ import annotations

from tasks.reporting.charts.curves import angle_picture, cosine_profile_picture, spectra_picture
from tasks.reporting.charts.explore import build_explore
from tasks.reporting.charts.heat_map import cosine_picture
from tasks.reporting.charts.picture import Picture
from tasks.reporting.findings.comparison import comparison_findings
from tasks.reporting.findings.sentences import PAIRS
from tasks.reporting.formats import listed
from tasks.reporting.render.document import Document, Section, present
from tasks.reporting.tables.adapters import adapters_glance, adapters_table, plain_base, unshared_table
from tasks.reporting.tables.geometry import base_table, matrix_table, spectrum_table
from tasks.reporting.tables.merges import merge_tables
from tasks.reporting.tables.pairs import pair_tables
from tasks.reporting.tables.relations import relations_table
from tasks.reporting.views.study import Comparison

_LONGEST_TITLE = 60

DERIVED = ("relations", "merges", "merge_losses")
"""Frames that a comparison may have beside those of `FILES`."""

FILES = ("pair_metrics.parquet", "spectra.parquet", "adapters.parquet", "unshared.parquet", "compare.json")


def comparison_document(compared: Comparison, notes: tuple[str, ...]) -> Document:
    """Derive every view of a comparison. ``notes``: what its maker has to say of it."""
    view = compared.geometry
    relations, merges, found = compared.relations, compared.merges, comparison_findings(compared)
    pairs = [*([] if relations is None else [relations_table(relations)]), *pair_tables(view), matrix_table(view)]
    merged = [] if merges is None else merge_tables(merges, compared.merge_losses, compared.adapters)
    sections = (
        Section(
            "Before a merge", merged,
            intro="What is left of two updates in their sum, and which of PEFT's calls makes their mean: linear does "
            "not.",
        ),
        Section(
            PAIRS, pairs, intro="Every measure of the pairs with the reference, beside noise and chance.",
            said=found.on(PAIRS),
        ),
        Section(
            "The updates", present(spectrum_table(compared), base_table(compared)),
            _drawn(cosine_profile_picture(compared), spectra_picture(compared)),
        ),
        Section("The adapters", present(adapters_table(compared.adapters), unshared_table(compared.unshared))),
    )  # fmt: skip
    return Document(
        brand="colinear compare",
        name=_title(compared),
        facts=_facts(compared),
        findings=found,
        notes=notes,
        pictures=_drawn(cosine_picture(compared), angle_picture(compared)),
        headline=adapters_glance(compared),
        sections=sections if merged else sections[1:],
        files=(*FILES, *(f"{name}.parquet" for name in DERIVED if getattr(compared, name) is not None)),
        notes_title="Notes",
        notes_folded=True,
        explore=build_explore(compared),
    )


def _title(compared: Comparison) -> str:
    names = listed([info.run for info in compared.geometry.runs])
    return names if len(names) <= _LONGEST_TITLE else f"{len(compared.geometry.runs)} adapters"


def _drawn(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)


def _facts(compared: Comparison) -> tuple[tuple[str, str], ...]:
    view, n = compared.geometry, len(compared.geometry.runs)
    bases = [base for base in compared.adapters["base"] if base]
    spelt: dict[str, set[str]] = {}
    for base in bases:
        spelt.setdefault(plain_base(base), set()).add(base)
    words = [f"{name} ({len(ways)} spellings)" if len(ways) > 1 else name for name, ways in spelt.items()]
    unnamed = n - len(bases)
    return (
        ("Adapters", str(n)),
        ("Pairs", str(n * (n - 1) // 2)),
        ("Reference", view.reference.run if view.reference else "none"),
        ("Base", (listed(words) or "not named") + (f", {unnamed} not named" if 0 < unnamed < n else "")),
        ("Modules compared", str(view.modules)),
    )
