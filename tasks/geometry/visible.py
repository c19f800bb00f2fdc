"""Which entries two updates change once the merged weights are stored in bfloat16, and how many they change both.

What bfloat16 shows of a small update is decided by the base as well: the smaller an entry of the base, the smaller a
change that it shows. So two unrelated updates show up on common entries; what they have in common beyond that is read
against the second update with its rows and its columns in a random order, which changes neither its entries nor its
singular values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.base.sparsity import unchanged
from tasks.geometry.cosine import quotient
from tasks.geometry.delta import Array, NotFinite, Source, formed, natural
from tasks.geometry.tables.pairs import PairTable
from tasks.geometry.updates.measure import ModuleMeasure
from tasks.geometry.updates.metrics import PairMetric
from tasks.geometry.updates.modules import SomePairs
from tasks.geometry.updates.random_subspaces import SEED

NAME = "visible_overlap"
PARTS = ("both", "either")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class VisiblePairs(SomePairs):
    """Entries of one module that both updates of a pair change, and that either does, (P,) each."""

    both: Array
    either: Array


METRIC = PairMetric(
    module=lambda pairs, _: quotient(pairs.both, pairs.either),  # type: ignore[attr-defined]
    overall=lambda parts, _, counts: quotient(parts["both"] @ counts.T, parts["either"] @ counts.T),
)
"""Jaccard's index: of several modules that of all their entries. NaN where no update changes an entry."""


def visible_frame(
    sources: Sequence[Source], infos: Sequence[RunInfo], base: Checkpoint, progress: Progress = no_progress
) -> pl.DataFrame:
    """The metric ``visible_overlap`` of every pair, in the PAIR_METRICS_FRAME schema: of the entries that either update
    changes in bfloat16, the share that both change; ``null``: the same with the second one's rows and columns shuffled.

    Groups and intervals are those of `PairTable.frame`. One module is in memory at a time, with a mask for each update.
    """
    names = sorted({name for source in sources for name in source.shapes}, key=natural)
    number = {pair: place for place, pair in enumerate(combinations(range(len(sources)), 2))}
    found, shuffled = (PairTable(names, len(sources), PARTS, {NAME: METRIC}) for _ in range(2))
    for place, name in enumerate(names):
        progress(place, len(names), "modules")
        rng = np.random.default_rng((SEED, 5, place))
        masks: dict[int, tuple[Mask, Mask]] = {}
        for i, source in enumerate(sources):
            if name in source.shapes:
                try:
                    update = formed(source.read(name))
                except NotFinite:  # the plain measures name it
                    continue
                weight = base.read_weight(name, update.shape)
                other = update[rng.permutation(len(update))][:, rng.permutation(update.shape[1])]
                masks[i] = (~unchanged(weight, weight + update), ~unchanged(weight, weight + other))
        couples = list(combinations(masks, 2))
        if not couples:
            continue
        places = np.array([number[couple] for couple in couples], dtype=np.int64)
        shape = next(iter(masks.values()))[0].shape
        for table, side in ((found, 0), (shuffled, 1)):
            pairs = _counted([(masks[i][0], masks[j][side]) for i, j in couples])
            value = quotient(pairs.both, pairs.either)
            table.add(ModuleMeasure(name, (shape[0], shape[1]), {}, places, pairs, {(NAME, None): value}))
    progress(len(names), len(names), "modules")
    frame = found.frame(infos)
    return frame if frame.is_empty() else frame.with_columns(null=shuffled.frame(infos)["value"])


def _counted(pairs: Sequence[tuple[Mask, Mask]]) -> VisiblePairs:
    counts = [(np.count_nonzero(a & b), np.count_nonzero(a | b)) for a, b in pairs]
    both, either = np.array(counts, dtype=np.float64).T
    return VisiblePairs(np.ones(len(pairs), dtype=np.int64), both, either)


def measure_visible(
    *,
    base: Path,
    adapters: Sequence[Path],
    infos: Sequence[RunInfo],
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``pair_metrics.parquet``: `visible_frame` of plain LoRA adapters, in a worker process."""
    sources = [AdapterSource(folder) for folder in adapters]
    visible_frame(sources, infos, Checkpoint(base), progress).write_parquet(out / "pair_metrics.parquet")
    return {}
