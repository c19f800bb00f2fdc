"""The frames of geometry, from adapters that are open: all pairs and spectra at once, one pair, or one adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import SPECTRA
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.delta import Source, Update, natural
from tasks.geometry.frames import Row, long_frame
from tasks.geometry.spectrum import spectrum_rows
from tasks.geometry.tables.pairs import PairTable
from tasks.geometry.updates.measure import BaseRows, ModuleMeasure, measure, resolve_ks


class Measured(NamedTuple):
    """The frames of adapters and their pairs."""

    pair_metrics: pl.DataFrame
    spectra: pl.DataFrame
    damaged: dict[int, dict[str, str]]
    """Adapter -> module -> why its update there was left out."""


def geometry(
    sources: Sequence[Source],
    infos: Sequence[RunInfo],
    ks: Sequence[int],
    base: Checkpoint | None = None,
    progress: Progress = no_progress,
    workers: int | None = None,
) -> Measured:
    """All measures of any sources and of their pairs; `measure` and `PairTable.frame` say which, and what is refused.

    ``base``: the model's weights; with them, the measures that need them are among the spectra.
    """
    resolved = resolve_ks(ks, sources)
    names = sorted({name for source in sources for name in source.shapes}, key=natural)
    table = PairTable(names, len(sources))
    found: list[ModuleMeasure] = []
    damaged: dict[int, dict[str, str]] = {}
    for one in measure(sources, resolved, _base_rows(base, resolved), progress, workers):
        table.add(one)
        found.append(one.without_pairs())
        for i, why in one.damaged.items():
            damaged.setdefault(i, {})[one.module] = why
    for i, modules in damaged.items():
        if len(modules) == len(sources[i].shapes):
            first = f"{sources[i].source}: {next(iter(modules.values()))}"
            raise InputError(f"{first}, and so in every other module: nothing to compare")
    spectra = pl.concat([_spectra(i, info, found) for i, info in enumerate(infos)])
    return Measured(table.frame(infos), spectra, damaged)


def _spectra(adapter: int, info: RunInfo, found: Sequence[ModuleMeasure]) -> pl.DataFrame:
    mine = [one for one in found if adapter in one.spectra]
    rows = spectrum_rows({one.module: one.spectra[adapter] for one in mine})
    based = [row for one in mine for row in one.base.get(adapter, [])]
    if based:
        from tasks.geometry.base.metrics import overall_rows

        rows += based + overall_rows(based, {one.module: one.shape[0] * one.shape[1] for one in mine})
    return long_frame(rows, asdict(info), SPECTRA, "spectra")


def _base_rows(base: Checkpoint | None, ks: Sequence[int]) -> BaseRows | None:
    if base is None:
        return None
    from tasks.geometry.base.metrics import base_module, base_rows

    def rows(module: str, updates: Mapping[int, Update]) -> dict[int, list[Row]]:
        if not updates:
            return {}
        weight = base_module(base.read_weight(module, next(iter(updates.values())).shape))
        return {i: base_rows(module, weight, update, ks) for i, update in updates.items()}

    return rows


def pair_frame(a: Source, b: Source, info_a: RunInfo, info_b: RunInfo, ks: Sequence[int]) -> pl.DataFrame:
    """Every metric of `PAIR_METRICS` of one pair: `PairTable.frame` says which rows."""
    return geometry([a, b], [info_a, info_b], ks, workers=1).pair_metrics


def spectrum_frame(source: Source, info: RunInfo) -> pl.DataFrame:
    """One adapter's spectra in the SPECTRA schema."""
    return geometry([source], [info], (), workers=1).spectra
