"""Accuracy and learning rates by method over the studies."""

from __future__ import annotations

from collections import Counter
from functools import partial

import polars as pl

from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EQUAL, NO_POWER
from tasks.reporting.formats import (
    NOT_MEASURED,
    benchmark_name,
    learning_rate,
    p_value,
    percent,
    points,
    points_interval,
    significant,
    span,
)
from tasks.reporting.many.direction_tables import three, two
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, cell, grouped, once, values
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.accuracy import MARGIN
from tasks.reporting.views.study import REFERENCES

POOLED = (
    "Every training counts once, though several studies may share it; a method's replicates (another data order, "
    "another initialisation) are trainings of it. sd: over trainings, n - 1; below it lowest to highest. One training "
    "has no spread."
)


def accuracy_tables(many: Many) -> list[Table]:
    """One table a benchmark, the first study's first one in front: a row a method and learning rate, the base first."""
    names = many.scores["benchmark"].unique(maintain_order=True).to_list()
    names.sort(key=lambda name: name != many.benchmark)
    return [_pooled(name, many, once(many.scores.filter(pl.col("benchmark") == name))) for name in names]


def _pooled(benchmark: str, many: Many, rows: Rows) -> Table:
    bases = [row for row in rows if row["method"] == "base"]
    body = [_base_row(group, many) for group in grouped(bases, "base").values()]
    body = body or [Cells("base", 0, *[NOT_MEASURED] * 3)]
    trained = [row for row in rows if row["method"] not in REFERENCES]
    for (method, lr, condition), own in many.by_method(trained).items():
        body.append(
            Cells(
                Cell(method, many.qualified(lr, condition)),
                len(own),
                cell(own, "accuracy", percent),
                cell(own, "difference", points, percent),
                verdicts_cell(own),
            )
        )
    n = span(values(rows, "n"), 0)
    mixed = " Accuracies of several bases are pooled: read the difference." if len(set(many.bases)) > 1 else ""
    title = f"{benchmark_name(benchmark)} accuracy by method"
    note = (
        f"Greedy answers, n = {n} problems. {POOLED} Against the base: paired with the base of its own study; differs: "
        "exact McNemar, p up to 0.05, Holm-adjusted over the main runs of the training's own study (a replicate's is "
        f"not adjusted); equal: the paired 95 % interval lies within {MARGIN}.{mixed}"
    )
    key = "accuracy" if benchmark == many.benchmark else f"accuracy-{many_key(benchmark)}"
    header = ("Method", "Trainings", "Accuracy, %", "Against its base, points", "Against its base, verdicts")
    return Table(key, title, header, body, note)


def many_key(text: str) -> str:
    """``text`` as part of an element's id and of a file's name."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text)


def _base_row(rows: Rows, many: Many) -> Cells:
    """A base that several studies evaluated is one row: the first one's numbers."""
    row = rows[0]
    whose = [study.label for study, base in zip(many.studies, many.bases, strict=True) if base == row["base"]]
    name = "base" if len(set(many.bases)) == 1 else f"base {row['base'] + 1}"
    interval = f"{percent(row['low'])} to {percent(row['high'])} (95 %)"
    return Cells(Cell(name, (count(len(whose), "study").replace("studys", "studies"),)), "untrained",
                 Cell(percent(row["accuracy"]), (interval,)), Cell("-", ("the base",)), "-")  # fmt: skip


def verdicts_cell(rows: Rows) -> Cell:
    """How often the test said what: ``differs in 2 of 3``, below it the rest."""
    found = Counter(row["verdict"] or NOT_MEASURED for row in rows)
    total = len(rows)
    little = said(f"of these by less than {MARGIN}: {found[DIFFERS_LITTLE]}" if found[DIFFERS_LITTLE] else "")
    rest = tuple(f"{name}: {found[name]}" for name in (EQUAL, NO_POWER, NOT_MEASURED) if found[name])
    return Cell(f"differs in {found[DIFFERS] + found[DIFFERS_LITTLE]} of {total}", (*little, *rest))


