"""What pairs of a comparison look like: copies, one training repeated, one task, or nothing."""

from __future__ import annotations

import polars as pl

from tasks.reporting.formats import number
from tasks.reporting.notes import count
from tasks.reporting.tables.views import Cell, Cells, Table

MOST_PAIRS = 6
"""Pairs up to which all of them are listed; beyond, only those that look related."""

MOST_LINES = 30


def relation_cell(relations: pl.DataFrame | None, run: str, other: str) -> Cell | None:
    """What one pair looks like, its evidence on hover; None where nothing is known of it."""
    if relations is None:
        return None
    either = relations.filter(pl.col("run_a").is_in([run, other]), pl.col("run_b").is_in([run, other]))
    for row in either.iter_rows(named=True):
        return Cell(row["relation"], tip=row["reason"], tone="same" if row["related"] else "")
    return None


def listed_pairs(relations: pl.DataFrame) -> pl.DataFrame:
    """The pairs worth a line, the nearest first: all of few, of many those that look related."""
    chosen = relations if relations.height <= MOST_PAIRS else relations.filter("related")
    return chosen.sort("related", "cosine", descending=True, nulls_last=True, maintain_order=True)


def relation_lines(relations: pl.DataFrame) -> list[str]:
    """A line a pair, and one on those that have none."""
    shown = listed_pairs(relations)
    lines = [
        f"{row['run_a']} ~ {row['run_b']}: {row['relation']} ({row['reason']})"
        for row in shown.head(MOST_LINES).iter_rows(named=True)
    ]
    rest = relations.join(shown.head(MOST_LINES).select("run_a", "run_b"), on=["run_a", "run_b"], how="anti")
    if rest.height:
        counts = rest["relation"].value_counts(sort=True).sort("count", "relation", descending=[True, False])
        lines.append(
            f"the other {count(rest.height, 'pair')}: "
            + ", ".join(f"{n} {relation}" for relation, n in counts.iter_rows())
        )
    return lines


def relations_table(relations: pl.DataFrame) -> Table:
    """The same with the evidence in columns."""
    shown = listed_pairs(relations)
    rows = [
        Cells(row["run_a"], row["run_b"], Cell(row["relation"], (row["reason"],)),
              *(number(row[name], 3) for name in ("cosine", "lora_a_cosine", "input_overlap", "u1_overlap")),
              row["modules"])
        for row in shown.head(MOST_LINES).iter_rows(named=True)
    ]  # fmt: skip
    every = f"{len(rows)} of {count(relations.height, 'pair')}; relations.parquet has all. "
    cut = every if len(rows) < relations.height else ""
    return Table(
        "relations",
        "What pairs look like",
        ("Run", "and", "Looks like", "Cosine", "lora_A", "Input overlap", "|u1 u1'|", "Modules"),
        rows,
        f"{cut}A likeness, no proof: thresholds and their error rates are in docs/compare.md. Two methods on one set "
        "of data can look like one training. lora_A: cosine of the two, near 1 where both began from one. Input "
        "overlap: the same whatever basis lora_A is in. |u1 u1'|: the first output directions, mean over modules.",
        words=3,
    )
