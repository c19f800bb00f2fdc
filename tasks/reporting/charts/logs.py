"""The accuracies of logs that other tools wrote, with their intervals."""

from __future__ import annotations

import polars as pl

from tasks.reporting.charts.accuracy import accuracy_panel
from tasks.reporting.charts.picture import Picture, short
from tasks.reporting.charts.style import INK, PALETTE, panels
from tasks.reporting.formats import percent, span

MOST_ROWS = 48
"""Dots of the figure; the table has all models."""


def log_accuracy_picture(models: pl.DataFrame) -> Picture:
    """A row a model (LOG_MODELS), the most accurate first."""
    rows = models.sort("accuracy", descending=True, maintain_order=True).head(MOST_ROWS).to_dicts()
    labels = [short(row["model"]) for row in rows]
    twice = {label for label in labels if labels.count(label) > 1}
    labels = [f"{place + 1}: {label}" if label in twice else label for place, label in enumerate(labels)]
    colours = PALETTE if len(rows) <= len(PALETTE) else (INK,)
    dots = [
        {
            "place": place, "value": row["accuracy"], "low": row["low"], "high": row["high"],
            "text": percent(row["accuracy"] / 100), "colour": (colour := colours[place % len(colours)]), "fill": colour,
            "shape": "circle",
        }
        for place, row in enumerate(rows)
    ]  # fmt: skip
    n = span([float(row["n"]) for row in rows], 0)
    cut = f" The first {MOST_ROWS} of {models.height} models." if models.height > MOST_ROWS else ""
    return Picture(
        "accuracy",
        "How often is each model right?",
        "Accuracy of every model with its interval",
        panels([accuracy_panel("Accuracy, %; 95 % intervals", labels, dots)]),
        f"Bars: 95 % interval over n = {n} problems. They ignore that the models answered the same problems: judge by "
        f"the pairs below, not by their overlap.{cut}",
        "models",
        models.select("model", "n", "accuracy", "low", "high"),
        "models.parquet",
    )
