"""A comparison of adapters before it is HTML or Markdown."""

from __future__ import annotations

import polars as pl

from tasks.reporting.charts.explore import build_explore
from tasks.reporting.charts.heat_map import cosine_picture
from tasks.reporting.charts.numbers import figure_numbers
from tasks.reporting.charts.picture import Picture
from tasks.reporting.charts.profiles import angle_picture, cosine_profile_picture
from tasks.reporting.charts.spectra import spectra_picture
from tasks.reporting.findings.comparison import Comparison, comparison_findings
from tasks.reporting.findings.topics import PAIRS
from tasks.reporting.formats import listed
from tasks.reporting.render.document import Document, Section
from tasks.reporting.tables.adapters_glance import adapters_glance, plain_base
from tasks.reporting.tables.comparison import adapters_table, unshared_table
from tasks.reporting.tables.geometry import base_table, matrix_table, spectrum_table
from tasks.reporting.tables.pairs import pair_tables

_LONGEST_TITLE = 60

FILES = ("pair_metrics.parquet", "spectra.parquet", "adapters.parquet", "unshared.parquet", "compare.json")


def comparison_document(tables: Comparison, notes: tuple[str, ...]) -> Document:
    """Derive every view of a comparison. ``notes``: what its maker has to say of it."""
    view = tables.view
    against, *others = pair_tables(view)
    base, spectrum = base_table(tables.spectra, view), spectrum_table(tables.spectra, view)
    layers = _drawn(cosine_profile_picture(tables.pair_metrics, view), spectra_picture(tables.spectra, view))
    missing = unshared_table(tables.unshared)
    found = comparison_findings(tables)
    return Document(
        brand="colinear compare",
        name=_title(tables),
        facts=_facts(tables),
        findings=found,
        notes=notes,
        pictures=_drawn(cosine_picture(view), angle_picture(tables.pair_metrics, view)),
        headline=adapters_glance(tables.adapters, tables.spectra, tables.pair_metrics, view),
        sections=(
            Section(
                PAIRS,
                (),
                (against,),
                (*others, matrix_table(view)),
                "Every measure of the pairs with the reference, beside noise and chance.",
                found.on(PAIRS),
            ),
            Section("The updates", layers, (spectrum, *([base] if base else [])), ()),
            Section("The adapters", (), (adapters_table(tables.adapters),), (missing,) if missing else ()),
        ),
        files=FILES,
        notes_title="Notes",
        notes_folded=True,
        explore=build_explore(tables.pair_metrics, view),
        numbers=figure_numbers(_frames(tables), view, ("cosines", "layers", "angles", "spectra")),
    )


def _frames(tables: Comparison) -> dict[str, pl.DataFrame]:
    return {"pair_metrics": tables.pair_metrics, "spectra": tables.spectra}


def _title(tables: Comparison) -> str:
    names = listed([info.run for info in tables.view.runs])
    return names if len(names) <= _LONGEST_TITLE else f"{len(tables.view.runs)} adapters"


def _drawn(*pictures: Picture | None) -> tuple[Picture, ...]:
    return tuple(picture for picture in pictures if picture is not None)


def _facts(tables: Comparison) -> tuple[tuple[str, str], ...]:
    view, n = tables.view, len(tables.view.runs)
    bases = [base for base in tables.adapters["base"] if base]
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
