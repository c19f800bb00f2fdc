"""A report before it is HTML or Markdown: its sentences, tables and figures in the order they are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.reporting.charts.accuracy import OTHERS
from tasks.reporting.charts.catalogue import pictures
from tasks.reporting.charts.explore import Explore, build_explore
from tasks.reporting.charts.numbers import figure_numbers
from tasks.reporting.charts.picture import Picture
from tasks.reporting.claims import ClaimResult, claims_sentence, claims_tables, sensitivity_table, verdicts
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.rows import MARKS, verdict_tables
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.findings.lead import disagreements
from tasks.reporting.findings.topics import ACCURACY, CLAIMS, DATA, FUNCTIONS, GEOMETRY, PATHS, STUDY
from tasks.reporting.notes import count
from tasks.reporting.render.facts import record_table, sample_problem, study_facts
from tasks.reporting.tables.accuracy import accuracy_table, mcnemar_table
from tasks.reporting.tables.across import across_tables
from tasks.reporting.tables.barriers import barrier_tables
from tasks.reporting.tables.before import before_tables
from tasks.reporting.tables.cka import cka_tables
from tasks.reporting.tables.functions import divergence_matrix, functions_table
from tasks.reporting.tables.geometry import base_table, matrix_table, spectrum_table
from tasks.reporting.tables.glance import glance_table
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
from tasks.reporting.tables.views import Table, headline_table, said
from tasks.reporting.views.join import SCHEMAS, StudyTables, base_of
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import READINGS

MOST_SHOWN = 40
"""Rows of accuracies that are not behind a fold."""


@dataclass(frozen=True)
class Section:
    """Figures first, then the tables that everybody reads (``shown``), then those behind a fold (``folded``).

    ``intro``: what the section answers; ``said``: what was found there, in full sentences.
    """

    title: str
    pictures: tuple[Picture, ...]
    shown: tuple[Table, ...]
    folded: tuple[Table, ...]
    intro: str = ""
    said: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Where a link finds it on the page."""
        return "-".join(["section", *re.findall(r"[a-z0-9]+", self.title.lower().replace("'", ""))])


