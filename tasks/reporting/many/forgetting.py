"""Does what a run forgets follow from how far it is from the base? A regression over the trainings of many studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.reporting.estimates import Estimate
from tasks.reporting.formats import NOT_MEASURED, number
from tasks.reporting.many.joined import Many
from tasks.reporting.many.rows import Rows, once
from tasks.reporting.metrics import ON_KL
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Cells, Table, said

FEWEST_CELLS = 5
"""Studies below which there is no regression: their bootstrap has nothing to draw from."""
DRAWS = 2000


@dataclass(frozen=True)
class Line:
    """Least squares of y on x with an intercept; 95 % intervals are a bootstrap over whole cells."""

    slope: Estimate
    r: Estimate
    """Pearson's."""
    cells: int


def regress(x: Sequence[float], y: Sequence[float], cells: Sequence[int], seed: int = 0) -> Line | None:
    """The line through the points; None below `FEWEST_CELLS` cells, and where x or y does not vary.

    Draws in which it does not are left out. With fewer than ten cells the intervals are too narrow (Cameron, Gelbach
    and Miller 2008).
    """
    numbers = {cell: place for place, cell in enumerate(dict.fromkeys(cells))}
    if len(numbers) < FEWEST_CELLS or min(np.ptp(x), np.ptp(y)) == 0:
        return None
    own_N = np.array([numbers[cell] for cell in cells])
    drawn_DC = np.random.default_rng(seed).multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), DRAWS)
    weights_DN = np.vstack([np.ones(len(own_N)), drawn_DC[:, own_N]])
    slope_D, r_D = _fits(weights_DN, np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    ends = (np.nanquantile(draws[1:], [0.025, 0.975]) for draws in (slope_D, r_D))
    slope, r = (
        Estimate(float(values[0]), float(low), float(high), len(own_N))
        for values, (low, high) in zip((slope_D, r_D), ends, strict=True)
    )
    return Line(slope, r, len(numbers))


def _fits(weights_DN: np.ndarray, x_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) slopes and (D,) correlations under each row of weights; NaN where x or y does not vary."""
    total_D = weights_DN.sum(axis=1)
    dx, dy = (v_N - (weights_DN @ v_N / total_D)[:, None] for v_N in (x_N, y_N))
    xx, xy, yy = ((weights_DN * a * b).sum(axis=1) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    least = 1e-12
    flat = (xx <= least * (x_N**2).max() * total_D) | (yy <= least * (y_N**2).max() * total_D)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flat, np.nan, xy / xx), np.where(flat, np.nan, xy / np.sqrt(xx * yy))


def forgetting_table(many: Many) -> Table:
    """One row for all methods and one for each."""
    known = [row for row in once(many.runs) if row["forgetting"] is not None and row["own_kl"] is not None]
    title = "Forgetting against the divergence from the base"
    if not known:
        return Table("forgetting", title, (), (), "Forgetting and the divergence on own answers were not measured.")
    groups: dict[str, Rows] = {"all methods": known}
    groups |= {method: [row for row in known if row["method"] == method] for method in many.methods}
    rows = []
    for name, own in groups.items():
        line, cells = _line(own), len({row["study"] for row in own})
        ends = (line.slope, line.r) if line else (Estimate(None), Estimate(None))
        why = f"needs {FEWEST_CELLS} studies" if cells < FEWEST_CELLS else "one of the two does not vary"
        values = (
            Cell(number(one.value, 3), said(one.interval(lambda value: number(value, 3)))) if line
            else Cell(NOT_MEASURED, (why,))
            for one in ends
        )  # fmt: skip
        rows.append(Cells(name, len(own), cells, *values))
    note = (
        f"{ON_KL.definition} A point is a training; n: distinct trainings, and the studies that they are of. "
        "Intervals: 95 % bootstrap over whole studies, which with fewer than ten of them is too narrow; below "
        f"{FEWEST_CELLS} there is no regression. In the synthetic task the texts of forgetting are in the style of the "
        "base's own answers, so that the two are nearly one quantity; functions.texts gives others."
    )
    return Table("forgetting", title, ("Trainings of", "n", "Studies", f"{ON_KL.title}, nats per nat", "r"), rows, note)


def forgetting_finding(many: Many) -> str:
    """The regression over all methods; empty where there is none."""
    known = [row for row in once(many.runs) if row["forgetting"] is not None and row["own_kl"] is not None]
    if (line := _line(known)) is None:
        return ""
    slope, r = (
        f"{number(one.value, 3)} {one.interval(lambda value: number(value, 3))}" for one in (line.slope, line.r)
    )
    return (
        f"Forgetting over KL(base || run) on the base's own answers: slope {slope}, r {r}, of "
        f"{count(len(known), 'training')} in {line.cells} studies."
    )


def _line(rows: Rows) -> Line | None:
    x, y = ([row[name] for row in rows] for name in ("own_kl", "forgetting"))
    return regress(x, y, [row["study"] for row in rows]) if rows else None
