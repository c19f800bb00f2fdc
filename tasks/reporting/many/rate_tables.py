"""Learning rates: how the update turns and grows, and DPO at the rate of the others and at its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl

from tasks.reporting.estimates import spread
from tasks.reporting.formats import learning_rate, percent, points, significant
from tasks.reporting.many.accuracy_tables import verdicts_cell
from tasks.reporting.many.direction_tables import three, two
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, grouped, once, qualified, values
from tasks.reporting.many.spread import cell
from tasks.reporting.tables.views import Cell, Table

_BARRIERS = ("barrier_to_sft", "barrier_to_sft_matched")
MATCHED = "the rate of SFT"


def growth(norm_low: float, norm_high: float, lr_low: float, lr_high: float) -> float:
    """Factor by which a norm grows for each factor of 10 in the learning rate: (n2 / n1)^(1 / log10(lr2 / lr1)).

    The exponent makes steps of other sizes comparable; it takes the growth to be a power law between the two.
    """
    return float((norm_high / norm_low) ** (1 / math.log10(lr_high / lr_low)))


def rate_steps(many: Many, runs: pl.DataFrame, across: pl.DataFrame) -> dict[tuple[str, float, float, int], Rows]:
    """(method, lower rate, next rate, condition) -> one row a pair of trainings that differ in nothing else.

    A row has ``growth`` of the norm for each factor of 10, and ``cosine`` and ``u1_overlap`` of the two (None where
    the pair was not measured).
    """
    known = {(row["training_a"], row["training_b"]): row for row in across.to_dicts()}
    found: dict[tuple[str, float, float, int], Rows] = {}
    same = ("method", "condition", "base", "seed", "data_seed")
    for (method, condition, *_), own in grouped(once(runs), *same).items():
        rates = {row["lr"]: row for row in sorted(own, key=lambda row: row["lr"])}
        for (low, a), (high, b) in zip(list(rates.items())[:-1], list(rates.items())[1:], strict=True):
            pair = known.get((a["training"], b["training"]), {})
            both = bool(a["norm"] and b["norm"])
            row = {
                "study": f"{a['study']} and {b['study']}",
                "growth": growth(a["norm"], b["norm"], low, high) if both else None,
                "cosine": pair.get("cosine"),
                "u1_overlap": pair.get("u1_overlap"),
            }
            found.setdefault((method, low, high, condition), []).append(row)
    return found


def steps_table(many: Many, runs: pl.DataFrame, across: pl.DataFrame) -> Table:
    """One row a method and a step from one learning rate to the next."""
    rows = []
    steps = rate_steps(many, runs, across)
    for method, low, high, condition in sorted(steps, key=lambda key: (many.methods.index(key[0]), key[3], key[1])):
        own = steps[method, low, high, condition]
        words = many.condition(condition)
        name = Cell(method, (f"lr {learning_rate(low)} to {learning_rate(high)}", *([words] if words else [])))
        forms = (("growth", two), ("cosine", three), ("u1_overlap", three))
        rows.append(
            (name, Cell(str(len(own))), *(cell(spread(values(own, key)), form, of=len(own)) for key, form in forms))
        )
    note = (
        "Pairs of trainings of one method, one initialisation, one order of the data, at one learning rate and at the "
        "next; everything else is equal. Growth: factor of the norm for each factor of 10 in the rate. Cosine and "
        "|u1 u1'|: of the two updates; they need both adapters, from one MLflow store. The paper has cosine about .55 "
        "and growth about 3 for a factor of 10."
        if rows
        else "No two trainings of one method differ in the learning rate alone."
    )
    header = ("Method", "Pairs", "Norm, times for each x10", "Cosine of the two", "|u1 u1'| of the two")
    return Table("steps", "From one learning rate to the next", header, tuple(rows), note)


def rates_table(many: Many, runs: pl.DataFrame, scores: pl.DataFrame) -> Table:
    """One row a method and learning rate: size, direction, distance and accuracy."""
    rows, scored = [], _scored(many, scores)
    found = grouped(once(runs), "method", "condition", "lr")
    for method, condition, lr in sorted(found, key=lambda key: (many.methods.index(key[0]), key[1], key[2])):
        own = found[method, condition, lr]
        rows.append((Cell(method, qualified(lr, condition, many)), Cell(str(len(own))), *_cells(own, scored)[:5]))
    header = ("Method", "Trainings", "Norm", "Cosine to SFT", "Accuracy, %", "Against its base, points",
              "KL from base, nats/token")  # fmt: skip
    note = (
        "Mean over trainings, below it their standard deviation and range. Cosine to SFT: to the SFT of the same "
        "study, of the same initialisation and order of the data, at the study's own learning rate."
    )
    return Table("rates", "Every method at every learning rate", header, tuple(rows), note)


def dpo_table(many: Many, runs: pl.DataFrame, scores: pl.DataFrame) -> Table | None:
    """DPO at each of its learning rates beside SFT's; None where no study has DPO."""
    scored, everything = _scored(many, scores), runs.to_dicts()
    own = [row for row in everything if row["method"] == "dpo" and row["reference_lr"]]
    if not own:
        return None
    beside = {(row["base"], row["reference_lr"], row["condition"]) for row in own}
    rows = []
    for (lr, reference, condition), some in sorted(_distinct(own).items(), key=lambda one: (one[0][1], one[0][0])):
        ratio = "matched: " + MATCHED if math.isclose(lr, reference) else f"unmatched: {lr / reference:g} x SFT's"
        name = Cell("dpo", (*qualified(lr, condition, many), ratio))
        rows.append((name, Cell(str(len(some))), *_cells(some, scored)))
    rates = {rate for _, rate, _ in beside}
    sft = [row for row in everything if row["method"] == "sft" and row["lr"] in rates and not row["repeated"]]
    marks = {}
    for (lr, condition), some in sorted(grouped(sft, "lr", "condition").items()):
        marks[len(rows)] = "floor"
        name = Cell("sft", (*qualified(lr, condition, many), "for comparison"))
        rows.append((name, Cell(str(len(some))), *_cells(some, scored)))
    header = ("Method", "Trainings", "Norm", "Cosine to SFT", "Accuracy, %", "Against its base, points",
              "KL from base, nats/token", "Barrier to SFT, nats/token", "Barrier at one norm, nats/token",
              "Verdicts")  # fmt: skip
    note = (
        "A DPO whose rate is SFT's in its study is matched. Cosine and barrier: to the SFT of its study, same "
        "initialisation and order of the data; barrier: largest height of the reference solutions' cross-entropy above "
        "the straight line, as the updates are and with both at one norm. Verdicts: exact McNemar against the base."
    )
    return Table("dpo", "DPO at SFT's learning rate and at others", header, tuple(rows), note, marks=marks)


