"""The singular values of the updates, one line a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from tasks.reporting.charts.picture import Picture, apart, crowd_note, legend, line_style
from tasks.reporting.charts.svg import FAINT, inline_svg
from tasks.reporting.notes import count
from tasks.reporting.views.pairs import Geometry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

NOISE = 1e-6
"""Share of a run's first mean singular value below which one is rounding: a log axis would show little else."""


def spectra_picture(spectra: pl.DataFrame, view: Geometry) -> Picture | None:
    """Mean singular value over the modules against its index, on a log scale."""
    means = mean_spectra(spectra)
    runs = [info for info in view.runs if means.get(info.run)]
    if not runs:
        return None
    shown = apart(runs, view)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for info in runs:
            ks, values = zip(*means[info.run], strict=True)
            if info in shown:
                style = line_style(info, view, len(ks))
                line = "--" if view.reference and view.twin(info, view.reference) else "-"
                axes.plot(ks, values, linestyle=line, **style)
            else:
                axes.plot(ks, values, color=FAINT, linewidth=0.6, alpha=0.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers of ten need the mathtext that is off
        axes.yaxis.set_minor_formatter(lambda *_: "")
        axes.set(xlabel="Index of the singular value", ylabel="Singular value (mean)")
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", alpha=0.5)
        legend(canvas, axes)

    svg = inline_svg("spectra", "Singular values of every update", 3.7, draw)
    modules = spectra.filter(pl.col("metric") == "singular_value", pl.col("module") != "*")["module"].n_unique()
    note = (
        f"Singular values of each module's update, largest first, mean over {count(modules, 'module')} (those that "
        "have so many), log scale. Below a millionth of a run's first they are rounding and left out."
        f"{crowd_note(len(runs), len(shown))}"
    )
    return Picture("spectra", "In how many directions do they move?", svg, note, "spectra")


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