@dataclass(frozen=True)
class Tally:
    """How many claims came to which verdict: (tone, number, words) each; ``aside``: those farthest from the paper;
    ``section``: the key of the section that has them all."""

    title: str
    counts: tuple[tuple[str, int, str], ...]
    aside: str
    section: str


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
    """One line a row, few columns: what a reader sees first."""
    sections: tuple[Section, ...]
    files: tuple[str, ...]
    notes_title: str = "What falls short"
    claims: tuple[ClaimResult, ...] = ()
    explore: Explore | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Key of a figure -> its numbers: see `tasks.reporting.charts.numbers`."""
    sample: str = ""
    """One of the problems."""
    details: tuple[Table, ...] = ()
    """Behind a fold under the headline table: its rows with all that qualifies their numbers."""
    tally: Tally | None = None
    notes_folded: bool = False

    @property
    def drawn(self) -> tuple[Picture, ...]:
        """Every figure of the page, in the order they are read."""
        return (*self.pictures, *(picture for section in self.sections for picture in section.pictures))

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table of the page, in the order they are read."""
        first = (*([self.headline] if self.headline else []), *self.details)
        return (*first, *(table for section in self.sections for table in (*section.shown, *section.folded)))


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
    decided, undecided = verdict_tables(claims)
    tally = _tally(claims)
    found = findings(tables, view).with_sentence(CLAIMS, claims_sentence(claims))
    folded = (matrix, *others, spectrum_table(tables.spectra, view), *([base] if base else []))
    sampled = samples_table(tables, view)
    across = across_tables(view, tables.similarity)
    before = before_tables(tables, view)
    sections = (
        Section(
            CLAIMS,
            (),
            tuple(decided),
            (*undecided, *claims_tables(claims), sensitivity_table(judged.sensitivity)),
            "Each statement of the paper as a rule on this study's numbers.",
            said(tally.aside if tally else ""),
        ),
        _folding(
            ACCURACY,
            figures(OTHERS),
            (accuracy, sampled),
            (*tests, mcnemar, *differences_tables(tables, view)),
            "What the models get right, and which differences a test shows.",
        ),
        Section(
            GEOMETRY,
            (),
            (*across[:1], against, *before[:1]),
            (*across[1:], *before[1:], *folded),
            "Where the updates point, how large they are, and what noise alone would give. A percentile among random "
            "subspaces is high for near cosines and overlaps, low for near angles.",
        ),
        Section(
            PATHS,
            figures(*(f"path-{reading}" for reading in READINGS)),
            (barriers,),
            tuple(other_barriers),
            _paths_intro(tables),
        ),
        Section(
            FUNCTIONS,
            figures("cka"),
            (functions_table(tables, view), cka),
            (*([matrix_of_kl] if matrix_of_kl else []), *layers),
            "How far hidden states and output distributions moved.",
        ),
        Section(
            "Over the layers and the steps",
            figures("layers", "angles", "outside", "spectra", "training"),
            (),
            (training_table(tables),),
        ),
        Section(
            DATA,
            (),
            (*rollouts, *benchmarks_tables(tables), *turn_tables(tables), checks_table(tables)),
            tuple(examples),
            "What was trained on, what fell out, and what was not measured.",
        ),
        Section(
            STUDY,
            (),
            (record_table(tables, view), totals),
            (stages, settings_table(tables), versions_table(tables)),
        ),
    )
    return Document(
        brand="colinear study",
        name=str(tables.study.get("name") or "study"),
        facts=study_facts(tables),
        sample=sample_problem(tables),
        findings=found,
        claims=claims,
        tally=tally,
        notes=tuple(str(note) for note in tables.study.get("notes") or []),
        pictures=figures("cosines", "accuracy"),
        headline=glance_table(tables, view),
        details=(headline_table(tables, view),),
        sections=tuple(replace(one, said=(*found.on(one.title), *one.said)) for one in sections),
        files=(*(f"{name}.parquet" for name in SCHEMAS), "study.json", "claims.json"),
        explore=build_explore(tables.pair_metrics, view, tables.connectivity, tables.training),
        numbers=figure_numbers({name: getattr(tables, name) for name in SCHEMAS}, view, [*drawn], base_of(tables).run),
    )


def _paths_intro(tables: StudyTables) -> str:
    """What a path is, and on how few problems it is read."""
    lead = (
        "Whether the straight line from one model to the next leads over a hill of the loss. The boxed answer is "
        "scored right after the prompt, without any working, so its loss is high even where the model solves it."
    )
    n = ((tables.study.get("settings") or {}).get("paths") or {}).get("n")
    return f"{lead} On {n} problems one of them is {100 / n:.1f} points of accuracy." if n else lead


def _tally(claims: tuple[ClaimResult, ...]) -> Tally | None:
    """The count of verdicts on the paper's claims, and what is farthest from it."""
    own = [result for result in claims if not result.claim.open]
    if not own:
        return None
    words = {HOLDS: "hold", FAILS: "do not hold", NO_POWER: "without power to tell", NOT_MEASURED: "not measured"}
    found = Counter(result.verdict for result in own)
    counts = tuple(
        (MARKS[verdict][1], found[verdict], f"{MARKS[verdict][0]} {said}")
        for verdict, said in words.items()
        if found[verdict]
    )
    section = Section(CLAIMS, (), (), ())
    return Tally(f"{count(len(own), 'claim')} of the paper", counts, disagreements(own), section.key)


def _folding(
    title: str, pictures: tuple[Picture, ...], tables: tuple[Table, ...], folded: tuple[Table, ...], intro: str
) -> Section:
    """A section whose long tables stand behind a fold, before those that always do."""
    long = tuple(table for table in tables if len(table.rows) > MOST_SHOWN)
    return Section(title, pictures, tuple(table for table in tables if table not in long), (*long, *folded), intro)
