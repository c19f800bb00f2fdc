"""Models of evaluation logs and their pairs as rows of strings."""

from __future__ import annotations

from typing import Any

import polars as pl

from tasks.core.results import DIFFERS, NO_POWER, in_points
from tasks.reporting.formats import number, p_value, percent, points, points_interval
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Cells, Table, said, verdict_words


def log_pairs_table(pairs: pl.DataFrame, margin: float) -> Table:
    """A row a pair: the largest differences first, then those that cannot be told, then the equal ones."""
    rows = sorted(pairs.to_dicts(), key=lambda row: (_order(row["verdict"]), -abs(row["difference"])))
    sampled = bool(rows) and all(row["p_mid"] is None for row in rows)
    test = "sign flips over problems" if sampled else "exact McNemar, two-sided"
    return Table(
        "pairs",
        "Every pair of models",
        ("A, less B", "Verdict", "Difference, points", "Only A right", "Only B right", "n", "p (Holm)"),
        tuple(_pair(row, margin) for row in rows),
        f"Accuracy of A less that of B on the problems that both answered, its 95 % interval below. Verdicts: A is "
        f"higher or lower by the test ({test}; p Holm-adjusted over {count(len(rows), 'pair')}, up to .05); "
        f"equal: all of the interval lies within {in_points(margin / 100)}; slightly: both; undecided: neither, and "
        "the smallest true difference that the test would have found with a power of 80 %.",
    )


def _order(verdict: str) -> int:
    return 0 if verdict.startswith(DIFFERS) else 1 if verdict == NO_POWER else 2


def _pair(row: dict[str, Any], margin: float) -> Cells:
    words, tone = verdict_words(row["difference"], row["verdict"], margin / 100)
    unseen = row["verdict"] == NO_POWER and row["detectable"] is not None
    detectable = f"below {number(row['detectable'], 1)} points" if unseen else ""
    difference, low, high = (row[name] / 100 for name in ("difference", "low", "high"))
    return Cells(
        Cell(row["a"], (f"less {row['b']}",)),
        Cell(words, said(detectable), tone=tone),
        Cell(points(difference), (points_interval(low, high),)),
        *(row[name] for name in ("only_a", "only_b", "n")),
        Cell(p_value(row["p_holm"]), tip=f"unadjusted {p_value(row['p'])}"),
    )


def log_models_table(models: pl.DataFrame) -> Table:
    """A row a model, the most accurate first."""
    found = models.sort("accuracy", descending=True, maintain_order=True).to_dicts()
    sampled = any(row["k"] > 1 for row in found)
    header = ("Model", "Problems", "Accuracy, %", "95 % interval", *(("Samples", "pass@k, %") if sampled else ()))
    rows = [
        Cells(row["model"], row["n"], percent(row["accuracy"] / 100),
              f"{percent(row['low'] / 100)} to {percent(row['high'] / 100)}",
              *((row["k"], percent(row["pass_at_k"] / 100)) if sampled else ()))
        for row in found
    ]  # fmt: skip
    drawn = "; with samples a bootstrap, the accuracy being avg@k. k: the fewest samples of a problem"
    return Table("models", "Every model", header, rows, f"Interval over problems: Wilson's{drawn if sampled else ''}.")
