"""Measure many adapters one module at a time, so that memory does not grow with their depth."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from tasks.core.cores import cores, threads
from tasks.core.errors import InputError
from tasks.core.results import Progress, no_progress
from tasks.geometry.delta import Array, NotFinite, Source, Update, check_size, natural, shared
from tasks.geometry.frames import Row
from tasks.geometry.spectrum import Spectrum
from tasks.geometry.updates.metrics import Key, module_values
from tasks.geometry.updates.modules import Decomposed, Index, SomePairs, pair_up
from tasks.geometry.updates.random_subspaces import Chance, ModuleChance

BaseRows = Callable[[str, Mapping[int, Update]], Mapping[int, list[Row]]]
"""``base(module, {adapter: update})``: rows of the measures that need the base's weights, adapter by adapter."""


@dataclass(frozen=True, eq=False)
class ModuleMeasure:
    """What one module gave. ``members``: the adapters that have it."""

    module: str
    shape: tuple[int, int]
    spectra: dict[int, Spectrum]
    places: Index
    """(P_m,) the numbers of its pairs among all pairs."""
    pairs: SomePairs | None = None
    values: dict[Key, Array] = field(default_factory=dict)
    chance: ModuleChance | None = None
    base: Mapping[int, list[Row]] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)
    """Adapter -> why its update of this module was left out; which adapter it is the caller knows."""

    def without_pairs(self) -> ModuleMeasure:
        """What is left to keep when its pairs have been taken into a table."""
        return replace(self, pairs=None, values={}, chance=None)


def resolve_ks(ks: Sequence[int], sources: Sequence[Source]) -> tuple[int, ...]:
    """The subspace dimensions asked for, and the full rank: the smallest of the adapters that have one."""
    if any(k < 1 for k in ks):
        raise InputError(f"geometry.ks is {tuple(ks)}; subspace dimensions are at least 1")
    return tuple(sorted({*ks, *([min(ranks)] if (ranks := [s.rank for s in sources if s.rank is not None]) else [])}))


def measure(
    sources: Sequence[Source],
    ks: Sequence[int],
    base: BaseRows | None = None,
    progress: Progress = no_progress,
    workers: int | None = None,
) -> Iterator[ModuleMeasure]:
    """Every module of the adapters in turn: spectra of each, and all metrics of all pairs that have it.

    Pairs are numbered as `itertools.combinations` of ``range(len(sources))``. ``ks``: subspace dimensions.
    ``workers``: threads, each with one BLAS thread; default: one a core. ``progress(done, total, note)`` counts
    modules. The order of modules, and every value, is the same for any number of workers.

    Raises `InputError`, before any weight is read, for a pair without a common module or with a module of two shapes;
    when it is read, for an update too large or too small to be squared. A module with NaN or infinite entries is left
    out and reported as ``damaged``.
    """
    for a, b in combinations(sources, 2):
        shared(a, b)
    names = sorted({name for source in sources for name in source.shapes}, key=natural)
    number = {pair: place for place, pair in enumerate(combinations(range(len(sources)), 2))}
    chance = Chance()

    def one(place: int) -> ModuleMeasure:
        return _module(place, names[place], sources, number, tuple(ks), chance, base)

    ahead = 2 * (workers or cores())
    if any(source.rank is None for source in sources):
        import scipy.sparse.linalg  # noqa: F401  (its BLAS is its own, and must be there to be given one thread)
    with threads(len(names), workers) as pool:
        for done, found in enumerate(_in_order(pool, one, len(names), ahead), start=1):
            progress(done, len(names), "modules")
            yield found


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], ModuleMeasure], number: int, ahead: int
) -> Iterator[ModuleMeasure]:
    """``work(0), work(1), ...``, at most ``ahead`` of them not yet taken: for a slow reader they would pile up."""
    begun: deque[Future[ModuleMeasure]] = deque()
    try:
        for place in range(number):
            begun.append(pool.submit(work, place))
            if len(begun) == ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def _module(
    place: int,
    name: str,
    sources: Sequence[Source],
    number: Mapping[tuple[int, int], int],
    ks: tuple[int, ...],
    chance: Chance,
    base: BaseRows | None,
) -> ModuleMeasure:
    updates: dict[int, Update] = {}
    damaged: dict[int, str] = {}
    for i, source in enumerate(sources):
        if name in source.shapes:
            try:
                updates[i] = source.read(name)
            except NotFinite as error:
                damaged[i] = str(error).removeprefix(f"{source.source}: ")
                continue
            check_size(updates[i], f"{source.source}: module {name}")
    decomposed = {i: Decomposed(update, max(ks, default=1)) for i, update in updates.items()}
    members = list(updates)
    couples = list(combinations(range(len(members)), 2))
    shape = next(source.shapes[name] for source in sources if name in source.shapes)
    spectra = {i: Spectrum(one.svd.s, one.squared, one.svd.complete, one.rounded) for i, one in decomposed.items()}
    rows = base(name, updates) if base else {}
    places = np.array([number[members[a], members[b]] for a, b in couples], dtype=np.int64)
    if not couples:
        return ModuleMeasure(name, shape, spectra, places, base=rows, damaged=damaged)
    first, second = (np.array(side, dtype=np.int64) for side in zip(*couples, strict=True))
    pairs = pair_up(list(decomposed.values()), first, second)
    values = module_values(pairs, ks)
    found = chance.module(place, pairs, _singular(list(decomposed.values())), values)
    return ModuleMeasure(name, shape, spectra, places, pairs, values, found, rows, damaged)


def _singular(updates: Sequence[Decomposed]) -> Array:
    """(M, r) singular values, padded with zeros, and scaled to the update's norm where not all were computed."""
    width = max(update.width for update in updates)
    padded = np.zeros((len(updates), width))
    for row, update in zip(padded, updates, strict=True):
        row[: update.width] = update.svd.s
        if not update.svd.complete:
            row *= np.sqrt(update.squared / np.sum(row**2)) if row.any() else 1.0
    return padded
