"""A page of many studies before it is HTML or Markdown."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import polars as pl

from tasks.reporting.claims.measured import NOT_MEASURED
from tasks.reporting.claims.output import MARKS
from tasks.reporting.claims.rules import FAILS, HOLDS, NO_POWER
from tasks.reporting.findings.sentences import ACCURACY, ANSWERS, DIRECTIONS, MANY_CLAIMS, MIDPOINTS, RATES, STUDIES
from tasks.reporting.formats import learning_rate, listed
from tasks.reporting.many.answers import answers_table
from tasks.reporting.many.claim_tables import claim_tables, claims_frame, joined_claims
from tasks.reporting.many.direction_tables import between_tables, itself_tables, midpoint_table
from tasks.reporting.many.figures import (
    accuracy_picture,
    cosines_picture,
    on_policy_picture,
    rate_pictures,
)
from tasks.reporting.many.findings import many_findings
from tasks.reporting.many.forgetting import forgetting_table
from tasks.reporting.many.frames import LEFT_OUT, joined_frames
from tasks.reporting.many.joined import Many, unrecorded
from tasks.reporting.many.method_tables import accuracy_tables, each_table, rates_table, steps_table
from tasks.reporting.many.study_table import settings_table, software, studies_table
from tasks.reporting.many.sweep import cells_table
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.render.document import Document, Section, Tally, section_key


def many_document(many: Many) -> Document:
    """Derive every view of the joined studies."""
    rates = rate_pictures(many) if many.has_rates else []
    pictures = (accuracy_picture(many), cosines_picture(many), on_policy_picture(many), *rates)
    drawn = {one.key: one for one in pictures if one is not None}
    first = {key: drawn[key] for key in ("accuracy", "cosines") if key in drawn}
    below = {key: (picture,) for key, picture in first.items() if many.sweep}  # the answers stand above them
    (between, *others), (itself, *otherwise), answers = between_tables(many), itself_tables(many), answers_table(many)
    found, sweep = many_findings(many), many.sweep
    sections = (
        Section("Cells", [cells_table(sweep), studies_table(many)]) if sweep else Section(ANSWERS, [answers]),
        Section(
            ACCURACY,
            [*accuracy_tables(many), each_table(many), forgetting_table(many)],
            below.get("accuracy", ()),
            "What the methods gain or lose against the base, over all trainings.",
        ),
        Section(
            DIRECTIONS,
            [between, itself, *others, *otherwise],
            (*below.get("cosines", ()), *(one for one in drawn.values() if one.key == "on-policy")),
            "How near methods are to each other, and each to itself.",
        ),
        Section(RATES, [rates_table(many), steps_table(many)], tuple(rates)),
        Section(MIDPOINTS, [midpoint_table(many)]),
        Section(MANY_CLAIMS, claim_tables(many)),
        Section(STUDIES, [settings_table(many)]),
    )
    return Document(
        brand="colinear sweep" if sweep else "colinear report",
        name=f"{sweep.name}: {count(len(sweep.cells), 'cell')}" if sweep else _name(many),
        facts=_facts(many),
        findings=found,
        tally=_tally(many),
        notes=tuple(_notes(many)),
        pictures=() if sweep else tuple(first.values()),
        headline=answers if sweep else studies_table(many),
        sections=tuple(replace(one, said=found.on(one.title)) for one in sections),
        files=(*(f"{name}.parquet" for name in page_frames(many)), "many.json", *(one.file for one in drawn.values())),
    )


def page_frames(many: Many) -> dict[str, pl.DataFrame]:
    """The frames that lie beside the page, by the name of their file."""
    own = {name: getattr(many, name) for name in ("runs", "scores", "pairs", "across", "midpoints")}
    return {**joined_frames(many), **own, "claims": claims_frame(many)}


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
    return Tally(f"{count(len(own), 'claim')} of the paper", tuple(counts), "", section_key(MANY_CLAIMS))


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


def _notes(many: Many) -> list[str]:
    notes = [many.why] if many.why else []
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
