"""Which rows of the joined frames belong together: trainings, and pairs of them, that differ in nothing but seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from tasks.reporting.formats import learning_rate
from tasks.reporting.many.joined import Many
from tasks.reporting.metrics import INVERSE, MANY

Rows = list[dict[str, Any]]


def grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], Rows]:
    """Rows by the values of ``keys``, groups and rows in their order."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def once(frame: pl.DataFrame) -> Rows:
    """The rows whose training (or pair) no earlier study has."""
    return frame.filter(~pl.col("repeated")).to_dicts()


def by_method(rows: Rows, many: Many) -> dict[tuple[str, float, int], Rows]:
    """Trained rows by method, learning rate and condition: methods in their order, learning rates ascending."""
    found = grouped(rows, "method", "lr", "condition")
    order = many.methods.index
    return {key: found[key] for key in sorted(found, key=lambda key: (order(key[0]), key[2], key[1]))}


def between(pairs: pl.DataFrame, many: Many) -> dict[tuple[str, str, float, float, int], Rows]:
    """Pairs of two methods from one initialisation in one order of the data, whose noise they share; those with SFT
    first, and SFT always the second."""
    rows = [_sft_second(row) for row in once(pairs) if row["one_start"] and row["method_a"] != row["method_b"]]
    found = grouped(rows, "method_a", "method_b", "lr_a", "lr_b", "condition")
    order = many.methods.index

    def rank(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return (key[1] != "sft", order(key[0]), order(key[1]), key[4], key[3], key[2])

    return {key: found[key] for key in sorted(found, key=rank)}


def crossed(pairs: pl.DataFrame, own: Rows) -> Rows:
    """Of the same studies and methods as ``own``, a group of `between`, the pairs from one initialisation in two orders
    of the data: what a noise floor judges."""
    studies, methods = {row["study"] for row in own}, _methods(own[0])
    return [row for row in once(pairs) if row["two_orders"] and row["study"] in studies and _methods(row) == methods]


def _methods(row: dict[str, Any]) -> set[tuple[str, float]]:
    return {(row[f"method_{end}"], row[f"lr_{end}"]) for end in "ab"}


def values(rows: Rows, column: str) -> list[float | None]:
    """One column of some rows."""
    return [row[column] for row in rows]


def qualified(lr: float | None, condition: int, many: Many) -> tuple[str, ...]:
    """The lines under a method's name: its learning rate, and what else sets it apart."""
    words = many.condition(condition)
    return (f"lr {learning_rate(lr)}", *([f"#{condition + 1} {words}"] if words else []))


def floors(across: pl.DataFrame, column: str = "cosine") -> dict[tuple[str, float, str], list[float]]:
    """(method, learning rate, what differs) -> values of pairs of one method at one learning rate."""
    found: dict[tuple[str, float, str], list[float]] = {}
    for row in across.iter_rows(named=True):
        if row["lr_a"] == row["lr_b"] and row[column] is not None:
            found.setdefault((row["method"], row["lr_a"], row["differs"]), []).append(row[column])
    return found


def _sft_second(row: dict[str, Any]) -> dict[str, Any]:
    if row["method_a"] != "sft":
        return row
    turned = {f"{name}_{end}": row[f"{name}_{other}"] for name in ("run", "method", "lr", "training")
              for end, other in ("ab", "ba")}  # fmt: skip
    ratios = {one.column: 1 / row[one.column] if row[one.column] else None for one in MANY if one.turned == INVERSE}
    return {**row, **turned, **ratios}
