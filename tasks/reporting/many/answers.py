"""The questions that the paper leaves open, each with the sweep's answer, over how many, and what the paper has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from tasks.reporting.estimates import Spread, spread
from tasks.reporting.formats import learning_rate, points, significant
from tasks.reporting.many.direction_tables import one, three, two
from tasks.reporting.many.frames import FLOORS, ORDER
from tasks.reporting.many.joined import Many
from tasks.reporting.many.method_tables import verdicts_cell
from tasks.reporting.many.rows import Rows, grouped, values
from tasks.reporting.many.sweep import Sweep, wrapped
from tasks.reporting.tables.views import Cell, Cells, Table

_SMALL = partial(significant, digits=2)


def answers_table(many: Many) -> Table:
    """One row a question and condition."""
    rows = [*_dpo(many), *_floors(many), *_steps(many), *_midpoints(many), *_diverged(many.sweep)]
    note = (
        "Mean, in brackets lowest to highest over distinct trainings (DPO) or pairs of them (the others), of all "
        "methods at that rate; n is their number. Angle: of the first left singular vectors, median over modules; "
        "overlaps: mean over modules. Half-way: the reference solutions' cross-entropy less the mean of the ends. The "
        "tables below have every method by itself. The paper's numbers are of Qwen3-4B at its own learning rates."
    )
    header = ("Question", "Answer", "n", "In the paper")
    return Table("answers", "What the paper leaves open", header, rows, note, words=len(header))


def _told(found: Spread | None, form: Callable[[float], str]) -> str:
    """``'0.98 (0.97 to 0.99)'``; n has a column of its own."""
    if found is None:
        return "not measured"
    return form(found.mean) + ("" if found.n == 1 else f" ({found.range(form)})")


def _of(rows: Rows, column: str, form: Callable[[float], str]) -> str:
    return _told(spread(values(rows, column)), form)


def _dpo(many: Many) -> Iterator[Cells]:
    """DPO beside the SFT of its cell: at SFT's rate, then at others."""
    own = [row for row in many.runs.to_dicts() if row["method"] == "dpo" and row["reference_lr"]]
    groups = grouped(own, "reference_lr", "lr")
    if own and not any(math.isclose(*key) for key in groups):
        none = Cell("in none of these studies", ("--set matched=dpo trains it",))
        yield Cells("DPO at SFT's learning rate?", none, 0, "left to future work")
    for reference, lr in sorted(groups, key=lambda key: (not math.isclose(*key), key)):
        rows = list({row["training"]: row for row in groups[reference, lr]}.values())
        scored = many.scores_of(rows)
        matched = math.isclose(reference, lr)
        where = f"lr {learning_rate(lr)}, SFT's" if matched else f"lr {learning_rate(lr)}, {lr / reference:.3g} x SFT's"
        accuracy = f"{_of(scored, 'difference', points)} points against the base"
        subs = (
            verdicts_cell(scored).plain,
            f"cosine to SFT {_of(rows, 'cosine_to_sft', three)}",
            f"norm {_of(rows, 'norm_over_sft', _SMALL)} of SFT's",
        )
        paper = "left to future work" if matched else "0.1 x SFT's rate: cosine .06, norm 1/13"
        question = Cell("DPO at SFT's learning rate?" if matched else "DPO at another rate", (where,))
        yield Cells(question, Cell(accuracy, subs), len(rows), paper)


def _floors(many: Many) -> Iterator[Cells]:
    same = [row for row in many.across.to_dicts() if row["lr_a"] == row["lr_b"] and row["cosine"] is not None]
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
        yield Cells(Cell(f"Same method, other {kind}?", (f"lr {learning_rate(lr)}",)), answer, len(rows), paper)


def _steps(many: Many) -> Iterator[Cells]:
    for low, high in sorted({key[1:3] for key in many.steps}):
        rows = [row for key, own in many.steps.items() if key[1:3] == (low, high) for row in own]
        subs = (
            f"cosine of the two {_of(rows, 'cosine', three)}",
            f"|u1 u1'| {_of(rows, 'u1_overlap', three)}",
            _methods(rows),
        )
        question = Cell("What does a higher rate do?", (f"lr {learning_rate(low)} to {learning_rate(high)}",))
        answer = Cell(f"norm x {_of(rows, 'growth', two)} for each factor of 10", subs)
        yield Cells(question, answer, len(rows), "norm about x 3, cosine about .55")


def _midpoints(many: Many) -> Iterator[Cells]:
    groups = grouped(many.midpoints.to_dicts(), "differs", "lr")
    for kind, lr in sorted(groups, key=lambda key: (FLOORS.index(key[0]), key[1])):
        rows = groups[kind, lr]
        subs = (f"barrier {_of(rows, 'barrier', _SMALL)}", _methods(rows))
        paper = "not measured" if kind == ORDER else "+0.004 (of the boxed answer)"
        answer = Cell(f"{_of(rows, 'midpoint', _SMALL)} nats/token", subs)
        yield Cells(Cell(f"Half-way to itself, other {kind}?", (f"lr {learning_rate(lr)}",)), answer, len(rows), paper)


def _diverged(sweep: Sweep | None) -> Iterator[Cells]:
    runs = {
        (run["method"], run["seed"], run["data_seed"], run["lr"]): run for _, run in (sweep.diverged if sweep else ())
    }
    for (method, lr), found in grouped([dict(run) for run in runs.values()], "method", "lr").items():
        which = Cell(method, wrapped(*(f"seed {run['seed']}: {run['reason']}" for run in found)))
        yield Cells(Cell("Which trainings diverge?", (f"lr {learning_rate(lr)}",)), which, len(found), "not reported")


def _methods(rows: Rows) -> str:
    names = list(dict.fromkeys(row["method"] for row in rows))
    return f"of {', '.join(names)}"
