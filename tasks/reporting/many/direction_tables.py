"""Directions and sizes of updates: between methods within a study, and of a method beside itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from tasks.reporting.estimates import spread
from tasks.reporting.formats import NOT_MEASURED, learning_rate, number, significant
from tasks.reporting.many.frames import BOTH, FLOORS, INITIALISATION, ORDER
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, cell, grouped, told
from tasks.reporting.metrics import MANY
from tasks.reporting.tables.views import Cell, Cells, Table

three: Callable[[float], str] = partial(number, decimals=3)
one: Callable[[float], str] = partial(number, decimals=1)
two: Callable[[float], str] = partial(number, decimals=2)

_HEADER = tuple(metric.many.title for metric in MANY if metric.many)


def _cells(rows: Rows) -> list[Cell]:
    """Mean and spread of each metric, in the order of `_HEADER`."""
    return [cell(rows, metric.column, metric.text) for metric in MANY]


def between_tables(many: Many) -> list[Table]:
    """One row a pair of methods and their learning rates: mean and spread over studies, the floors beside. First the
    pairs with SFT, then the others."""
    rows: dict[bool, list[Cells]] = {True: [], False: []}
    for (a, b, lr_a, lr_b, condition), own in many.between.items():
        rates = learning_rate(lr_a) if lr_a == lr_b else f"{learning_rate(lr_a)} and {learning_rate(lr_b)}"
        words = many.condition(condition)
        name = Cell(f"{a} ~ {b}", (f"lr {rates}", *([words] if words else [])))
        cells = _cells(own)
        itself = _floor_cell(many, dict.fromkeys([(b, lr_b), (a, lr_a)]))
        orders = cell(many.crossed(own), "cosine", three)
        rows[b == "sft"].append(Cells(name, len(own), cells[0], orders, itself, *cells[1:]))
    header = ("Pair", "Pairs", "Cosine in one data order", "Across data orders", "Same method, cosine", *_HEADER[1:])
    note = (
        "Within one study, from one LoRA initialisation and one order of the data, whose noise the two share; a pair "
        "of trainings that two studies share counts once. Across data orders: the same of runs in two orders, which is "
        "what the same method beside itself may be held against. sd: over pairs, n - 1; below it lowest to highest. "
        "Same method: mean cosine of a method beside itself at that learning rate, in another order of the data or, "
        "where that is not known, from another initialisation: what noise alone does. Norm: |dW| of the first over "
        "|dW| of the second. Angle: median over modules; overlaps: mean over modules."
    )
    return [
        Table("between", "Between SFT and the others", header, tuple(rows[True]), note),
        Table("between-others", "Between the others", header, tuple(rows[False]), note),
    ]


def _floor_cell(many: Many, methods: Iterable[tuple[str, float]]) -> Cell:
    """The nearest floor of each method: of the data order, else of the initialisation; a line each."""
    lines = []
    for method, lr in methods:
        for kind, short in ((ORDER, "order"), (INITIALISATION, "init."), (BOTH, "order, init.")):
            found = spread(many.floors.get((method, lr, kind), []))
            if found:
                lines.append((three(found.mean), f"{method}, other {short}: {told(found, three)}"))
                break
    return Cell(lines[0][0], tuple(line for _, line in lines)) if lines else Cell(NOT_MEASURED)


def itself_tables(many: Many) -> list[Table]:
    """A method beside itself: pairs of its trainings at one rate where only seeds differ, then all other pairs."""
    order = {method: i for i, method in enumerate(many.methods)}
    rows: dict[bool, list[Cells]] = {True: [], False: []}
    found = grouped(many.across.to_dicts(), "method", "differs", "lr_a", "lr_b")
    for key in sorted(found, key=lambda key: (len(key[1].split(" and ")), key[1], order[key[0]], key[2], key[3])):
        (method, differs, lr_a, lr_b), own = key, found[key]
        rates = learning_rate(lr_a) if lr_a == lr_b else f"{learning_rate(lr_a)} to {learning_rate(lr_b)}"
        crossing = sum(row["within"] is None for row in own)
        where = f"{crossing} across studies" if crossing else "within a study"
        cells = _cells(own)
        row = Cells(Cell(method, (f"lr {rates}",)), differs, Cell(str(len(own)), (where,)), *cells)
        rows[differs in FLOORS].append(row)
    note = (
        f"Pairs of distinct trainings of one method on one base. {many.why} Norm: of the second over the first, which "
        "has the lower rate. Two initialisations share no right subspace to begin with; from one initialisation the "
        "right overlaps agree for that reason alone."
    )
    header = ("Method", "The two differ in", "Pairs", *_HEADER)
    floor = f"The noise floors: only seeds differ. {note}"
    return [
        Table("itself", "A method beside itself", header, tuple(rows[True]), floor, words=2),
        Table("itself-others", "A method beside itself, otherwise trained", header, tuple(rows[False]), note, words=2),
    ]


def midpoint_table(many: Many) -> Table:
    """Paths between two trainings of one method (MIDPOINTS): how far their middle lies above the straight line."""
    rows = []
    form = partial(significant, digits=2)
    for (method, lr, kind), some in grouped(many.midpoints.to_dicts(), "method", "lr", "differs").items():
        cells = [cell(some, column, form) for column in ("midpoint", "barrier")]
        rows.append(Cells(Cell(method, (f"lr {learning_rate(lr)}",)), kind, len(some), *cells))
    note = (
        "The straight path in weight space between two trainings of one method: cross-entropy of the reference "
        "solutions half-way less the mean of its ends, and the largest height above the straight line, nats a token. "
        "Negative: the middle is better than both ends on average. Paths from one study to another are measured by "
        "colinear sweep only, as they need the base model."
    )
    header = ("Method", "The two differ in", "Paths", "Midpoint above the ends, nats/token", "Barrier, nats/token")
    return Table("midpoints", "Paths from a method to itself", header, rows, note, words=2)
