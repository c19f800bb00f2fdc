"""What a merge of two adapters would do, and which of PEFT's calls makes the mean of their updates."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from tasks.reporting.formats import NOT_MEASURED, number, size
from tasks.reporting.tables.views import Cell, Cells, Table, said


def merge_tables(merges: pl.DataFrame, paths: pl.DataFrame | None, adapters: pl.DataFrame) -> list[Table]:
    """The losses where they were measured, the calls, and the sums."""
    return [*([_losses(paths)] if paths is not None else []), _calls(merges, adapters), _sums(merges)]


def merge_lines(merges: pl.DataFrame, paths: pl.DataFrame | None, adapters: pl.DataFrame) -> list[str]:
    """A few lines a pair, for the terminal."""
    lines = []
    for row in merges.filter(kind="*").iter_rows(named=True):
        a, b = row["run_a"], row["run_b"]
        lines.append(
            f"- {a} + {b}: norm {size(row['norm_sum'], 3)} of {size(row['norm_a'], 3)} and {size(row['norm_b'], 3)}, "
            f"{100 * row['cancelled']:.1f} % cancelled; {_dominates(row)}"
        )
        for path in [] if paths is None else paths.filter(run_a=a, run_b=b).iter_rows(named=True):
            names = {"base": "loss_base", a: "loss_a", b: "loss_b", "mean": "loss_mean", "sum": "loss_sum"}
            losses = ", ".join(f"{name} {number(path[key], 3)}" for name, key in names.items())
            lines.append(f"  loss, nats/token on {path['n']} texts: {losses}; {_barrier(path)}")
        lines.append(f"  PEFT's linear is not the mean: {_linear(row)}; this is:")
        lines.append(f"  {_call(row, adapters, 'cat')}")
    return lines


def _call(row: dict[str, Any], adapters: pl.DataFrame, combination: str) -> str:
    """PEFT's call for two adapters of MERGES that were loaded under their names.

    The new adapter has the first one's use_rslora, and an alpha that is its rank: then it is scaled by the root of its
    rank, which the weights have to undo.
    """
    a, b = row["run_a"], row["run_b"]
    kinds = dict(adapters.select("run", "kind").iter_rows())
    weight = f"0.5 / {_rank(row, combination)}**0.5" if kinds[a].startswith("rsLoRA") else "0.5"
    return (
        f'model.add_weighted_adapter({_quoted(a, b)}, [{weight}, {weight}], "mean", combination_type="{combination}")'
    )


def _rank(row: dict[str, Any], combination: str) -> int:
    """Of the new adapter."""
    rooms = row["room_a"], row["room_b"]
    return sum(rooms) if combination == "cat" else max(rooms)


def _quoted(a: str, b: str) -> str:
    return f'["{_name(a)}", "{_name(b)}"]'


def _name(run: str) -> str:
    """A run's name as PEFT takes one: a part of a module's name, and of ``lora_`` none."""
    name = re.sub(r"\W", "_", run)
    return f"{name}_adapter" if name in "lora_" else name


def _dominates(row: dict[str, float]) -> str:
    """Which of the two the sum is mostly made of."""
    if row["share_a"] is None:
        return "both are zero"
    share = max(row["share_a"], 1 - row["share_a"])
    which = row["run_a"] if row["share_a"] >= 0.5 else row["run_b"]
    if share < 0.6:
        return "neither dominates"
    return f"{which} dominates with {100 * share:.0f} % of the squared norms"


def _linear(row: dict[str, float]) -> str:
    off = row["linear_error"]
    return "it refuses two ranks" if off is None else f"off by {100 * off:.0f} % of the mean's norm"


def _barrier(row: dict[str, float]) -> str:
    if row["barrier"] is None:
        return "barrier undefined"
    between = "" if row["low"] is None else f" [{number(row['low'], 3)}, {number(row['high'], 3)}]"
    return f"barrier {number(row['barrier'], 3)}{between}"


def _sums(merges: pl.DataFrame) -> Table:
    rows = []
    for row in merges.iter_rows(named=True):
        whole = row["kind"] == "*"
        rows.append(
            Cells(
                f"{row['run_a']} + {row['run_b']}",
                "all modules" if whole else row["kind"],
                row["modules"],
                *(size(row[name], 3) for name in ("norm_a", "norm_b", "norm_sum")),
                _percent(row["cancelled"], 1),
                *(number(row[name], 2) for name in ("kept_a", "kept_b")),
                Cell(_percent(row["share_a"]), said(_dominates(row).partition(" with ")[0] if whole else "")),
                _percent(row["linear_error"]),
            )
        )
    return Table(
        "merges",
        "The sum of two updates",
        (
            "Merge", "Modules", "n", "Norm of the first", "of the second", "of the sum", "Cancelled, %", "First kept",
            "Second kept", "First's share, %", "PEFT linear off by, %",
        ),
        rows,
        "Exact, from the factors. Cancelled: share of the two squared norms that is gone in the sum, of modules in "
        "which the updates oppose each other. Kept: what the sum has of an update along its own direction; 1: the "
        "other leaves it alone, 0: undoes it, 2: repeats it. Share: of the two squared norms. PEFT linear: "
        "|linear - mean| / |mean| of add_weighted_adapter with weights 1/2.",
        words=2,
    )  # fmt: skip


def _percent(share: float | None, decimals: int = 0) -> str:
    return NOT_MEASURED if share is None else number(100 * share, decimals)


def _losses(paths: pl.DataFrame) -> Table:
    names = ("loss_base", "loss_a", "loss_b", "loss_mean", "loss_sum")
    rows = []
    for row in paths.iter_rows(named=True):
        between = "" if row["low"] is None else f"[{number(row['low'], 3)}, {number(row['high'], 3)}]"
        rows.append(
            Cells(
                f"{row['run_a']} + {row['run_b']}",
                *(number(row[name], 3) for name in names),
                Cell(number(row["barrier"], 3), said(between)),
                "-" if row["alpha"] is None else number(row["alpha"], 1),
                Cell(str(row["n"]), said(f"{row['tokens']} tokens")),
            )
        )
    return Table(
        "merge-losses",
        "Losses on the texts, nats a token",
        ("Merge", "Base", "First", "Second", "Mean", "Sum", "Barrier", "at", "Texts"),
        rows,
        "Mean: base + half of both updates. Sum: base + both. Barrier: how far the loss on the straight path from the "
        "first to the second rises above the straight line between their losses (95 % over texts).",
    )


def _calls(merges: pl.DataFrame, adapters: pl.DataFrame) -> Table:
    """PEFT's calls for the first pair, and what each makes."""
    row = merges.filter(kind="*").row(0, named=True)
    a, b = row["run_a"], row["run_b"]
    rows = (
        Cells(_call(row, adapters, "cat"), f"the mean of the updates, exactly; rank {_rank(row, 'cat')}"),
        Cells(_call(row, adapters, "svd"), f"the mean, cut to rank {_rank(row, 'svd')}"),
        Cells(_call(row, adapters, "linear"), f"not the mean: {_linear(row)}"),
    )
    return Table(
        "merge-calls",
        "What PEFT's calls make",
        ("Call", "Makes"),
        rows,
        f'First: model = PeftModel.from_pretrained(base, DIR, adapter_name="{_name(a)}"); '
        f'model.load_adapter(DIR, "{_name(b)}"). '
        "linear adds the factors, and so multiplies the one's lora_B with the other's lora_A.",
        words=2,
    )