def each_table(many: Many) -> Table:
    """Every run of every study on the headline's benchmark, with its interval and its test."""
    rows = []
    for row in many.headline.to_dicts():
        reference = row["method"] in REFERENCES
        about = "reference" if reference else f"lr {learning_rate(row['lr'])} seed {row['seed']}"
        interval = points_interval(row["difference_low"], row["difference_high"])
        against = Cell("-") if row["method"] == "base" else Cell(points(row["difference"]), (interval,))
        alone = row["p_holm"] is None and row["p_value"] is not None
        p = p_value(row["p_value"] if alone else row["p_holm"]) + (" (unadjusted)" if alone else "")
        test = Cell("-") if row["method"] == "base" else Cell(p, (row["verdict"] or NOT_MEASURED,))
        training = "-" if row["training"] is None else str(row["training"] + 1)
        rows.append(
            Cells(row["study"], Cell(row["run"], (about,)), training, row["n"],
                  Cell(percent(row["accuracy"]), (f"{percent(row['low'])} to {percent(row['high'])}",)), against, test,
                  mark="base" if reference else "")
        )  # fmt: skip
    note = (
        "95 % intervals over problems: Wilson's, of a difference the paired one. p: exact McNemar, Holm-adjusted over "
        "the main runs of its study against their base. Training: rows of one number are one "
        "and the same training, which two studies share."
    )
    header = ("Study", "Run", "Training", "n", "Accuracy, %", "Against base, points", "p")
    return Table("each", f"{benchmark_name(many.benchmark)} accuracy of every run", header, rows, note, words=2)


def steps_table(many: Many) -> Table:
    """One row a method and a step from one learning rate to the next."""
    rows = []
    for method, low, high, condition in sorted(
        many.steps, key=lambda key: (many.methods.index(key[0]), key[3], key[1])
    ):
        own = many.steps[method, low, high, condition]
        words = many.condition(condition)
        name = Cell(method, (f"lr {learning_rate(low)} to {learning_rate(high)}", *([words] if words else [])))
        forms = (("growth", two), ("cosine", three), ("u1_overlap", three))
        rows.append(Cells(name, len(own), *(cell(own, key, form) for key, form in forms)))
    note = (
        "Pairs of trainings of one method, one initialisation, one order of the data, at one learning rate and at the "
        "next; everything else is equal. Growth: factor of the norm for each factor of 10 in the rate. Cosine and "
        "|u1 u1'|: of the two updates; they need both adapters, from one MLflow store. The paper has cosine about .55 "
        "and growth about 3 for a factor of 10."
        if rows
        else "No two trainings of one method differ in the learning rate alone."
    )
    header = ("Method", "Pairs", "Norm, times for each x10", "Cosine of the two", "|u1 u1'| of the two")
    return Table("steps", "From one learning rate to the next", header, rows, note)


def rates_table(many: Many) -> Table:
    """One row a method and learning rate: size, direction, accuracy, and how far it is from the base and from SFT."""
    rows, found = [], grouped(once(many.runs), "method", "condition", "lr")
    small = partial(significant, digits=2)
    for method, condition, lr in sorted(found, key=lambda key: (many.methods.index(key[0]), key[1], key[2])):
        own = found[method, condition, lr]
        scored, n = many.scores_of(own), len(own)
        to_sft = [
            Cell("itself") if method == "sft" else cell(own, column, form)
            for column, form in (("cosine_to_sft", three), ("barrier_to_sft", small), ("barrier_to_sft_matched", small))
        ]
        rows.append(
            Cells(
                Cell(method, many.qualified(lr, condition)),
                n,
                cell(own, "norm", partial(significant, digits=3)),
                to_sft[0],
                cell(scored, "accuracy", percent, of=n),
                cell(scored, "difference", points, percent, of=n),
                cell(own, "kl_from_base", small),
                *to_sft[1:],
                verdicts_cell(scored),
            )
        )
    header = (
        *("Method", "Trainings", "Norm", "Cosine to SFT", "Accuracy, %", "Against its base, points"),
        *("KL from base, nats/token", "Barrier to SFT, nats/token", "Barrier at one norm, nats/token", "Verdicts"),
    )
    note = (
        "Mean over trainings, below it their standard deviation and range. Cosine and barrier: to the SFT of the same "
        "study, of the same initialisation and order of the data, at the study's own learning rate; barrier: largest "
        "height of the reference solutions' cross-entropy above the straight line, as the updates are and with both at "
        "one norm. Verdicts: exact McNemar against the base."
    )
    return Table("rates", "Every method at every learning rate", header, rows, note)
