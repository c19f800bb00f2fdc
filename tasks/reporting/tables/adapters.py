"""The adapters of a comparison as rows of strings: against the reference at a glance, and what each of them is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.formats import NOT_MEASURED, number, size
from tasks.reporting.notes import interval, percentile
from tasks.reporting.tables.headline import NEAR_ORTHOGONAL, NONE
from tasks.reporting.tables.relations import relation_cell
from tasks.reporting.tables.views import Cell, Cells, Table, said
from tasks.reporting.views.floors import SHARED_START
from tasks.reporting.views.pairs import BELOW_FLOOR, BELOW_START, REACHED, Geometry
from tasks.reporting.views.study import Comparison

NEAR_COPY, ALIKE, ZERO_BELOW = 0.9, 0.5, 0.05
"""Cosines from which on two updates are called near-copies and alike, and below which near zero. Words for a reader; a
noise floor, where there is one, is the yardstick."""

HARDLY = 50
"""Times that an update is smaller than the median of the others, from which on it is called hardly trained."""

WORDS = {
    "near-copy": ("≈ near-copy", "same"),
    "alike": ("~ alike", "same"),
    "weakly alike": ("≠ weakly alike", "far"),
    "near zero": ("⟂ near zero", "far"),
    "opposite": ("⇄ opposite", "far"),
}
"""Kind of a cosine -> how its cell reads and its tone."""


def kind_of_cosine(cosine: float) -> str:
    """A key of `WORDS`."""
    if cosine <= -NEAR_ORTHOGONAL:
        return "opposite"
    if cosine < ZERO_BELOW:
        return "near zero"
    return "near-copy" if cosine >= NEAR_COPY else "alike" if cosine >= ALIKE else "weakly alike"


def hardly_trained(norms: Mapping[str, float | None]) -> dict[str, float]:
    """Runs whose update is far smaller than the others' median -> that median; those of zero are told elsewhere."""
    found = {}
    for run, norm in norms.items():
        others = [value for name, value in norms.items() if name != run and value]
        if norm and others and math.isfinite(norm) and median(others) > HARDLY * norm:
            found[run] = median(others)
    return found


