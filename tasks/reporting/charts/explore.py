"""The section of the page that answers to a reader: its numbers, compact, as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.charts.explore_charts import (
    AS_TRAINED,
    FLOORS,
    MATCHED,
    NULL,
    PAIR,
    heat_map_chart,
    path_chart,
    profile_chart,
    training_chart,
)
from tasks.reporting.charts.picture import colour_of, label_of
from tasks.reporting.formats import finite
from tasks.reporting.metrics import PAIRS, REVERSED, Metric, pair_metric
from tasks.reporting.notes import MOST_NAMED, count, named
from tasks.reporting.tables.record import LOSS
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry, PairEstimate
from tasks.reporting.views.paths import READINGS
from tasks.reporting.views.study import Study, Updates

MOST_VALUES = 40_000
"""Numbers of pairs on a page: under a megabyte. Of more, the measures that are read last are left to the parquet."""

Key = tuple[str, int | None]


def pair_data(study: Updates, most: int = MOST_VALUES) -> dict[str, Any] | None:
    """Runs, layers and one entry a metric, as JSON can hold them; None where no two runs were compared.

    A metric's ``values`` are [pair][place]: pairs (i, j), i < j, in the order of ``itertools.combinations``; place 0 is
    over everything, then the ``layers``. ``turned`` is the same for (j, i) where that differs. ``nulls`` is one list of
    places where all pairs share it. ``floors``: kind -> places, the least alike of the pairs that measure it.
    """
    view = study.geometry
    layers = sorted({layer for found in view.layered.values() for layer in found})
    runs = _kept(view, len(layers) + 1, most)
    if len(runs) < 2 or all(one.value is None for one in view.values.values()):
        return None
    metrics: list[dict[str, Any]] = []
    left_out, used = [], 0
    for metric, k in sorted({key[2:] for key in (*view.values, *view.layered)}, key=_rank):
        if metric in REVERSED.values() or (k is not None and k < pair_metric(metric).least_k):
            continue  # the other side of one that is here, or the same as another
        entry = _metric((metric, k), runs, view, layers)
        size = sum(len(row) for side in ("values", "turned", "nulls") for row in entry[side] or [])
        if metrics and used + size > most:
            left_out.append(entry["title"])
            continue
        used += size
        metrics.append(entry)
    reference = runs.index(view.reference) if view.reference in runs else 0
    return {
        "names": [info.run for info in runs],
        "labels": [label_of(info, view) for info in runs],
        "colours": [colour_of(info, view) for info in runs],
        "reference": reference,
        "other": next(
            (i for i in range(len(runs)) if i != reference and not _floors(runs, view, i)), 1 - (reference > 0)
        ),
        "floors": list(KINDS.values()),
        "layers": layers,
        "metrics": metrics,
        "left_out": left_out,
        "runs_left_out": len(view.runs) - len(runs),
    }


def _floors(runs: Sequence[RunInfo], view: Geometry, i: int) -> bool:
    return view.reference is not None and view.replicate(runs[i], view.reference) is not None


def _rank(key: Key) -> tuple[int, str, int]:
    metric, k = key
    order = list(PAIRS)
    return order.index(metric) if metric in order else len(order), metric, k or 0


def _kept(view: Geometry, places: int, most: int) -> list[RunInfo]:
    """All runs; of very many the reference, the floors and the nearest, so that one measure fits thrice."""
    pairs = most // (3 * places)
    room = max(2, int((1 + math.sqrt(1 + 8 * pairs)) / 2))
    if len(view.runs) <= room or view.reference is None:
        return list(view.runs[:room])
    reference = view.reference

    def rank(info: RunInfo) -> tuple[bool, bool, float]:
        cosine = view.cosine(info.run, reference.run)
        return info != reference, view.replicate(info, reference) is None, 2.0 if cosine is None else -cosine

    kept = sorted(view.runs, key=rank)[:room]
    return [info for info in view.runs if info in kept]


def _metric(key: Key, runs: Sequence[RunInfo], view: Geometry, layers: Sequence[int]) -> dict[str, Any]:
    metric, k = key
    measure = pair_metric(metric)

    def line(a: str, b: str) -> tuple[list[float | None], list[float | None]]:
        """Values and nulls of ``a`` against ``b``: over everything, then in each layer."""
        along = view.along(a, b, metric, k)
        places = [view.estimate(a, b, metric, k), *(along.get(layer, PairEstimate(None)) for layer in layers)]
        return [finite(one.value) for one in places], [finite(one.null) for one in places]

    pairs = [(a.run, b.run) for a, b in combinations(runs, 2)]
    forward = [line(a, b) for a, b in pairs]
    backward = [line(b, a) for a, b in pairs] if measure.turned else []
    nulls = [null for _, null in forward]
    values = [value for side in (forward, backward) for row, _ in side for value in row if value is not None]
    return {
        "metric": metric,
        "k": k,
        "title": measure.called(k),
        "axis": f"{measure.axis}, {measure.unit}" if measure.unit else measure.axis,
        "unit": measure.unit,
        "decimals": measure.decimals,
        "nearer": measure.nearer,
        "over": measure.over,
        "domain": _domain(measure, values),
        "values": [row for row, _ in forward],
        "turned": [row for row, _ in backward] or None,
        "nulls": nulls[:1] if all(null == nulls[0] for null in nulls) else nulls,
        "floors": {
            name: _least_alike([line(a, b)[0] for a, b in view.replicate_pairs[kind]], measure, 1 + len(layers))
            for kind, name in KINDS.items()
        },
    }


def _domain(measure: Metric, values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    ends = measure.drawn or measure.bounds
    if ends is not None:
        return min(low, ends[0]), max(high, ends[1])
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _least_alike(lines: Sequence[Sequence[float | None]], measure: Metric, places: int) -> list[float | None]:
    """Place by place the value at which a method is least like itself; the mean where neither end means that."""
    chosen: list[float | None] = []
    for place in range(places):
        known = [value for line in lines if (value := line[place]) is not None]
        if not known:
            chosen.append(None)
        elif measure.nearer:
            chosen.append(min(known) if measure.nearer == "high" else max(known))
        else:
            chosen.append(sum(known) / len(known))
    return chosen


MOST_POINTS = 400
"""Steps of one training curve that are shown; of more, every n-th and the last."""

MOST_CURVES = 20_000
"""Numbers of all paths, and of all training curves: under half a megabyte each."""


def path_data(study: Study, most: int = MOST_CURVES) -> dict[str, Any] | None:
    """``paths``: one entry a pair, scaling and reading, its alphas ascending; None where no path was measured.

    Of more than ``most`` points the paths with the reference are kept, and ``left_out`` counts the rest.
    """
    view = study.geometry
    known = [info.run for info in view.runs]
    rows = study.connectivity.filter(
        pl.col("run_a").is_in(known),
        pl.col("run_b").is_in(known),
        pl.col("reading").is_in(list(READINGS)),
        pl.col("value").is_finite(),
    )
    kept = rows
    if rows.height > most and view.reference is not None:
        reference = view.reference.run
        kept = rows.filter((pl.col("run_a") == reference) | (pl.col("run_b") == reference))
    paths = [
        {
            "a": a,
            "b": b,
            "matched": matched,
            "reading": reading,
            "alpha": path["alpha"].to_list(),
            "value": path["value"].to_list(),
            "n": path["n"][0],
        }
        for (a, b, matched, reading), path in kept.sort("alpha").group_by(
            "run_a", "run_b", "matched", "reading", maintain_order=True
        )
    ]
    if not paths:
        return None
    paths.sort(key=lambda path: (known.index(path["a"]), known.index(path["b"]), path["matched"], path["reading"]))
    present = {path["reading"] for path in paths}
    return {
        "readings": [
            {"key": key, "title": reading.title, "scale": reading.scale, "unit": _unit(key)}
            for key, reading in READINGS.items()
            if key in present
        ],
        "paths": paths,
        "left_out": rows.select("run_a", "run_b").n_unique() - kept.select("run_a", "run_b").n_unique(),
    }


def _unit(reading: str) -> str:
    return "Accuracy, %" if reading == "accuracy" else f"Loss, {READINGS[reading].unit}"


def training_data(study: Study, most: int = MOST_CURVES) -> dict[str, Any] | None:
    """``curves``: one entry a run and metric with its steps; None where nothing was logged.

    The loss comes first, then what most runs have; metrics that do not fit ``most`` numbers are in ``left_out``.
    """
    view = study.geometry
    runs = {info.run: info for info in view.runs}
    rows = study.training.filter(pl.col("run").is_in(list(runs)), pl.col("value").is_finite()).sort("step")
    counts = rows.group_by("metric").agg(pl.col("run").n_unique())
    metrics = sorted(counts.iter_rows(), key=lambda entry: (entry[0] != LOSS, -entry[1], entry[0]))
    order = list(runs)
    curves: list[dict[str, Any]] = []
    shown: list[str] = []
    left_out, used = [], 0
    for metric, _ in metrics:
        own = rows.filter(pl.col("metric") == metric)
        parts = sorted(own.group_by("run"), key=lambda part: order.index(str(part[0][0])))
        found = [_curve(str(run), metric, part.sort("step")) for (run,), part in parts]
        size = sum(2 * len(curve["value"]) for curve in found)
        if shown and used + size > most:
            left_out.append(metric)
            continue
        used += size
        shown.append(metric)
        curves += found
    if not curves:
        return None
    trained = [run for run in order if any(curve["run"] == run for curve in curves)]
    return {
        "metrics": shown,
        "runs": trained,
        "labels": [label_of(runs[run], view) for run in trained],
        "colours": [colour_of(runs[run], view) for run in trained],
        "floors": [
            view.reference is not None and view.replicate(runs[run], view.reference) is not None for run in trained
        ],
        "curves": curves,
        "left_out": left_out,
        "thinned": any(curve["of"] > len(curve["value"]) for curve in curves),
    }


def _curve(run: str, metric: str, part: pl.DataFrame) -> dict[str, Any]:
    every = -(-part.height // MOST_POINTS)
    kept = sorted({*range(0, part.height, every), part.height - 1})
    steps, values = part["step"].to_list(), [finite(value) for value in part["value"]]
    return {
        "run": run,
        "metric": metric,
        "step": [steps[i] for i in kept],
        "value": [values[i] for i in kept],
        "of": part.height,
    }


@dataclass(frozen=True)
class Explore:
    """What the charts are made of, as JSON can hold it. A part that was not measured is None and has no chart.

    ``notes``: part -> how its numbers were computed and over what n.
    """

    pairs: dict[str, Any] | None
    paths: dict[str, Any] | None
    training: dict[str, Any] | None
    notes: dict[str, str]

    @property
    def data(self) -> dict[str, Any]:
        """Everything that explore.js reads."""
        return {
            "pairs": self.pairs,
            "paths": self.paths,
            "training": self.training,
            "charts": {
                "profile": profile_chart(),
                "heat-map": heat_map_chart(),
                "path": path_chart(),
                "training": training_chart(),
            },
            "words": {"pair": PAIR, "null": NULL, "floors": FLOORS, "plain": AS_TRAINED, "matched": MATCHED},
        }


def build_explore(study: Updates) -> Explore | None:
    """The section of a study or a comparison; None where no two runs were compared."""
    pairs = pair_data(study)
    if pairs is None:
        return None
    paths, curves = (path_data(study), training_data(study)) if isinstance(study, Study) else (None, None)
    notes = {"pairs": _pairs_note(pairs, study.geometry)}
    if paths is not None:
        notes["paths"] = _paths_note(paths)
    if curves is not None:
        notes["training"] = _training_note(curves)
    return Explore(pairs, paths, curves, notes)


def _pairs_note(pairs: dict[str, Any], view: Geometry) -> str:
    shape = f"{count(view.modules, 'shared module')} in {count(len(pairs['layers']), 'layer')}"
    cut = ""
    if pairs["left_out"]:
        cut += f" Not here: {named(pairs['left_out'], MOST_NAMED)}; pair_metrics.parquet has them."
    if pairs["runs_left_out"]:
        cut += f" {count(pairs['runs_left_out'], 'run')} far from the reference left out; pair_metrics.parquet has all."
    return (
        f"Measured on {shape}. A floor is the same method trained again with another data order or another "
        "initialisation; where several pairs measure it, the one least alike. It judges two methods across data orders "
        "(choose a replicate on one side): two in one order share its noise, which alone brings them above it. Null: "
        f"mean over random subspaces of the same shape.{cut}"
    )


def _paths_note(paths: dict[str, Any]) -> str:
    n = sorted({path["n"] for path in paths["paths"]})
    problems = f"{n[0]} to {n[-1]} problems" if len(n) > 1 else count(n[0], "problem")
    cut = (
        f" Only paths with the reference are here; connectivity.parquet has {paths['left_out']} more pairs."
        if paths["left_out"]
        else ""
    )
    return (
        f"Models on the straight line between two updates, {problems}. Dotted: the chord between the ends; a loss "
        f"above it, or an accuracy below it, is a barrier. Scaled to one norm, the ends are other models.{cut}"
    )


def _training_note(curves: dict[str, Any]) -> str:
    thinned = " Of long runs every n-th step is shown." if curves["thinned"] else ""
    cut = f" Not here: {named(curves['left_out'], MOST_NAMED)}." if curves["left_out"] else ""
    more = " training.parquet has all." if thinned or cut else ""
    return (
        "As logged, not smoothed. Every method minimises its own loss, so heights of two methods do not compare."
        f"{thinned}{cut}{more}"
    )
