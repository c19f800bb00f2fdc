"""Readings along the straight path between two adapters, ``W0 + (1 - a) dW_a + a dW_b``. Runs in a worker process.

`line` sets the weights, `meter` reads them, `connectivity` makes barriers of the readings. What all paths share is read
once: each adapter's ends (`measure_ends`), and the base's own readings, which no path needs but every reader does. Each
process loads the base and tokenises the problems for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.results import LocalBase, Progress, no_progress
from tasks.core.sections import PathSpec
from tasks.geometry.connectivity import (
    ENDS,
    PATH_ITEMS,
    barrier_frame,
    connectivity_frame,
    matched_scales,
)
from tasks.geometry.paths.line import Line, open_plain
from tasks.geometry.paths.meter import open_meter

ANSWERED_AT = (0.0, 0.5, 1.0)
"""Points at which answers are generated: decoding costs many times what scoring does."""


@dataclass(frozen=True)
class End:
    """One end of a path. ``file``: what `measure_ends` wrote for this adapter, where it has been measured already."""

    run: str
    adapter: Path
    file: Path | None = None


def measure_ends(
    *,
    base: LocalBase,
    problems: Path,
    run: str,
    adapter: Path | None,
    spec: PathSpec,
    batch_size: int,
    max_new_tokens: int,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """One model's readings of each problem, for all the paths that end in it. ``adapter`` None reads the base.

    Writes ``ends.parquet`` (ENDS). Problems and settings are as in `measure_path`; so is the arithmetic, so that both
    give the same numbers. For the base, in which no path ends, also ``connectivity.parquet`` (CONNECTIVITY): its
    readings as the one point (alpha 0) of the path from ``run`` to itself.
    """
    meter = open_meter(base, problems, spec.n, spec.readings, batch_size, max_new_tokens, seed)
    line = Line(meter.model, [] if adapter is None else [open_plain(adapter)])
    line.place([1.0] * len(line.norms))
    progress(0, 1, "ends")
    ends = pl.DataFrame(meter.read(spec.readings), schema=ENDS, orient="row")
    ends.write_parquet(out / "ends.parquet")
    if adapter is None:
        alone = ends.with_columns(matched=pl.lit(False), alpha=pl.lit(0.0)).select(*PATH_ITEMS)
        connectivity_frame(alone, run, run).write_parquet(out / "connectivity.parquet")
    progress(1, 1, "ends")
    return {**meter.summary, "norm": line.norms[0] if line.norms else 0.0}


def measure_path(
    *,
    base: LocalBase,
    problems: Path,
    a: End,
    b: End,
    spec: PathSpec,
    batch_size: int,
    max_new_tokens: int,
    out: Path,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Readings of one pair's path at ``spec.alphas``, with ``spec.matched`` also between the norm-matched updates.

    On the first ``spec.n`` problems of `tasks.geometry.paths.chosen.choose`, the same for every pair. In float32, or
    as `tasks.models.load.light` says in bfloat16.
    Ends without a file are measured here. The matched path has ends of its own. Writes ``connectivity.parquet``
    (CONNECTIVITY), ``barriers.parquet`` (BARRIERS) and
    ``path_items.parquet`` (PATH_ITEMS); ``progress`` counts path points. Where an update is zero there is no matched
    path, and the summary says so.

    Raises `InputError` for an adapter that is not plain LoRA or not of
    this base, ends of other problems, and where no problem fits.
    """
    alphas, readings = spec.alphas, list[str](spec.readings)
    sources = [open_plain(end.adapter) for end in (a, b)]
    meter = open_meter(base, problems, spec.n, readings, batch_size, max_new_tokens, seed)
    given = {at: meter.known(end.file, readings) for end, at in ((a, 0.0), (b, 1.0)) if end.file is not None}
    line = Line(meter.model, sources)
    scales = matched_scales(*line.norms)
    matchable = not any(isnan(scale) for scale in scales)
    rows: list[tuple[Any, ...]] = []
    plan: list[tuple[bool, float, list[str]]] = []
    for one_norm in (False, True) if spec.matched and matchable else (False,):
        for alpha in sorted({*alphas, *(ANSWERED_AT if "accuracy" in readings else ())}):
            wanted = [one for one in readings if alpha in (ANSWERED_AT if one == "accuracy" else alphas)]
            if alpha in given and not one_norm:
                rows += [(one_norm, alpha, *row) for row in given[alpha]]
            elif wanted:
                plan.append((one_norm, alpha, wanted))
    for done, (one_norm, alpha, wanted) in enumerate(plan):
        progress(done, len(plan), _note(one_norm, alpha))
        factor_a, factor_b = scales if one_norm else (1.0, 1.0)
        line.place([(1 - alpha) * factor_a, alpha * factor_b])
        rows += [(one_norm, alpha, *row) for row in meter.read(wanted)]
        progress(done + 1, len(plan), _note(one_norm, alpha))
    items = pl.DataFrame(rows, schema=PATH_ITEMS, orient="row").sort("matched", "reading", "alpha", "problem_id")
    items.write_parquet(out / "path_items.parquet")
    connectivity_frame(items, a.run, b.run).write_parquet(out / "connectivity.parquet")
    barrier_frame(items, a.run, b.run, seed).write_parquet(out / "barriers.parquet")
    norm_a, norm_b = line.norms
    summary = {**meter.summary, "points": len(plan), "norm_a": norm_a, "norm_b": norm_b}
    return {**summary, "unmatchable": spec.matched and not matchable}


def _note(one_norm: bool, alpha: float) -> str:
    return f"alpha {alpha:g}{', one norm' if one_norm else ''}"
