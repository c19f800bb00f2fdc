"""The measures of every pair of runs by layer, compact, for the charts of the page that answer to a reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.charts.picture import colour_of, label_of
from tasks.reporting.metrics import INVERSE, PAIRS, REVERSED, Metric, pair_metric
from tasks.reporting.views.floors import KINDS
from tasks.reporting.views.pairs import Geometry

MOST_VALUES = 40_000
"""Numbers of pairs on a page: under a megabyte. Of more, the measures that are read last are left to the parquet."""

Key = tuple[str, int | None]
Series = dict[int | None, tuple[float | None, float | None]]
"""Layer (None: over everything) -> value and mean of the null."""


def pair_data(pair_metrics: pl.DataFrame, view: Geometry, most: int = MOST_VALUES) -> dict[str, Any] | None:
    """Runs, layers and one entry a metric, as JSON can hold them; None where no two runs were compared.

    A metric's ``values`` are [pair][place]: pairs (i, j), i < j, in the order of ``itertools.combinations``; place 0 is
    over everything, then the ``layers``. ``turned`` is the same for (j, i) where that differs. ``nulls`` is one list of
    places where all pairs share it. ``floors``: kind -> places, the least alike of the pairs that measure it.
    """
    rows = pair_metrics.filter(pl.col("module") == "*", pl.col("projection").is_null())
    found: dict[Key, dict[tuple[str, str], Series]] = {}
    columns = ["metric", "k", "run_a", "run_b", "layer", "value", "null"]
    for metric, k, a, b, layer, value, null in rows.select(columns).iter_rows():
        found.setdefault((metric, k), {}).setdefault((a, b), {})[layer] = (finite(value), finite(null))
    layers = sorted(rows["layer"].drop_nulls().unique().to_list())
    runs = _kept(view, len(layers) + 1, most)
    if len(runs) < 2 or not any(value is not None for value in rows["value"]):
        return None
    metrics: list[dict[str, Any]] = []
    left_out, used = [], 0
    for metric, k in sorted(found.keys(), key=_rank):
        if metric in REVERSED.values() or (k is not None and k < pair_metric(metric).least_k):
            continue  # the other side of one that is here, or the same as another
        entry = _metric(found, (metric, k), runs, view, [None, *layers])
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


def finite(value: float | None) -> float | None:
    """None for what JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


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


def _metric(
    found: Mapping[Key, Mapping[tuple[str, str], Series]],
    key: Key,
    runs: Sequence[RunInfo],
    view: Geometry,
    places: Sequence[int | None],
) -> dict[str, Any]:
    metric, k = key
    measure = pair_metric(metric)

    def line(a: str, b: str) -> tuple[list[float | None], list[float | None]]:
        """Values and nulls of ``a`` against ``b``, whichever way round the frame has the pair."""
        series = found[key].get((a, b))
        if series is not None:
            return _line(series, places)
        values, nulls = _line(found.get((REVERSED.get(metric, metric), k), {}).get((b, a), {}), places)
        if measure.turned == INVERSE:
            return [1 / value if value else None for value in values], [None] * len(places)
        return values, nulls

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
            name: _least_alike([line(a, b)[0] for a, b in view.replicate_pairs[kind]], measure, len(places))
            for kind, name in KINDS.items()
        },
    }


def _line(series: Series, places: Sequence[int | None]) -> tuple[list[float | None], list[float | None]]:
    entries = [series.get(place, (None, None)) for place in places]
    return [value for value, _ in entries], [null for _, null in entries]


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
