"""The questions that the paper leaves open, each with the sweep's answer, over how many, and what the paper has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import polars as pl

from tasks.reporting.estimates import Spread, spread
from tasks.reporting.formats import learning_rate, points, significant
from tasks.reporting.many.accuracy_tables import verdicts_cell
from tasks.reporting.many.direction_tables import FLOORS, ORDER, one, three, two
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rate_tables import rate_steps
from tasks.reporting.many.rows import Rows, grouped, values
from tasks.reporting.many.sweep import Sweep, wrapped
from tasks.reporting.tables.views import Cell, Table

_SMALL = partial(significant, digits=2)
_Row = tuple[Cell, ...]


def answers_table(
    many: Many, runs: pl.DataFrame, scores: pl.DataFrame, across: pl.DataFrame, midpoints: pl.DataFrame, sweep: Sweep
) -> Table:
    """One row a question and condition. Frames as `many_page` has them."""
    rows = [
        *_dpo(many, runs, scores),
        *_floors(across),
        *_steps(many, runs, across),
        *_midpoints(midpoints),
        *_diverged(sweep),
    ]
    note = (
        "Mean, in brackets lowest to highest over distinct trainings (DPO) or pairs of them (the others), of all "
        "methods at that rate; n is their number. Angle: of the first left singular vectors, median over modules; "
        "overlaps: mean over modules. Half-way: the reference solutions' cross-entropy less the mean of the ends. The "
        "tables below have every method by itself. The paper's numbers are of Qwen3-4B at its own learning rates."
    )
    header = ("Question", "Answer", "n", "In the paper")
    return Table("answers", "What the paper leaves open", header, tuple(rows), note, words=len(header))


def _told(found: Spread | None, form: Callable[[float], str]) -> str:
    """``'0.98 (0.97 to 0.99)'``; n has a column of its own."""
    if found is None:
        return "not measured"
    return form(found.mean) + ("" if found.n == 1 else f" ({found.range(form)})")


def _of(rows: Rows, column: str, form: Callable[[float], str]) -> str:
    return _told(spread(values(rows, column)), form)


def _dpo(many: Many, runs: pl.DataFrame, scores: pl.DataFrame) -> Iterator[_Row]:
    """DPO beside the SFT of its cell: at SFT's rate, then at others."""
    own = [row for row in runs.to_dicts() if row["method"] == "dpo" and row["reference_lr"]]
    known = {(row["study"], row["run"]): row for row in scores.filter(pl.col("benchmark") == many.benchmark).to_dicts()}
    groups = grouped(own, "reference_lr", "lr")
    for reference, lr in sorted(groups, key=lambda key: (not math.isclose(*key), key)):
        rows = list({row["training"]: row for row in groups[reference, lr]}.values())
        scored = [known[key] for row in rows if (key := (row["study"], row["run"])) in known]
        matched = math.isclose(reference, lr)
        where = f"lr {learning_rate(lr)}, SFT's" if matched else f"lr {learning_rate(lr)}, {lr / reference:.3g} x SFT's"
        accuracy = f"{_of(scored, 'difference', points)} points against the base"
        subs = (
            verdicts_cell(scored).plain,
            f"cosine to SFT {_of(rows, 'cosine_to_sft', three)}",
            f"norm {_of(rows, 'norm_over_sft', _SMALL)} of SFT's",
        )
        paper = "left to future work" if matched else "0.1 x SFT's rate: cosine .06, norm 1/13"
        yield (Cell("DPO at SFT's learning rate?" if matched else "DPO at another rate", (where,)),
               Cell(accuracy, subs), Cell(str(len(rows))), Cell(paper))  # fmt: skip


def _floors(across: pl.DataFrame) -> Iterator[_Row]:
    same = [row for row in across.to_dicts() if row["lr_a"] == row["lr_b"] and row["cosine"] is not None]
    groups = grouped([row for row in same if row["differs"] in FLOORS], "differs", "lr_a")
    for kind, lr in sorted(groups, key=lambda key: (FLOORS.index(key[0]), key[1])):
        rows = groups[kind, lr]
        subs = (
            f"|u1 u1'| {_of(rows, 'u1_overlap', three)}, |v1 v1'| {_of(rows, 'v1_overlap', three)}",
            f"angle of u1 {_of(rows, 'angle', one)} degrees",
            _methods(rows),
        )
        paper = "not measured" if kind == ORDER else "cosine .07 to .36, |u1 u1'| .99, |v1 v1'| .07"
        answer = Cell(f"cosine {_of(rows, 'cosine', three)}", subs)
        yield (
            Cell(f"Same method, other {kind}?", (f"lr {learning_rate(lr)}",)),
            answer,
            Cell(str(len(rows))),
            Cell(paper),
        )


def _steps(many: Many, runs: pl.DataFrame, across: pl.DataFrame) -> Iterator[_Row]:
    steps = rate_steps(many, runs, across)
    for low, high in sorted({(low, high) for _, low, high, _ in steps}):
        rows = [{**row, "method": key[0]} for key, own in steps.items() if key[1:3] == (low, high) for row in own]
        subs = (
            f"cosine of the two {_of(rows, 'cosine', three)}",
            f"|u1 u1'| {_of(rows, 'u1_overlap', three)}",
            _methods(rows),
        )
        yield (Cell("What does a higher rate do?", (f"lr {learning_rate(low)} to {learning_rate(high)}",)),
               Cell(f"norm x {_of(rows, 'growth', two)} for each factor of 10", subs), Cell(str(len(rows))),
               Cell("norm about x 3, cosine about .55"))  # fmt: skip


def _midpoints(midpoints: pl.DataFrame) -> Iterator[_Row]:
    groups = grouped(midpoints.to_dicts(), "differs", "lr")
    for kind, lr in sorted(groups, key=lambda key: (FLOORS.index(key[0]), key[1])):
        rows = groups[kind, lr]
        subs = (f"barrier {_of(rows, 'barrier', _SMALL)}", _methods(rows))
        paper = "not measured" if kind == ORDER else "+0.004 (of the boxed answer)"
        answer = Cell(f"{_of(rows, 'midpoint', _SMALL)} nats/token", subs)
        yield (
            Cell(f"Half-way to itself, other {kind}?", (f"lr {learning_rate(lr)}",)),
            answer,
            Cell(str(len(rows))),
            Cell(paper),
        )


def _diverged(sweep: Sweep) -> Iterator[_Row]:
    runs = {(run["method"], run["seed"], run["data_seed"], run["lr"]): run for _, run in sweep.diverged}
    for (method, lr), found in grouped([dict(run) for run in runs.values()], "method", "lr").items():
        yield (Cell("Which trainings diverge?", (f"lr {learning_rate(lr)}",)),
               Cell(method, wrapped(*(f"seed {run['seed']}: {run['reason']}" for run in found))), Cell(str(len(found))),
               Cell("not reported"))  # fmt: skip


def _methods(rows: Rows) -> str:
    names = list(dict.fromkeys(row["method"] for row in rows))
    return f"of {', '.join(names)}"