def _distinct(rows: Rows) -> dict[tuple[Any, ...], Rows]:
    """By own rate, rate of SFT, condition: each training once; one that two studies hold against SFTs of two rates
    stands in both groups."""
    found: dict[tuple[Any, ...], Rows] = {}
    for key, some in grouped(rows, "lr", "reference_lr", "condition").items():
        found[key] = list({row["training"]: row for row in reversed(some)}.values())[::-1]
    return found


def _scored(many: Many, scores: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    own = scores.filter(pl.col("benchmark") == many.benchmark).to_dicts()
    return {(row["study"], row["run"]): row for row in own}


def _cells(rows: Rows, scored: dict[tuple[str, str], dict[str, Any]]) -> tuple[Cell, ...]:
    """Norm, cosine, accuracy, difference, divergence, the two barriers, verdicts."""
    found = [scored[key] for row in rows if (key := (row["study"], row["run"])) in scored]

    def told(some: Rows, key: str, form: Callable[[float], str], width: Callable[[float], str] | None = None) -> Cell:
        return cell(spread(values(some, key)), form, width, of=len(rows))

    itself = rows[0]["method"] == "sft"
    small = partial(significant, digits=2)
    to_sft = [Cell("itself")] * 3 if itself else [
        told(rows, "cosine_to_sft", three), *(told(rows, key, small) for key in _BARRIERS)
    ]  # fmt: skip
    return (
        told(rows, "norm", partial(significant, digits=3)),
        to_sft[0],
        told(found, "accuracy", percent),
        told(found, "difference", points, percent),
        told(rows, "kl_from_base", small),
        *to_sft[1:],
        verdicts_cell(found),
    )


def has_rates(runs: pl.DataFrame) -> bool:
    """Whether some method was trained at more than one learning rate."""
    return any(len({row["lr"] for row in own}) > 1 for own in grouped(runs.to_dicts(), "method").values())
