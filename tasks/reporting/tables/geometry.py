"""Views of the geometry as rows of strings: cosines of all pairs, sizes and ranks of the updates, the base's share."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.formats import number, significant
from tasks.reporting.metrics import BASE, UPDATE, Metric
from tasks.reporting.metrics import notes as metric_notes
from tasks.reporting.notes import MOST_LISTED, count, floor_note, named
from tasks.reporting.tables.views import NO_UPDATE, Cell, Table, said
from tasks.reporting.views.join import spectrum_value
from tasks.reporting.views.pairs import REACHED, ZERO, Geometry


def matrix_table(view: Geometry) -> Table:
    """The numbers of the heat-map; the base has no update, hence no direction."""
    names = [info.run for info in view.runs]
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in names))]
    rows += [(Cell(info.run), *(_cosine_cell(info, other, view) for other in view.runs)) for info in view.runs]
    note = f"Over all entries of {count(view.modules, 'shared module')}. {floor_note(view)}"
    return Table("cosines", "Cosine between updates", ("Run", *names), tuple(rows), note, marks={0: "base"})


def _cosine_cell(info: RunInfo, other: RunInfo, view: Geometry) -> Cell:
    cosine, standing = view.cosine(info.run, other.run), view.standing(info, other)
    if cosine is None:
        return Cell(view.missing(info.run, other.run, "cosine"))
    return Cell(number(cosine, 3), said(standing if standing in REACHED else ""))


def spectrum_table(spectra: pl.DataFrame, view: Geometry) -> Table:
    """Size and rank of every update."""
    columns = _columns(UPDATE, spectra)
    rows = [(Cell("base"), *(Cell(NO_UPDATE) for _ in columns))]
    for info in view.runs:
        nothing = spectrum_value(spectra, info.run, "norm") == 0  # which has no rank, where it was measured
        values = ((spectrum_value(spectra, info.run, metric.name, k), metric) for metric, k, _ in columns)
        said_of = (ZERO if value is None and nothing else metric.text(value) for value, metric in values)
        rows.append((Cell(info.run), *(Cell(text) for text in said_of)))
    return Table(
        "spectra",
        "Size and rank of the updates",
        ("Run", *(title for *_, title in columns)),
        tuple(rows),
        f"{metric_notes(UPDATE)}{_rates_note(view)}",
        marks={0: "base", **_twin_marks(view)},
    )


def _columns(metrics: Sequence[Metric], spectra: pl.DataFrame) -> list[tuple[Metric, int | None, str]]:
    """(metric, k, title) of each column: one a dimension where a metric was taken at several."""
    measured = spectra.filter(pl.col("module") == "*")
    found = []
    for metric in metrics:
        ks = measured.filter(pl.col("metric") == metric.name)["k"].unique().sort().to_list() or [None]
        for column in metric.columns:
            found += [(metric, k, column.title if k is None else f"{column.title}, top-{k}") for k in ks]
    return found


def _rates_note(view: Geometry) -> str:
    """Whose sizes measure a learning rate of their own; empty where all runs had the reference's or it is unknown."""
    rate = view.reference.lr if view.reference else None
    others = [
        f"{info.run} ({significant(info.lr / rate)} times)"
        for info in view.runs
        if info.lr and rate and info.lr != rate
    ]
    if not others or view.reference is None:
        return ""
    return (
        f" Trained at another learning rate than {view.reference.run}, so that their sizes measure that as well: "
        f"{named(others, MOST_LISTED)}."
    )


def base_table(spectra: pl.DataFrame, view: Geometry) -> Table | None:
    """What the updates do to the base's own spectrum; None where the base's weights were not at hand."""
    found = spectra.filter(pl.col("metric").is_in([metric.name for metric in BASE]), pl.col("module") == "*")
    if found.is_empty():
        return None
    measured = [metric for metric in BASE if found.filter(pl.col("metric") == metric.name).height]
    columns = _columns(measured, found)
    rows = [(Cell("base"), *(Cell("itself") for _ in columns))]
    for info in view.runs:
        values = (metric.text(spectrum_value(found, info.run, metric.name, k)) for metric, k, _ in columns)
        rows.append((Cell(info.run), *(Cell(value) for value in values)))
    return Table(
        "base-measures",
        "What the updates do to the base's weights",
        ("Run", *(title for *_, title in columns)),
        tuple(rows),
        metric_notes(BASE),
        marks={0: "base", **_twin_marks(view)},
    )


def _twin_marks(view: Geometry) -> dict[int, str]:
    return {
        i: "floor" for i, info in enumerate(view.runs, 1) if view.reference and view.replicate(info, view.reference)
    }
