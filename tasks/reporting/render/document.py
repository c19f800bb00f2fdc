"""A report before it is HTML or Markdown: its sentences, tables and figures in the order they are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tasks.reporting.charts.accuracy import OTHERS
from tasks.reporting.charts.catalogue import pictures
from tasks.reporting.charts.explore import Explore, build_explore
from tasks.reporting.charts.picture import Picture
from tasks.reporting.claims.claim import ClaimResult
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.output import MARKS, claims_sentence, claims_tables, sensitivity_table
from tasks.reporting.claims.paper import verdicts
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.findings.headline import Findings, findings
from tasks.reporting.findings.lead import disagreements
from tasks.reporting.findings.sentences import ACCURACY, CLAIMS, DATA, FUNCTIONS, GEOMETRY, PATHS, STUDY, WHY
from tasks.reporting.notes import count
from tasks.reporting.tables.accuracy import (
    accuracy_table,
    differences_tables,
    mcnemar_table,
    samples_table,
)
from tasks.reporting.tables.barriers import barrier_tables
from tasks.reporting.tables.before import before_tables
from tasks.reporting.tables.functions import cka_table, divergence_matrix, functions_table
from tasks.reporting.tables.geometry import across_tables, base_table, matrix_table, spectrum_table
from tasks.reporting.tables.headline import headline_table
from tasks.reporting.tables.pairs import pair_tables
from tasks.reporting.tables.record import (
    benchmarks_tables,
    checks_table,
    rollout_tables,
    sample_problem,
    settings_table,
    stage_tables,
    study_facts,
    training_table,
    turn_tables,
    versions_table,
)
from tasks.reporting.tables.soups import soups_tables
from tasks.reporting.tables.trajectories import trajectories_table
from tasks.reporting.tables.truncation import truncation_table
from tasks.reporting.tables.views import Table, said
from tasks.reporting.views.paths import READINGS
from tasks.reporting.views.study import SCHEMAS, Study

MOST_ROWS = 12
"""Of a table that stands open on the page."""


@dataclass(frozen=True)
class Section:
    """Its figures, then its tables: each behind a fold but, where there is no figure, a short first one.

    ``intro``: what the section answers; ``said``: what was found there, in full sentences.
    """

    title: str
    tables: Sequence[Table]
    pictures: tuple[Picture, ...] = ()
    intro: str = ""
    said: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Where a link finds it on the page."""
        return section_key(self.title)

    @property
    def open(self) -> Sequence[Table]:
        """The table that is not behind a fold."""
        return [one for one in self.tables[:1] if not self.pictures and len(one.rows) <= MOST_ROWS]


def section_key(title: str) -> str:
    """``'The paper's claims' -> 'section-the-papers-claims'``."""
    return "-".join(["section", *re.findall(r"[a-z0-9]+", title.lower().replace("'", ""))])


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
    sample: str = ""
    """One of the problems."""
    tally: Tally | None = None
    notes_folded: bool = False

    @property
    def drawn(self) -> tuple[Picture, ...]:
        """Every figure of the page, in the order they are read."""
        return (*self.pictures, *(picture for section in self.sections for picture in section.pictures))

    @property
    def tables(self) -> tuple[Table, ...]:
        """Every table of the page, in the order they are read."""
        first = [self.headline] if self.headline else []
        return (*first, *(table for section in self.sections for table in section.tables))


def build_document(study: Study, draw: Callable[[Study], list[Picture]] = pictures) -> Document:
    """Derive every view of a study. ``draw`` makes the figures; give ``lambda *_: []`` where none are wanted."""
    view = study.geometry
    drawn = {picture.key: picture for picture in draw(study)}

    def figures(*keys: str) -> tuple[Picture, ...]:
        return tuple(drawn[key] for key in keys if key in drawn)

    judged = verdicts(study)
    claims, tally = judged.results, _tally(judged.results)
    found = findings(study, claims_sentence(claims))
    across = across_tables(view, study.similarity)
    (against, *pairs), (rollouts, examples) = pair_tables(view), rollout_tables(study)
    why = Section(
        WHY,
        [*before_tables(study), *truncation_table(study), *trajectories_table(study), *soups_tables(study)],
        figures("why", "truncation", "trajectories"),
        "What the losses ask for before the first step, what inputs see of the updates, which directions carry them, "
        "whether they add.",
    )
    sections = (
        Section(
            CLAIMS,
            [*claims_tables(claims), sensitivity_table(judged.sensitivity)],
            intro="Each statement of the paper as a rule on this study's numbers.",
            said=said(tally.aside if tally else ""),
        ),
        Section(
            ACCURACY,
            [accuracy_table(study), samples_table(study), mcnemar_table(study),
             *differences_tables(study)],
            figures(OTHERS),
            "What the models get right, and which differences a test shows.",
        ),
        Section(
            GEOMETRY,
            present(*across[:1], against, *across[1:], matrix_table(view), *pairs, spectrum_table(study),
                    base_table(study)),
            intro="Where the updates point, how large they are, and what noise alone would give. A percentile among "
            "random subspaces is high for near cosines and overlaps, low for near angles.",
        ),
        *([why] if why.tables or why.pictures or found.on(WHY) else []),
        Section(
            PATHS,
            barrier_tables(study),
            figures(*(f"path-{reading}" for reading in READINGS)),
            _paths_intro(study),
        ),
        Section(
            FUNCTIONS,
            present(functions_table(study), cka_table(study), divergence_matrix(study)),
            figures("cka"),
            "How far hidden states and output distributions moved.",
        ),
        Section(
            "Over the layers and the steps",
            [training_table(study)],
            figures("layers", "angles", "outside", "spectra", "training"),
        ),
        Section(
            DATA,
            [*rollouts, *benchmarks_tables(study), *turn_tables(study), checks_table(study), *examples],
            intro="What was trained on, what fell out, and what was not measured.",
        ),
        Section(STUDY, [*stage_tables(study), settings_table(study), versions_table(study)]),
    )  # fmt: skip
    return Document(
        brand="colinear study",
        name=study.name,
        facts=study_facts(study),
        sample=sample_problem(study),
        findings=found,
        claims=claims,
        tally=tally,
        notes=tuple(str(note) for note in study.record.get("notes") or []),
        pictures=figures("cosines", "accuracy"),
        headline=headline_table(study),
        sections=tuple(replace(one, said=(*found.on(one.title), *one.said)) for one in sections),
        files=(*(f"{name}.parquet" for name in SCHEMAS), "study.json", "claims.json"),
        explore=build_explore(study),
    )


def present(*tables: Table | None) -> list[Table]:
    """Those that the study has."""
    return [table for table in tables if table is not None]


def _paths_intro(study: Study) -> str:
    """What a path is, and on how few problems it is read."""
    lead = (
        "Whether the straight line from one model to the next leads over a hill of the loss. The boxed answer is "
        "scored right after the prompt, without any working, so its loss is high even where the model solves it."
    )
    n = ((study.record.get("settings") or {}).get("paths") or {}).get("n")
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
    return Tally(f"{count(len(own), 'claim')} of the paper", counts, disagreements(own), section_key(CLAIMS))