def plain_base(name: str) -> str:
    """A base's name without its owner, its folder and the ways in which copies of it are spelt."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
    if (cached := re.search(r"models--[^/\\]*--([^/\\]+)[/\\]snapshots", name)) is not None:
        last = cached[1].lower()
    return re.sub(r"(-unsloth|-bnb-\d+bit|-bf16|-fp16|\.gguf|-mlx|-hf)+$", "", last).replace("_", "-")


def adapters_glance(compared: Comparison) -> Table:
    """Cosine, first angle, size and shared modules of every adapter, and what it looks like where that is known."""
    view, reference, norms = compared.geometry, compared.reference, compared.norms
    relations = compared.relations
    known = {row["run"]: row for row in compared.adapters.iter_rows(named=True)}
    small = hardly_trained(norms)
    bases = Counter(plain_base(base) for base in compared.adapters["base"] if base)
    usual = bases.most_common(1)[0][0] if bases else ""
    rows = []
    for info in view.runs:
        norm, note = size(norms[info.run], 3), _note(info, view, known.get(info.run), usual, info.run in small)
        if reference is None or info == reference:
            blank = () if relations is None else (NONE,)
            rows.append(Cells(info.run, NONE, "the reference", *blank, NONE, norm, NONE, note))
            continue
        looks = () if relations is None else (relation_cell(relations, info.run, reference.run) or NONE,)
        found, angle = (view.estimate(info.run, reference.run, *key) for key in (("cosine",), ("angle_left", 1)))
        rank = percentile(found)
        tip = "; ".join(
            part for part in (interval(found, 3), f"percentile {rank} of random subspaces" if rank else "") if part
        )
        value = view.missing(info.run, reference.run, "cosine") if found.value is None else number(found.value, 3)
        degrees = NOT_MEASURED if angle.value is None else f"{number(angle.value, 1)}°"
        shared = _shared(info, reference, compared.pair_metrics, known)
        rows.append(
            Cells(
                info.run, Cell(value, tip=tip), _kind(info, reference, found.value, view), *looks,
                Cell(degrees, tip=interval(angle, 1)), norm, shared, note,
            )
        )  # fmt: skip
    name = reference.run if reference else "the reference"
    looks_like = () if relations is None else ("Looks like",)
    header = ("Adapter", f"Cosine to {name}", "Reads as", *looks_like, "Top angle", "Norm", "Shared modules", "Note")
    return Table(
        "adapters-glance",
        "Every adapter at a glance",
        header,
        rows,
        f"Near-copy: cosine from {NEAR_COPY}; alike: from {ALIKE}; near zero: below {ZERO_BELOW}; opposite: from "
        f"-{NEAR_ORTHOGONAL}. Top angle: of the "
        "first left singular vectors, median over modules. Hover for intervals; the pairs below have every measure.",
    )


def _kind(info: RunInfo, reference: RunInfo, cosine: float | None, view: Geometry) -> Cell:
    if cosine is None:
        return Cell(NONE)
    standing = view.standing(info, reference)
    if standing in REACHED:
        return Cell("≈ as a repeat run", tip=standing, tone="same")
    kind = kind_of_cosine(cosine)
    if standing in (BELOW_FLOOR, BELOW_START) and kind in ("near-copy", "alike"):
        return Cell("≠ farther", tip=standing, tone="far")
    words, tone = WORDS[kind]
    return Cell(words, tip=standing, tone=tone)


def _shared(
    info: RunInfo, reference: RunInfo, pair_metrics: pl.DataFrame, known: Mapping[str, Mapping[str, object]]
) -> str:
    """``'36 of 72'``: the modules that the two share, of all that one of them has."""
    names = [info.run, reference.run]
    own = pair_metrics.filter(
        pl.col("run_a").is_in(names), pl.col("run_b").is_in(names), pl.col("module") != "*"
    )  # a run is in no pair with itself
    modules = [row["modules"] for name in names if (row := known.get(name)) is not None]
    total = max((int(str(one)) for one in modules if one is not None), default=0)
    shared = own["module"].n_unique()
    return NOT_MEASURED if not shared else f"{shared} of {total}" if total else str(shared)


def _note(info: RunInfo, view: Geometry, row: Mapping[str, object] | None, usual: str, small: bool) -> str:
    parts = []
    reference = view.reference
    if info.run in view.zero:
        parts.append("zero update")
    if small:
        parts.append("hardly trained")
    if reference is not None and info != reference:
        if view.same(info.run, reference.run):
            parts.append("identical")
        start = view.value(info.run, reference.run, "lora_a_cosine")
        if start is not None and start > SHARED_START:
            parts.append("same lora_A")
    if row is not None:
        base = row["base"]
        parts += ["base not named"] if not base else ["other base"] if plain_base(str(base)) != usual else []
        parts += ["merged - base"] if row["update"] == "merged - base" else []
    return ", ".join(parts)


MOST_ROWS = 60


def adapters_table(adapters: pl.DataFrame) -> Table:
    """What each adapter is, and how its update was had."""
    rows = []
    for row in adapters.iter_rows(named=True):
        rank = "full" if row["rank"] is None else str(row["rank"])
        sizes = (rank, *(_count(row[name]) for name in ("modules", "parameters")), _bytes(row["size"]))
        words = (row["source"], row["base"] or "not named", row["kind"])
        update = Cell(row["update"], said(_stored(row)))
        rows.append(Cells(Cell(row["run"], said(row["note"] or "")), *words, update, *sizes))
    header = ("Run", "Source", "Base", "Kind", "Update", "Rank", "Modules", "Parameters", "Size")
    note = (
        "Rank: the largest of a module. Parameters: entries of the factors, or of the changed weights. Under a "
        "difference of stored weights: their type, the share of entries that differ, and the expected norm of the "
        "rounding to that type over the update's."
    )
    return Table("adapters", "What was compared", header, rows, note, words=5)


def _stored(row: dict[str, Any]) -> str:
    if row["dtype"] is None:
        return ""
    return f"{row['dtype']}; {100 * row['changed']:.3g} % differ; rounding {100 * row['rounding']:.2g} %"


def unshared_table(unshared: pl.DataFrame) -> Table | None:
    """Modules that only one run of a pair has; None where there are none."""
    if unshared.is_empty():
        return None
    rows = [Cells(*row) for row in unshared.head(MOST_ROWS).iter_rows()]
    cut = (
        f"The first {MOST_ROWS} of {unshared.height}; unshared.parquet has all." if unshared.height > MOST_ROWS else ""
    )
    return Table("unshared", "Modules on one side only", ("Run", "Not in", "Module"), rows, cut, words=3)


def _count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def _bytes(value: int | None) -> str:
    """``1234567 -> '1.2 MB'``, in powers of ten."""
    if value is None:
        return NOT_MEASURED
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_:
            return f"{value / bytes_:.1f} {unit}"
    return f"{value} B"
