"""Geometry of adapters that exist already: anybody's, from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from pathlib import Path

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import ADAPTERS, UNSHARED, checked
from tasks.core.results import Progress, RunInfo, no_progress
from tasks.geometry.activations.moments import Moments
from tasks.geometry.activations.pairs import activation_frame
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.dora import Weights
from tasks.geometry.adapters.opened import Named, check, open_adapter
from tasks.geometry.delta import Source, aligned, shared
from tasks.geometry.tables.build import geometry
from tasks.geometry.visible import visible_frame

__all__ = ["Comparison", "Named", "compare", "examine", "weigh"]

FRAMES = ("pair_metrics", "spectra", "adapters", "unshared")


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured, in the schemas of `tasks.core.frames`. ``notes``: what a reader must know beside the
    numbers.

    Where the adapters lie stands in ``adapters.source`` only; everywhere else they have their labels.
    """

    pair_metrics: pl.DataFrame
    spectra: pl.DataFrame
    adapters: pl.DataFrame
    unshared: pl.DataFrame
    notes: tuple[str, ...]

    def write(self, out: Path) -> None:
        """``out/NAME.parquet`` for each frame, and ``notes.json``."""
        for name in FRAMES:
            getattr(self, name).write_parquet(out / f"{name}.parquet")
        (out / "notes.json").write_text(json.dumps(self.notes, indent=2))


def examine(adapters: Sequence[Named], base: Path | None = None) -> None:
    """Refuse bad input before any work, reading headers only.

    Raises `InputError` in one line: fewer than two adapters, a label given twice, a file that is missing, damaged or
    cut short, an adapter that needs the base where none is given, two adapters of LoRA or DoRA without a common module
    or with one of two shapes, a base that lacks a module of theirs or has it in another shape.
    """
    if len(adapters) < 2:
        raise InputError(f"{len(adapters)} adapter given; a comparison takes two or more")
    labels = [adapter.info.run for adapter in adapters]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"two adapters are called {twice!r}; name one of them: NAME=ADAPTER")
    checkpoint = Checkpoint(base) if base is not None else None
    known = [source for adapter in adapters if (source := check(adapter, base)) is not None]
    for a, b in combinations(aligned(known), 2):
        shared(a, b)
    if checkpoint is not None:
        for source in known:
            _fits(source, checkpoint)


def compare(
    adapters: Sequence[Named],
    ks: Sequence[int] = (1, 5, 10),
    base: Path | None = None,
    scratch: Path = Path("."),
    progress: Progress = no_progress,
) -> Comparison:
    """Every measure of every adapter and of every pair of them.

    ``ks``: subspace dimensions; the full rank (of the smallest adapter) is added. ``base``: the model's directory; with
    it the measures that need its weights are taken too (one full SVD a module and adapter: see
    `tasks.geometry.base.metrics` for the cost). ``scratch``: an empty folder for merged models, which can be large.

    Raises `InputError` as `examine` does, and for an update too large or too small to be squared. A module that one
    side lacks is in ``unshared``; NaN or infinite entries leave their module out of that adapter, and a note says so.
    """
    examine(adapters, base)
    checkpoint = Checkpoint(base) if base is not None else None
    weights = Weights(checkpoint) if checkpoint is not None else None
    opened = [open_adapter(adapter, base, scratch, weights) for adapter in adapters]
    sources = aligned([one.source for one in opened])
    infos = [adapter.info for adapter in adapters]
    found = geometry(sources, infos, ks, checkpoint, progress)
    seen = [visible_frame(sources, infos, checkpoint)] if checkpoint is not None else []
    return Comparison(
        pair_metrics=pl.concat([found.pair_metrics, *seen]),
        spectra=found.spectra,
        adapters=checked(pl.DataFrame([one.described() for one in opened], schema=ADAPTERS), ADAPTERS, "adapters"),
        unshared=_unshared(sources, infos),
        notes=tuple(
            f"{infos[i].run}: {why}; the module is left out of this adapter's comparisons"
            for i, modules in sorted(found.damaged.items())
            for why in modules.values()
        )
        + tuple(f"{info.run}: {said}" for info, one in zip(infos, opened, strict=True) if (said := one.warning())),
    )


def weigh(
    adapters: Sequence[Named], base: Path, moments: Moments, scratch: Path, progress: Progress = no_progress
) -> pl.DataFrame:
    """The activation-weighted cosine of every pair (`tasks.geometry.activations.pairs.activation_frame`).

    ``scratch``: an empty folder for merged models. Raises `InputError` as `examine` does.
    """
    weights = Weights(Checkpoint(base))
    opened = [open_adapter(adapter, base, scratch, weights) for adapter in adapters]
    infos = [adapter.info for adapter in adapters]
    return activation_frame(aligned([one.source for one in opened]), infos, moments, progress)


def _fits(source: Source, base: Checkpoint) -> None:
    for name, shape in source.shapes.items():
        stored = base.shape_of(name)
        if stored not in (shape, shape[::-1]):  # an embedding is stored the other way round
            raise InputError(
                f"module {name} is {shape} in {source.source} and {stored} in {base.folder}: give the base model that "
                "the adapter was trained on"
            )


def _unshared(sources: Sequence[Source], infos: Sequence[RunInfo]) -> pl.DataFrame:
    """One row for each module that a pair's comparison leaves out because one side has it not."""
    has = [list(source.shapes) for source in sources]
    rows = [
        (infos[i].run, infos[j].run, name)
        for i, j in permutations(range(len(sources)), 2)
        for theirs in [set(has[j])]
        for name in has[i]
        if name not in theirs
    ]
    return pl.DataFrame(rows, schema=UNSHARED, orient="row")
