"""A page of many studies before it is HTML or Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from tasks.reporting.charts.explore_pairs import finite
from tasks.reporting.charts.numbers import MOST_ROWS
from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.rows import MARKS
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.findings.topics import ACCURACY, DIRECTIONS, MANY_CLAIMS, MIDPOINTS, RATES, STUDIES
from tasks.reporting.formats import learning_rate, listed
from tasks.reporting.many.accuracy_tables import accuracy_tables, each_table
from tasks.reporting.many.answers import answers_table
from tasks.reporting.many.claim_tables import claim_tables, claims_frame, joined_claims
from tasks.reporting.many.direction_tables import between_tables, itself_tables, midpoint_table
from tasks.reporting.many.figures import Drawn, accuracy_drawn, cosines_drawn, rates_drawn
from tasks.reporting.many.findings import many_findings
from tasks.reporting.many.frames import LEFT_OUT, joined_frames, runs_frame, scores_frame
from tasks.reporting.many.joined import Many, unrecorded
from tasks.reporting.many.pair_frames import across_frame, pairs_frame
from tasks.reporting.many.rate_tables import dpo_table, has_rates, rates_table, steps_table
from tasks.reporting.many.study_table import settings_table, software, studies_table
from tasks.reporting.many.sweep import Sweep, cells_table, midpoints_frame
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.render.document import Document, Section, Tally


@dataclass(frozen=True, eq=False)
class Page:
    """The document with the frames and figures' numbers that lie beside it."""

    document: Document
    frames: dict[str, pl.DataFrame]
    numbers: dict[str, pl.DataFrame]


def many_page(many: Many, measured: pl.DataFrame | None = None, why: str = "", sweep: Sweep | None = None) -> Page:
    """Derive every view of the joined studies.

    ``measured``: geometry of trainings of one method across studies (PAIR_METRICS_FRAME, runs called by their numbers);
    None where it was not taken. ``why``: a sentence on what was not, and why. ``sweep``: of a sweep's cells what came
    of each, and the paths between seeds.
    """
    runs, scores, pairs = runs_frame(many), scores_frame(many), pairs_frame(many)
    across = across_frame(many, measured)
    midpoints = midpoints_frame(pairs, sweep)
    drawn = {one.picture.key: one for one in _drawn(many, runs, scores, pairs, across)}
    first = {key: drawn[key].picture for key in ("accuracy", "cosines") if key in drawn}
    below = {key: (picture,) for key, picture in first.items() if sweep}  # a sweep's table of answers stands above them
    rest = tuple(one.picture for key, one in drawn.items() if key.startswith("rate-"))
    accuracy = accuracy_tables(many, scores)
    claims, unread = claim_tables(many)
    between, *others_between = between_tables(many, pairs, across)
    itself, *others_itself = itself_tables(many, across, why)
    dpo = dpo_table(many, runs, scores)
    steps = (rates_table(many, runs, scores),) if has_rates(runs) else ()
    frames = {
        **joined_frames(many),
        "runs": runs, "scores": scores, "pairs": pairs, "across": across, "midpoints": midpoints,
        "claims": claims_frame(many),
    }  # fmt: skip
    found = many_findings(many, runs, scores, pairs, across, midpoints, sweep)
    document = Document(
        brand="colinear sweep" if sweep else "colinear report",
        name=f"{sweep.name}: {count(len(sweep.cells), 'cell')}" if sweep else _name(many),
        facts=_facts(many),
        findings=found,
        tally=_tally(many),
        notes=tuple(_notes(many, why)),
        pictures=() if sweep else tuple(first.values()),
        headline=answers_table(many, runs, scores, across, midpoints, sweep) if sweep else studies_table(many),
        sections=tuple(
            replace(one, said=found.on(one.title))
            for one in (
                *([Section("Cells", (), (cells_table(sweep, many),), (studies_table(many),))] if sweep else []),
                Section(
                    ACCURACY,
                    below.get("accuracy", ()),
                    tuple(accuracy[:1]),
                    (*accuracy[1:], each_table(scores, many.benchmark)),
                    "What the methods gain or lose against the base, over all trainings.",
                ),
                Section(
                    DIRECTIONS,
                    below.get("cosines", ()),
                    (between, itself),
                    (*others_between, *others_itself),
                    "How near methods are to each other, and each to itself.",
                ),
                Section(RATES, rest, (*([dpo] if dpo else []), steps_table(many, runs, across)), steps),
                Section(MIDPOINTS, (), (midpoint_table(midpoints),), ()),
                Section(MANY_CLAIMS, (), tuple(claims), tuple(unread)),
                Section(STUDIES, (), (settings_table(many),), ()),
            )
        ),
        files=(*(f"{name}.parquet" for name in frames), "many.json", *(f"figure-{key}.csv" for key in drawn)),
        numbers={key: _rows(one.numbers, key) for key, one in drawn.items()},
    )
    return Page(document, frames, {key: one.numbers for key, one in drawn.items()})


