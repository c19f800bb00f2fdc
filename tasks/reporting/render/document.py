"""A report before it is HTML or Markdown: its sentences, tables and figures in the order they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.reporting.charts.catalogue import pictures
from tasks.reporting.charts.explore import Explore, build_explore
from tasks.reporting.charts.numbers import figure_numbers
from tasks.reporting.charts.picture import Picture
from tasks.reporting.claims import ClaimResult, claims_sentence, claims_tables, sensitivity_table, verdicts
from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.formats import seconds
from tasks.reporting.tables.accuracy import accuracy_table, mcnemar_table
from tasks.reporting.tables.across import across_tables
from tasks.reporting.tables.barriers import barrier_tables
from tasks.reporting.tables.cka import cka_tables
from tasks.reporting.tables.functions import divergence_matrix, functions_table
from tasks.reporting.tables.geometry import base_table, matrix_table, spectrum_table
from tasks.reporting.tables.mcnemar_matrix import mcnemar_matrices
from tasks.reporting.tables.pairs import pair_tables
from tasks.reporting.tables.rollouts import rollout_tables
from tasks.reporting.tables.samples import differences_tables, samples_table
from tasks.reporting.tables.study import (
    benchmarks_tables,
    checks_table,
    settings_table,
    stage_tables,
    training_table,
    turn_tables,
    versions_table,
)
from tasks.reporting.tables.views import Table, headline_table
from tasks.reporting.views.join import SCHEMAS, StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS

MOST_SHOWN = 40
"""Rows of accuracies that are not behind a fold."""


@dataclass(frozen=True)
class Section:
    """Figures first, then the tables that everybody reads (``shown``), then those behind a fold (``folded``)."""

    title: str
    pictures: tuple[Picture, ...]
    shown: tuple[Table, ...]
    folded: tuple[Table, ...]


@dataclass(frozen=True)
class Document:
    """One page. ``facts``: label and value, for the line under the title; ``files``: what lies beside the page."""

    brand: str
    name: str
    facts: tuple[tuple[str, str], ...]
    findings: Findings
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    """Those that answer the page's question; they stand above the headline table."""
    headline: Table | None
    sections: tuple[Section, ...]
    files: tuple[str, ...]
    notes_title: str = "What falls short"
    claims: tuple[ClaimResult, ...] = ()
    explore: Explore | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Key of a figure -> its numbers: see `tasks.reporting.charts.numbers`."""

    @property
    def drawn(self) -> tuple[Picture, ...]:
        """Every figure of the page, in the order they are read."""
        return (*self.pictures, *(picture for section in self.sections for picture in section.pictures))


def build_document(tables: StudyTables, draw: Callable[[StudyTables, Geometry], list[Picture]] = pictures) -> Document:
    """Derive every view of a study. ``draw`` makes the figures; give ``lambda *_: []`` where none are wanted."""
    view = tables.geometry
    drawn = {picture.key: picture for picture in draw(tables, view)}

    def figures(*keys: str) -> tuple[Picture, ...]:
        return tuple(drawn[key] for key in keys if key in drawn)

    against, *others = pair_tables(view)
    accuracy, mcnemar, matrix = accuracy_table(tables, view), mcnemar_table(tables, view), matrix_table(view)
    base = base_table(tables.spectra, view)
    barriers, *other_barriers = barrier_tables(tables, view)
    cka, *layers = cka_tables(tables, view)
    matrix_of_kl = divergence_matrix(tables, view)
    (rollouts, examples), (totals, stages) = rollout_tables(tables), stage_tables(tables)
    tests = mcnemar_matrices(tables, view)
    judged = verdicts(tables)
    claims = judged.results
    answered, *rest = claims_tables(claims)
    folded = (matrix, *others, spectrum_table(tables.spectra, view), *([base] if base else []))
    sampled = samples_table(tables, view)
    across = across_tables(view, tables.similarity)
    sections = (
        Section(
            "The paper's claims", (), tuple(rest[:1]), (answered, *rest[1:], sensitivity_table(judged.sensitivity))
        ),
        _folding("Accuracy", (accuracy, sampled), (*tests, mcnemar, *differences_tables(tables, view))),
        Section("Geometry of the updates", (), (*across[:1], against), (*across[1:], *folded)),
        Section(
            "Paths between the updates",
            figures(*(f"path-{reading}" for reading in READINGS)),
            (barriers,),
            tuple(other_barriers),
        ),
        Section(
            "What the models compute",
            figures("cka"),
            (functions_table(tables, view), cka),
            (*([matrix_of_kl] if matrix_of_kl else []), *layers),
        ),
        Section(
            "Over the layers and the steps",
            figures("layers", "angles", "outside", "spectra", "training"),
            (),
            (training_table(tables),),
        ),
        Section(
            "Data and checks",
            (),
            (*rollouts, *benchmarks_tables(tables), *turn_tables(tables), checks_table(tables)),
            tuple(examples),
        ),
        Section("The study", (), (totals,), (stages, settings_table(tables), versions_table(tables))),
    )
    return Document(
        brand="colinear study",
        name=str(tables.study.get("name") or "study"),
        facts=_facts(tables, view),
        findings=_with_claims(findings(tables, view), claims),
        claims=claims,
        notes=tuple(str(note) for note in tables.study.get("notes") or []),
        pictures=figures("cosines", "accuracy"),
        headline=headline_table(tables, view),
        sections=sections,
        files=(*(f"{name}.parquet" for name in SCHEMAS), "study.json", "claims.json"),
        explore=build_explore(tables.pair_metrics, view, tables.connectivity, tables.training),
        numbers=figure_numbers({name: getattr(tables, name) for name in SCHEMAS}, view, [*drawn], base_of(tables).run),
    )


def _with_claims(found: Findings, claims: tuple[ClaimResult, ...]) -> Findings:
    """The count of verdicts after what the study itself found."""
    said = claims_sentence(claims)
    return replace(found, sentences=(*found.sentences, said)) if said else found


def _folding(title: str, tables: tuple[Table, ...], folded: tuple[Table, ...]) -> Section:
    """A section whose long tables stand behind a fold, before those that always do."""
    long = tuple(table for table in tables if len(table.rows) > MOST_SHOWN)
    return Section(title, (), tuple(table for table in tables if table not in long), (*long, *folded))


def _facts(tables: StudyTables, view: Geometry) -> tuple[tuple[str, str], ...]:
    study = tables.study
    stages = study.get("stages") or []
    hits = sum(bool(stage["hit"]) for stage in stages)
    return (
        ("Trained runs", str(len(view.runs))),
        ("Wall time", seconds(study.get("wall_seconds"))),
        ("From the cache", f"{hits} of {len(stages)} stages" if stages else "not recorded"),
        ("Machine", str(study.get("machine") or "not recorded")),
        # Twelve digits and a mark such as "+changes", which must not be cut off.
        ("Commit", str(study.get("commit") or "not recorded")[:24]),
    )
