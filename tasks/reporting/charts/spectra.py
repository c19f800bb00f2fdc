"""The singular values of the updates, one line a run."""

from __future__ import annotations

import polars as pl

from tasks.reporting.charts.lines import crowd_note, lines_views, run_lines
from tasks.reporting.charts.picture import Picture
from tasks.reporting.charts.style import figure, log_axis, quantity
from tasks.reporting.notes import count
from tasks.reporting.views.pairs import Geometry

NOISE = 1e-6
"""Share of a run's first mean singular value below which one is rounding: a log axis would show little else."""


def spectra_picture(spectra: pl.DataFrame, view: Geometry) -> Picture | None:
    """Mean singular value over the modules against its index, on a log scale."""
    means = mean_spectra(spectra)
    lines = run_lines({run: line for run, line in means.items() if line}, view, floors=False)
    if not lines:
        return None
    x = quantity("x", "Index of the singular value", pad=6, format="d", tickMinStep=1)
    y = log_axis("y", [value for line in means.values() for _, value in line], "Singular value (mean)", grid=True)
    modules = spectra.filter(pl.col("metric") == "singular_value", pl.col("module") != "*")["module"].n_unique()
    note = (
        f"Singular values of each module's update, largest first, mean over {count(modules, 'module')} (those that "
        "have so many), log scale. Below a millionth of a run's first they are rounding and left out."
        f"{crowd_note(lines)}"
    )
    title, label = "In how many directions do they move?", "Singular values of every update"
    return Picture("spectra", title, label, figure(lines_views([lines], x, y)[0], 165), note, "spectra")


def mean_spectra(spectra: pl.DataFrame) -> dict[str, list[tuple[int, float]]]:
    """Run -> (k, mean over modules of the k-th singular value), k ascending, without what is rounding."""
    means = (
        spectra.filter(pl.col("metric") == "singular_value", pl.col("module") != "*", pl.col("value").is_not_null())
        .group_by("run", "k")
        .agg(pl.col("value").mean())
        .sort("run", "k")
    )
    found: dict[str, list[tuple[int, float]]] = {}
    for run, k, value in means.iter_rows():
        found.setdefault(run, []).append((k, value))
    return {run: [entry for entry in rows if entry[1] > NOISE * rows[0][1]] for run, rows in found.items()}
