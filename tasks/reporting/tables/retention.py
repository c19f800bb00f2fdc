"""What runs forget, and how far they are from the base on its own answers: columns of tables of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.estimates import Estimate, Spread
from tasks.reporting.formats import percent, significant
from tasks.reporting.metrics import FORGETTING, OWN_KL
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.tables.views import Cell, said
from tasks.reporting.views.same_method import apart, difference_of, floor_clause, floor_words
from tasks.reporting.views.study import REFERENCES, Study

MEASURES = (FORGETTING, OWN_KL)


def kept(study: Study, measure: str) -> dict[str, Estimate]:
    """Run -> its forgetting or its divergence on the base's own answers, nats a token; those that were measured."""
    known = study.retention.filter(pl.col(measure).is_finite())
    rows = known.select("run", measure, f"{measure}_low", f"{measure}_high").iter_rows()
    return {run: Estimate(*rest) for run, *rest in rows}


def retention_header(study: Study) -> tuple[str, ...]:
    """The titles of `retention_cells`; none where nothing was measured."""
    return tuple(f"{one.title}, {one.unit}" for one in MEASURES if kept(study, one.name))


def retention_cells(study: Study, info: RunInfo) -> tuple[Cell, ...]:
    """One run's values with their intervals; of the divergence also what the first token has of it."""
    found = [some for one in MEASURES if (some := kept(study, one.name))]
    if info.method in REFERENCES:
        return tuple(Cell("0" if info.run in some else "-") for some in found)
    values = [some.get(info.run, Estimate(None)) for some in found]
    cells = [Cell(significant(one.value), said(one.interval(significant))) for one in values]
    first = dict(study.retention.select("run", "own_kl_first").iter_rows()).get(info.run)
    if first is not None and (whole := values[-1].value):
        beneath = f"{percent(first / whole)} % of it at the first token"
        cells[-1] = replace(cells[-1], subs=(*cells[-1].subs, beneath))
    return tuple(cells)


def retention_spreads(study: Study) -> tuple[Cell, ...]:
    """How far runs of one method are apart."""
    found = [some for one in MEASURES if (some := kept(study, one.name))]
    return tuple(Cell(*floor_words(_apart(study, some), significant)) for some in found)


def _apart(study: Study, found: Mapping[str, Estimate]) -> dict[str, Spread]:
    values = {run: one.value for run, one in found.items()}
    return apart(study.geometry, difference_of(values.get))


def retention_note(study: Study) -> str:
    """What the columns are over; empty where nothing was measured."""
    frame, parts = study.retention, []
    if kept(study, FORGETTING.name):
        parts.append(
            f"{FORGETTING.title}: rise of the cross-entropy over the base's, on {texts_of(study)} (n = "
            f"{max(frame['n'].drop_nulls()):,})."
        )
    if kept(study, OWN_KL.name):
        how = "drawn at temperature 1" if frame["drawn"].any() else "greedy"
        parts.append(
            f"{OWN_KL.title}: of the whole distribution at each of their tokens ({how}, n = "
            f"{max(frame['answers'].drop_nulls()):,})."
        )
    return " ".join((*parts, "Both with 95 % bootstrap intervals over texts.")) if parts else ""


def texts_of(study: Study) -> str:
    """What forgetting is measured on, in words."""
    if (study.record.get("settings", {}).get("functions") or {}).get("texts"):
        return "the texts of functions.texts, which no method trains on"
    return "the held-out solutions in the base's own style, which no method trains on"


def retention_finding(study: Study) -> str:
    """What every run forgets, least first; empty where it was not measured."""
    found = kept(study, FORGETTING.name)
    order = sorted((found[info.run].value or 0.0, info.run) for info in study.geometry.runs if info.run in found)
    if not order:
        return ""
    runs = named(
        [f"{run} {significant(value)} {found[run].interval(significant)}".rstrip() for value, run in order], MOST_LISTED
    )
    floor = floor_clause(_apart(study, found), lambda nats: f"{significant(nats)} nats")
    n = max(study.retention["n"].drop_nulls())
    return f"Forgotten, nats a token on {texts_of(study)} (n = {n:,}), least first: {runs}; {floor}."
