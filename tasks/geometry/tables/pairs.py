"""The frame of pair metrics: modules joined to layers, projections and the whole, with interval and chance beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.frames import FEW_LAYERS, PAIR_METRICS_FRAME, checked
from tasks.core.places import Group, Place, groups_of, places
from tasks.core.results import RunInfo
from tasks.geometry.chance.bootstrap import Counts, cluster_counts, cluster_members, interval
from tasks.geometry.chance.few_layers import pseudo_values, t_interval
from tasks.geometry.chance.nulls import mean_null, median_null, normal_percentile, percentile
from tasks.geometry.cosine import quotient
from tasks.geometry.delta import Array
from tasks.geometry.updates.measure import ModuleMeasure
from tasks.geometry.updates.metrics import PAIR_METRICS, PARTS, Key, PairMetric
from tasks.geometry.updates.modules import InnerPairs
from tasks.geometry.updates.random_subspaces import SEED, TIES, TotalChance

REPLICATES = 1000
"""Of the bootstrap over modules, clustered by layer; where layers are few there is none."""

_CHUNK = 32
"""Pairs whose rows are made at once: text columns are large before they are compressed."""


@dataclass(eq=False)
class _Column:
    """One metric (and k): arrays over pairs and modules, (P, N) unless said otherwise."""

    value: Array
    present: Array
    percentile: Array
    mean: Array
    """(N,) of the null."""
    pools: dict[int, Array] = field(default_factory=dict)
    """Module -> draws of its null, where that depends on the shape alone."""


class PairTable:
    """Collects `ModuleMeasure`s, in any number of pairs, and makes their frame."""

    def __init__(
        self,
        modules: Sequence[str],
        adapters: int,
        parts: Sequence[str] = PARTS,
        metrics: Mapping[str, PairMetric] = PAIR_METRICS,
    ) -> None:
        self.modules, self.metrics = list(modules), metrics
        self.places: list[Place] = places(self.modules)
        self.pairs = list(combinations(range(adapters), 2))
        self.parts = {name: np.zeros(self._shape) for name in parts}
        self.columns: dict[Key, _Column] = {}
        self.total = TotalChance(len(self.pairs))
        self.random = np.ones(len(self.modules))
        """(N,) share of a random update that is outside another's direction, squared: 1 - 1 / (out in)."""
        self._nulls: dict[tuple[str, tuple[int, ...]], Array] = {}

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.pairs), len(self.modules)

    def add(self, measured: ModuleMeasure) -> None:
        """Take in one module."""
        if measured.pairs is None:
            return
        n, places = self.modules.index(measured.module), measured.places
        self.random[n] = 1 - 1 / (measured.shape[0] * measured.shape[1])
        for name, part in self.parts.items():
            part[places, n] = getattr(measured.pairs, name)
        if measured.chance is not None:
            assert isinstance(measured.pairs, InnerPairs)
            self.total.add(places, measured.pairs, measured.chance)
        for key, values in measured.values.items():
            column = self.columns.get(key) or self.columns.setdefault(key, self._column())
            column.value[places, n] = values
            column.present[places, n] = measured.pairs.width >= (key[1] or 1)
            if measured.chance is None:
                continue
            column.percentile[places, n] = measured.chance.percentile.get(key, np.nan)
            column.mean[n] = measured.chance.mean.get(key, np.nan)
            if key in measured.chance.pools:
                column.pools[n] = measured.chance.pools[key]

    def _column(self) -> _Column:
        empty = [np.full(self._shape, np.nan) for _ in range(2)]
        return _Column(empty[0], np.zeros(self._shape, dtype=bool), empty[1], np.full(len(self.modules), np.nan))

    def frame(self, infos: Sequence[RunInfo]) -> pl.DataFrame:
        """All rows in the PAIR_METRICS_FRAME schema; ``infos`` in the adapters' order.

        Module "*" with neither layer nor projection is the value over all shared modules, with its interval; with a
        layer or a projection, over the modules of that. A layer of another tower than the largest has that tower in
        its projection (``visual.blocks.*``). A module has no row for a k above min(r, out, in) of either
        update. Null marks a value that is not defined: a zero update, which has no direction, or a k above its
        numerical rank; values over several modules leave such modules out.
        """
        if not self.columns:  # one adapter alone, or pairs whose shared modules are all damaged
            return pl.DataFrame(schema=PAIR_METRICS_FRAME)
        groups = groups_of(self.places)
        order = {name: place for place, name in enumerate(self.metrics)}
        keys = sorted(self.columns, key=lambda key: (order[key[0]], key[1] or 0))
        blocks = [self._block(key, groups) for key in keys]
        stacked = {name: np.stack([block[name] for block in blocks], axis=-1) for name in blocks[0]}
        stacked |= self._spreads(groups, stacked["value"], keys)
        labels: dict[str, list[Any]] = {
            "module": ["*"] * len(groups) + self.modules,
            "layer": [group.layer for group in groups] + [place.layer for place in self.places],
            "projection": [group.projection for group in groups] + [place.projection for place in self.places],
        }
        chunks = [
            self._rows(range(start, min(start + _CHUNK, len(self.pairs))), keys, labels, stacked, infos)
            for start in range(0, len(self.pairs), _CHUNK)
        ]
        return checked(pl.concat(chunks), PAIR_METRICS_FRAME, "pair_metrics")

    def _block(self, key: Key, groups: Sequence[Group]) -> dict[str, Array]:
        """One metric: every column of the frame as (P, G + N), groups first."""
        column, metric = self.columns[key], self.metrics[key[0]]
        members = np.array([group.members for group in groups], dtype=np.int64)
        value = metric.overall(self.parts, column.value, members)
        low, high = self._interval(key)
        blank = np.full((len(self.pairs), len(groups) - 1), np.nan)
        nothing = np.full(self._shape, np.nan)
        return {
            "value": np.hstack([value, column.value]),
            "present": np.hstack([column.present.astype(float) @ members.T > 0, column.present]),
            "low": np.hstack([low[:, None], blank, nothing]),
            "high": np.hstack([high[:, None], blank, nothing]),
            "null": self._null(key, members),
            "percentile": np.hstack([self._percentile(key, value[:, 0])[:, None], blank, self._percentiles(key)]),
        }

    def _interval(self, key: Key) -> tuple[Array, Array]:
        """95 % over modules, layers being the sample, (P,) each: a bootstrap of layers, t over them where few have a
        value. NaN where only one has."""
        layers = [place.cluster for place in self.places]
        column = self.columns[key]
        members = cluster_members(layers)
        present = (~np.isnan(column.value)).astype(float) @ members.T > 0
        few = np.count_nonzero(present, axis=1) < FEW_LAYERS
        low, high = self._over_few(key, members, present) if few.any() else np.full((2, len(self.pairs)), np.nan)
        if not few.all():
            many = interval(self.metrics[key[0]].overall(self.parts, column.value, self._replicates))
            low, high = np.where(few, low, many[0]), np.where(few, high, many[1])
        return low, high

    @cached_property
    def _replicates(self) -> Counts:
        """(R, N) of the bootstrap, one for all metrics."""
        layers = [place.cluster for place in self.places]
        return cluster_counts(layers, REPLICATES, np.random.default_rng((SEED, 2)))

    def _over_few(self, key: Key, members: Counts, present: NDArray[np.bool_]) -> tuple[Array, Array]:
        """`t_interval` of every pair; of a ratio of norms on the logarithm's scale, so that its inverse has the
        inverse interval. ``members`` (L, N), ``present`` (P, L) whether a pair has a value in a layer."""
        column, metric = self.columns[key], self.metrics[key[0]]
        value = metric.overall(self.parts, column.value, np.ones_like(members[:1]))[:, 0]
        layers = metric.overall(self.parts, column.value, members if metric.is_median else 1 - members)
        layers = np.where(present, layers, np.nan)
        if metric.span is None:
            with np.errstate(all="ignore"):  # a norm of 0 has no logarithm, and no interval
                value, layers = np.log(value), np.log(layers)
                low, high = np.exp(t_interval(value, pseudo_values(value, layers)))
            known = np.isfinite(high)
            return np.where(known, low, np.nan), np.where(known, high, np.nan)
        return t_interval(value, layers if metric.is_median else pseudo_values(value, layers), metric.span)

    def _spreads(self, groups: Sequence[Group], values: Array, keys: Sequence[Key]) -> dict[str, Array]:
        """Spreads of the cosine's two nulls and its percentile in the second, (P, G + N, 1) each: groups first.

        NaN where the cosine has no value, and where a right singular vector of a module is not known.
        """
        if ("cosine", None) not in keys:
            nothing = np.full((*values.shape[:2], 1), np.nan)
            return dict.fromkeys(("null_sd", "shared_null_sd", "shared_percentile"), nothing)
        counts = np.vstack([[group.members for group in groups], np.eye(len(self.modules), dtype=np.int64)])
        cosine = values[:, :, keys.index(("cosine", None))]
        lengths = np.sqrt(self.parts["squared_a"] @ counts.T) * np.sqrt(self.parts["squared_b"] @ counts.T)
        found = {}
        for name, part in (("null_sd", "variance"), ("shared_null_sd", "shared_variance")):
            unknown = np.isnan(self.parts[part])
            sd = quotient(np.sqrt(np.where(unknown, 0, self.parts[part]) @ counts.T), lengths)
            found[name] = np.where((unknown.astype(float) @ counts.T > 0) | np.isnan(cosine), np.nan, sd)
        found["shared_percentile"] = normal_percentile(cosine, found["shared_null_sd"])
        return {name: one[:, :, None] for name, one in found.items()}

    def _null(self, key: Key, members: Counts) -> Array:
        """What chance gives one metric on average, (P, G + N). The mean of a median is not the median of the means."""
        column, metric = self.columns[key], self.metrics[key[0]]
        if metric.null is None:
            return np.full((len(self.pairs), len(members) + len(self.modules)), np.nan)
        defined = ~np.isnan(column.value)
        means = np.where(defined, column.mean, np.nan)
        if not metric.is_median:
            alone = np.eye(len(self.modules), dtype=np.int64)
            return metric.overall(self._random_parts(), means, np.vstack([members, alone]))
        medians = np.full((len(self.pairs), len(members)), np.nan)
        for which in np.unique(defined, axis=0):
            same = (defined == which).all(axis=1)
            for g, group in enumerate(members):
                if (which * group).any():
                    medians[same, g] = self._pooled(key, which * group).mean()
        return np.hstack([medians, means])

    def _random_parts(self) -> dict[str, Array]:
        """What the parts are on average when one update of every pair points in a random direction."""
        parts = dict(self.parts, inner=np.zeros(self._shape))
        for own, other in ("ab", "ba"):  # all of an update is outside a zero one
            share = np.where(self.parts[f"squared_{other}"] > 0, self.random, 1.0)
            parts[f"residual_{own}"] = self.parts[f"squared_{own}"] * share
        return parts

    def _pooled(self, key: Key, which: Counts) -> Array:
        """(D,) draws of the value of the modules ``which`` together; made once for all groups of the same pools."""
        pools = [self.columns[key].pools[n] for n in np.flatnonzero(which)]
        null_of = median_null if self.metrics[key[0]].is_median else mean_null
        known = key[0], tuple(sorted(id(pool) for pool in pools))
        if known not in self._nulls:
            self._nulls[known] = null_of(pools, np.random.default_rng((SEED, 3)))
        return self._nulls[known]

    def _percentile(self, key: Key, values: Array) -> Array:
        """(P,) percentiles of the values over everything, against what chance gives everything."""
        column, metric = self.columns[key], self.metrics[key[0]]
        result = np.full(len(self.pairs), np.nan)
        if metric.null is None:
            return result
        if not column.pools:
            squared = [self.parts[name].sum(axis=1) for name in ("squared_a", "squared_b")]
            return self.total.percentile(metric.null, values, *squared)
        defined = ~np.isnan(column.value)
        for which in np.unique(defined, axis=0):
            if which.any():
                same = (defined == which).all(axis=1)
                tie = TIES[metric.null.split("_")[0]]
                result[same] = percentile(values[same], self._pooled(key, which), tie)
        return result

    def _percentiles(self, key: Key) -> Array:
        """(P, N) of the modules, all that have one null at once."""
        column, null = self.columns[key], self.metrics[key[0]].null
        if null is None or not column.pools:
            return column.percentile
        result, tie = np.full(self._shape, np.nan), TIES[null.split("_")[0]]
        for pool in {id(pool): pool for pool in column.pools.values()}.values():
            same = [n for n, other in column.pools.items() if other is pool]
            result[:, same] = percentile(column.value[:, same], pool, tie)
        return result

    def _rows(
        self,
        chosen: range,
        keys: Sequence[Key],
        labels: dict[str, list[Any]],
        stacked: dict[str, Array],
        infos: Sequence[RunInfo],
    ) -> pl.DataFrame:
        """The rows of some pairs: pair by pair, module by module, metric by metric."""
        pair, module, key = np.nonzero(stacked["present"][chosen.start : chosen.stop])
        at = (pair + chosen.start, module, key)
        columns: dict[str, pl.Series] = {}
        for side, name in enumerate("ab"):
            which = np.array([one[side] for one in self.pairs])[at[0]]
            for label in asdict(infos[0]):
                kind = PAIR_METRICS_FRAME[f"{label}_{name}"]
                values = pl.Series([getattr(info, label) for info in infos], dtype=kind)
                columns[f"{label}_{name}"] = values.gather(which)
        for label, found in labels.items():
            columns[label] = pl.Series(found, dtype=PAIR_METRICS_FRAME[label]).gather(module)
        columns["metric"] = pl.Series([name for name, _ in keys], dtype=pl.String()).gather(key)
        columns["k"] = pl.Series([k for _, k in keys], dtype=pl.Int64()).gather(key)
        measured = ("value", "low", "high", "null", "percentile")
        numbers = {name: pl.Series(stacked[name][at], nan_to_null=True) for name in measured}
        of_cosine = np.array([name == "cosine" for name, _ in keys])[key]
        for name in ("null_sd", "shared_null_sd", "shared_percentile"):
            numbers[name] = pl.Series(np.where(of_cosine, stacked[name][*at[:2], 0], np.nan), nan_to_null=True)
        return pl.DataFrame(columns | numbers).select(list(PAIR_METRICS_FRAME))