def _tally(many: Many) -> Tally | None:
    """The paper's claims by what all studies that measured them say."""
    own = [one for one in joined_claims(many) if not one.first["open"]]
    if not own:
        return None
    agreed = Counter(one.agreed for one in own if one.measured)
    never = sum(not one.measured for one in own)
    words = {
        HOLDS: "hold in all that measured them",
        FAILS: "hold in none",
        NO_POWER: "without power",
        None: "judged differently",
    }
    counts = [
        (MARKS[verdict][1] if verdict else "far", agreed[verdict], f"{MARKS[verdict][0] if verdict else '≠'} {said}")
        for verdict, said in words.items()
        if agreed[verdict]
    ]
    counts += [("open", never, f"{MARKS[NOT_MEASURED][0]} not measured")] if never else []
    section = Section(MANY_CLAIMS, (), (), ())
    return Tally(f"{count(len(own), 'claim')} of the paper", tuple(counts), "", section.key)


def _drawn(many: Many, *frames: pl.DataFrame) -> list[Drawn]:
    runs, scores, pairs, across = frames
    found: list[Drawn | None] = [accuracy_drawn(many, scores), cosines_drawn(many, pairs, across)]
    if has_rates(runs):
        found += rates_drawn(many, runs, scores)
    return [one for one in found if one is not None]


def _rows(frame: pl.DataFrame, key: str) -> dict[str, Any]:
    if frame.height > MOST_ROWS:
        return {"file": f"figure-{key}.csv"}
    rows = [[finite(value) if isinstance(value, float) else value for value in row] for row in frame.iter_rows()]
    return {"columns": frame.columns, "rows": rows}


def _name(many: Many) -> str:
    names = list(dict.fromkeys(str(study.settings.get("name") or "study") for study in many.studies))
    joined = listed(names)
    return f"{len(many.studies)} studies: {joined}" if len(joined) <= 60 else f"{len(many.studies)} studies"


def _facts(many: Many) -> tuple[tuple[str, str], ...]:
    rates = sorted({one.info.lr for one in many.distinct if one.info.lr is not None})
    return (
        ("Studies", str(len(many.studies))),
        ("Bases", str(len(set(many.bases)))),
        ("Distinct trainings", str(len(many.distinct))),
        ("Methods", str(len(many.methods))),
        ("Learning rates", listed([learning_rate(rate) for rate in rates]) or "unknown"),
    )


def _notes(many: Many, why: str) -> list[str]:
    notes = [why] if why else []
    if all(len({one.info.seed for one in many.distinct if one.base == base}) < 2 for base in set(many.bases)):
        notes.append("All trainings of a base share one initialisation seed: nothing says what another would give.")
    notes.append(
        "A spread is over the trainings at hand, not an interval: with two or three of them it says little of a fourth."
    )
    notes.append(f"The joined frames leave out {listed(LEFT_OUT)}, which lie in each study's own folder.")
    if unknown := unrecorded(many.studies):
        notes.append(
            f"Not every study's record has {named(unknown, MOST_LISTED)} (another version of colinear wrote it): "
            "whether they differ there is not known, and such studies are taken for alike."
        )
    return notes + software(many)
