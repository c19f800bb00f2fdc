"""Views of the geometry as rows of strings: cosines, sizes and ranks, the share of the base, and like with like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.formats import number, percent, significant
from tasks.reporting.metrics import BASE, CKA, UPDATE, Metric
from tasks.reporting.metrics import notes as metric_notes
from tasks.reporting.notes import MOST_LISTED, count, floor_note, named
from tasks.reporting.tables.pairs import OWN, columns_of
from tasks.reporting.tables.views import NO_UPDATE, Cell, Cells, Table, mark_of, said
from tasks.reporting.views.across import Likeness, likeness
from tasks.reporting.views.pairs import AT_FLOOR, BELOW_FLOOR, REACHED, ZERO, Geometry
from tasks.reporting.views.similarity import Similarity
from tasks.reporting.views.study import Updates


def matrix_table(view: Geometry) -> Table:
    """The numbers of the heat-map; the base has no update, hence no direction."""
    names = [info.run for info in view.runs]
    rows = [Cells("base", *[NO_UPDATE] * len(names), mark="base")]
    rows += [Cells(info.run, *(_cosine_cell(info, other, view) for other in view.runs)) for info in view.runs]
    note = f"Over all entries of {count(view.modules, 'shared module')}. {floor_note(view)}"
    return Table("cosines", "Cosine between updates", ("Run", *names), rows, note)


def _cosine_cell(info: RunInfo, other: RunInfo, view: Geometry) -> Cell:
    cosine, standing = view.cosine(info.run, other.run), view.standing(info, other)
    if cosine is None:
        return Cell(view.missing(info.run, other.run, "cosine"))
    return Cell(number(cosine, 3), said(standing if standing in REACHED else ""))


def spectrum_table(study: Updates) -> Table:
    """Size and rank of every update."""
    view, spectra = study.geometry, study.spectra
    columns = _columns(UPDATE, spectra)
    rows = [Cells("base", *[NO_UPDATE] * len(columns), mark="base")]
    for info in view.runs:
        nothing = study.norms[info.run] == 0  # which has no rank, where it was measured
        values = ((study.spectrum(info.run, metric.name, k), metric) for metric, k, _ in columns)
        said_of = (ZERO if value is None and nothing else metric.text(value) for value, metric in values)
        rows.append(Cells(info.run, *said_of, mark=mark_of(info, view)))
    return Table(
        "spectra",
        "Size and rank of the updates",
        ("Run", *(title for *_, title in columns)),
        rows,
        f"{metric_notes(UPDATE)}{_rates_note(view)}",
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


def base_table(study: Updates) -> Table | None:
    """What the updates do to the base's own spectrum; None where the base's weights were not at hand."""
    view = study.geometry
    found = study.spectra.filter(pl.col("metric").is_in([metric.name for metric in BASE]), pl.col("module") == "*")
    if found.is_empty():
        return None
    measured = [metric for metric in BASE if found.filter(pl.col("metric") == metric.name).height]
    columns = _columns(measured, found)
    rows = [Cells("base", *["itself"] * len(columns), mark="base")]
    for info in view.runs:
        values = (metric.text(study.spectrum(info.run, metric.name, k)) for metric, k, _ in columns)
        rows.append(Cells(info.run, *values, mark=mark_of(info, view)))
    return Table(
        "base-measures",
        "What the updates do to the base's weights",
        ("Run", *(title for *_, title in columns)),
        rows,
        metric_notes(BASE),
    )


_NOTE = (
    "Two runs in one data order share that order's noise, so their cosine lies above any noise floor even where the "
    "methods differ. Across data orders: a run of the one method in one order with a run of the other in another; this "
    "is what the noise floor judges, the same of two runs of ONE method (of either of the two). Without noise: the "
    "inner product across orders over the geometric mean of those of each method with itself. Difference: the norm of "
    "the one update less the other, in one order, as a share of the first; it comes back: cosine of that difference in "
    "one order with the same in another (1: systematic, 0: noise). Both take replicates of both methods "
    "(replicates=all)."
)
_NEEDS = "needs replicates of both"

Pair = tuple[RunInfo, RunInfo]


def across_tables(view: Geometry, cka: Similarity | None) -> list[Table]:
    """The cosines of every two methods across data orders, and their other measures; none without replicates."""
    chosen = [pair for pair in _methods(view) if view.likeness(*pair, "cosine").across]
    if not chosen:
        return []
    return [_cosines(chosen, view), _others(chosen, view, cka)]


def _methods(view: Geometry) -> list[Pair]:
    """One run a method and rate of the reference's initialisation, each with every other; the reference first."""
    first: dict[tuple[str, float | None, int | None], RunInfo] = {}
    for info in view.runs:
        if view.reference is None or info.seed == view.reference.seed:
            first.setdefault((info.method, info.lr, info.seed), info)
    return list(combinations(sorted(first.values(), key=lambda info: info != view.reference), 2))


def _cosines(chosen: Sequence[Pair], view: Geometry) -> Table:
    rows = []
    for a, b in chosen:
        found, apart = view.likeness(a, b, "cosine"), view.difference(a, b)
        standing = view.standing(a, b)
        verdict = {AT_FLOOR: "no farther than noise", BELOW_FLOOR: "farther than noise"}.get(standing, standing)
        difference = Cells(_NEEDS, _NEEDS, _NEEDS)
        if apart is not None:
            difference = Cells(number(apart.deattenuated, 3), percent(apart.share), _values(apart.repeats, 2))
        rows.append(Cells(a.run, b.run, *_like(found, 3), verdict, *difference))
    header = (
        *("Method", "and", "Cosine in one data order", "Across data orders", "Noise floor", "Judged"),
        *("Without noise", "Difference, % of the first", "It comes back"),
    )
    return Table("across", "Like with like: cosines across data orders", header, rows, _NOTE, words=2)


def _others(chosen: Sequence[Pair], view: Geometry, cka: Similarity | None) -> Table:
    measures = [one for one in columns_of(view) if one.metric.nearer and one.metric.name != "cosine" and one.k != OWN]
    rows = []
    for a, b in chosen:
        found = [(one.title, view.likeness(a, b, one.metric.name, one.k), one.decimals) for one in measures]
        if cka is not None:
            last = cka.layers[-1]
            states = likeness(view.replicates(a), view.replicates(b), partial(cka.value, layer=last))
            found.append((f"CKA at the last layer ({last})", states, CKA.decimals))
        rows += [Cells(a.run, b.run, title, *_like(one, decimals)) for title, one, decimals in found]
    header = ("Method", "and", "Measure", "In one data order", "Across data orders", "Noise floor")
    title = "Like with like: angles, overlaps and CKA"
    return Table("across-measures", title, header, rows, _NOTE, words=3)


def _like(found: Likeness, decimals: int) -> Cells:
    return Cells(*(_values(values, decimals) for values in ([*found.one_order.values()], found.across, found.floor)))


def _values(values: Sequence[float], decimals: int) -> Cell:
    """Their mean, beneath it the range and how many there are."""
    if not values:
        return Cell("-")
    low, high = number(min(values), decimals), number(max(values), decimals)
    subs = (*said(f"{low} to {high}" if low != high else ""), f"n = {len(values)}") if len(values) > 1 else ()
    return Cell(number(sum(values) / len(values), decimals), subs)
