"""The section of the page that answers to a reader: its numbers, compact, as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tasks.core.results import RunInfo
from tasks.reporting.charts.explore_charts import FLOORS, NULL, PAIR, heat_map_chart, profile_chart
from tasks.reporting.charts.picture import label_of
from tasks.reporting.formats import finite
from tasks.reporting.metrics import PAIRS, REVERSED, Metric, pair_metric
from tasks.reporting.notes import MOST_NAMED, count, named
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry, PairEstimate
from tasks.reporting.views.study import Updates

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
    others = (i for i, info in enumerate(runs) if i != reference and not view.replicate(info, runs[reference]))
    return {
        "names": [info.run for info in runs],
        "labels": [label_of(info, view) for info in runs],
        "reference": reference,
        "other": next(others, 1 - (reference > 0)),
        "floors": list(KINDS.values()),
        "layers": layers,
        "metrics": metrics,
        "left_out": left_out,
        "runs_left_out": len(view.runs) - len(runs),
    }


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
    least = {"high": min, "low": max}.get(measure.nearer, lambda known: sum(known) / len(known))
    known = ([value for line in lines if (value := line[place]) is not None] for place in range(places))
    return [least(values) if values else None for values in known]


@dataclass(frozen=True)
class Explore:
    """What the charts are made of: ``pairs`` as JSON can hold it (`pair_data`), ``note``: how it was computed and over
    what n."""

    pairs: dict[str, Any]
    note: str

    @property
    def data(self) -> dict[str, Any]:
        """Everything that explore.js reads."""
        return {
            "pairs": self.pairs,
            "charts": {"profile": profile_chart(), "heat-map": heat_map_chart()},
            "words": {"pair": PAIR, "null": NULL, "floors": FLOORS},
        }


def build_explore(study: Updates) -> Explore | None:
    """The section of a study or a comparison; None where no two runs were compared."""
    pairs = pair_data(study)
    return None if pairs is None else Explore(pairs, _note(pairs, study.geometry))


def _note(pairs: dict[str, Any], view: Geometry) -> str:
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
