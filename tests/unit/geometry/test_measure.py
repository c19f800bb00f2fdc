"""Measuring module by module: the same values for any number of workers, bounded memory, damage and conflicts named."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Sequence
from threading import Lock

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.geometry.delta import Dense, Factors, NotFinite, Source, Update, natural
from tasks.geometry.factored import DENSE_LIMIT
from tasks.geometry.tables.build import Measured, geometry, pair_frame, spectrum_frame
from tasks.geometry.updates.measure import ModuleMeasure, measure, resolve_ks
from tests.lab.updates import Checked, Memory, dense, frame_of, grid, infos, random_factors


class Unread(Memory):
    """Fails the test where it is read."""

    def read(self, module: str) -> Update:
        raise AssertionError(f"{module} was read")


class Watched(Memory):
    """Makes a module's factors when it is read, and counts how many modules are alive at once."""

    def __init__(self, shapes: dict[str, tuple[int, int]]) -> None:
        super().__init__({}, "watched")
        self._shapes, self.alive, self.most, self.reads, self._lock = shapes, set[str](), 0, 0, Lock()

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        return self._shapes

    @property
    def rank(self) -> int:
        return 4

    def read(self, module: str) -> Update:
        factors = random_factors(np.random.default_rng(self.reads), *self._shapes[module], 4)
        with self._lock:
            self.reads += 1
            self.alive.add(module)
            self.most = max(self.most, len(self.alive))
        weakref.finalize(factors.A, self.alive.discard, module)
        return factors


def adapters(number: int, layers: int = 4, seed: int = 0, kind: type[Memory] = Memory) -> list[Memory]:
    rng = np.random.default_rng(seed)
    return [
        kind({name: random_factors(rng, 20, 14, 3) for name in grid(layers)}, f"adapter {i}") for i in range(number)
    ]


def measured(sources: Sequence[Source], workers: int | None = None) -> Measured:
    return geometry(sources, infos(len(sources)), (1, 2), workers=workers)


def test_every_bit_is_the_same_for_any_number_of_workers() -> None:
    many = adapters(4, layers=12)
    many[1].modules.pop(next(iter(many[1].modules)))
    many[2].modules = {name: Dense(np.asarray(f.B @ f.A)) for name, f in many[2].modules.items()}  # type: ignore[union-attr]
    first, *others = [measured(many, workers) for workers in (1, 2, 3, None)]
    for other in others:
        assert other.pair_metrics.equals(first.pair_metrics)
        assert other.spectra.equals(first.spectra)
    one, two = ([m.module for m in measure(many, (1,), workers=workers)] for workers in (1, 3))
    assert one == two == sorted(grid(12), key=natural)


def test_a_pair_has_the_same_values_in_any_company() -> None:
    a, b, c = adapters(3)
    alone = pair_frame(a, c, *infos(2), (1, 2)).drop("run_a", "run_b", "seed_a", "seed_b", "data_seed_a", "data_seed_b")
    among = measured([a, b, c]).pair_metrics.filter(pl.col("run_a") == "run0", pl.col("run_b") == "run2")
    among = among.select(alone.columns)
    for column in alone.columns:
        if alone[column].dtype == pl.Float64:
            np.testing.assert_allclose(among[column].to_numpy(), alone[column].to_numpy(), rtol=1e-11, atol=1e-13)
        else:
            assert among[column].equals(alone[column], null_equal=True), column


def test_modules_that_only_one_side_has_leave_the_others_as_they_are() -> None:
    a, b = adapters(2)
    first, second, *_ = a.modules
    part = Memory({name: update for name, update in b.modules.items() if name != first}, "part")
    other = Memory({name: update for name, update in a.modules.items() if name != second}, "other")
    frame = pair_frame(other, part, *infos(2), (1, 2))
    both = [name for name in a.modules if name not in (first, second)]
    assert set(frame["module"]) == {"*", *both}
    kept = [Memory({name: one.read(name) for name in both}, one.source) for one in (a, b)]
    columns = ["module", "layer", "projection", "metric", "k", "value", "low", "high", "null"]
    whole, part_ = (f.select(columns).sort(columns[:5]) for f in (frame, pair_frame(*kept, *infos(2), (1, 2))))
    assert whole.select(columns[:5]).equals(part_.select(columns[:5]))
    for column in ("value", "null"):
        np.testing.assert_allclose(whole[column].to_numpy(), part_[column].to_numpy(), rtol=1e-12, atol=1e-13)
    assert set(spectrum_frame(other, infos(1)[0])["module"]) == {"*", first, *both}


def test_a_module_with_nan_is_left_out_and_reported_with_its_share() -> None:
    a, b, c = adapters(3, kind=Checked)
    name = list(a.modules)[2]
    bad = a.modules[name]
    assert isinstance(bad, Factors)
    factor = bad.B.copy()
    factor[0, 0], factor[1, 1], factor[2, 2] = np.nan, np.inf, -np.inf
    a.modules[name] = bad._replace(B=factor)
    found = measured([a, b, c])
    assert found.damaged == {0: {name: f"module {name}: 3 of 60 entries (5 %) of lora_B are NaN or infinite"}}
    pairs = found.pair_metrics
    assert name not in set(pairs.filter(pl.col("run_a") == "run0")["module"])
    assert name in set(pairs.filter(pl.col("run_a") == "run1")["module"])
    assert name not in set(found.spectra.filter(pl.col("run") == "run0")["module"])
    without = Memory({n: f for n, f in a.modules.items() if n != name}, "without")
    rest = measured([without, b, c]).pair_metrics
    assert pairs.select(pl.exclude("percentile", "null")).equals(rest.select(pl.exclude("percentile", "null")))


def test_an_adapter_without_any_finite_module_is_refused() -> None:
    a, b = adapters(2, kind=Checked)
    broken = Checked({n: f._replace(A=np.nan * f.A) for n, f in b.modules.items()}, "broken")  # type: ignore[union-attr]
    first = min(b.modules, key=natural)
    with pytest.raises(InputError, match=rf"broken: module {first}: 42 of 42 entries \(100 %\) of lora_A") as caught:
        measured([a, broken])
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFinite):
        broken.read(first)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["large scale", "small scale", "large factors", "large dense", "small dense"])
def test_an_update_that_cannot_be_squared_is_refused_with_its_adapter_and_module(kind: str) -> None:
    a, b = adapters(2)
    name = list(b.modules)[3]
    factors = b.modules[name]
    assert isinstance(factors, Factors)
    b.modules[name] = {
        "large scale": factors._replace(scale=1e300),
        "small scale": factors._replace(scale=1e-300),
        "large factors": factors._replace(B=1e200 * factors.B, A=1e-200 * factors.A),  # their product is a usual one
        "large dense": Dense(1e200 * factors.B @ factors.A),
        "small dense": Dense(1e-200 * factors.B @ factors.A),
    }[kind]
    with pytest.raises(InputError, match=f"^adapter 1: module {name}: ") as caught:
        measured([a, b])
    assert "\n" not in str(caught.value)
    assert "leave double precision; correct lora_alpha or the weights" in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-55, 1e55])
def test_scales_within_the_bounds_change_nothing_but_the_norms(scale: float) -> None:
    """Also against an adapter at the other end: a squared ratio of norms of 1e220 is still in double precision."""
    a, b = adapters(2)

    def times(source: Memory, by: float) -> Memory:
        return Memory({n: f._replace(scale=by * f.scale) for n, f in source.modules.items()})  # type: ignore[union-attr]

    usual = measured([a, b]).pair_metrics
    found = measured([times(a, scale), times(b, 1 / scale)]).pair_metrics
    ratios = [frame.filter(metric="norm_ratio")["value"].to_numpy() for frame in (usual, found)]
    np.testing.assert_allclose(ratios[1] / scale**2, ratios[0], rtol=1e-12)
    others = [frame.filter(pl.col("metric") != "norm_ratio")["value"].to_numpy() for frame in (usual, found)]
    np.testing.assert_allclose(others[1], others[0], rtol=1e-9, atol=1e-9)


def test_a_system_that_does_not_say_which_cores_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measured(adapters(2)).pair_metrics
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # which it may not know either
    assert measured(adapters(2)).pair_metrics.equals(expected)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_conflicts_are_refused_before_anything_is_read(place: int) -> None:
    usual = [Unread(one.modules, one.source) for one in adapters(3)]
    name = list(usual[0].modules)[-1]
    wide = random_factors(np.random.default_rng(1), 20, 15, 3)
    usual[place].modules = {**usual[place].modules, name: wide}
    with pytest.raises(InputError, match=rf"module {name} is \(20, 1[45]\) in adapter .* and \(20, 1[45]\) in adapter"):
        measured(usual)
    usual[place].modules = {"other.layers.0.q_proj": wide}
    with pytest.raises(InputError, match="no module in common"):
        measured(usual)
    with pytest.raises(InputError, match=r"geometry\.ks is \(2, 0\)"):
        geometry(usual, infos(3), (2, 0))


def test_an_error_of_a_worker_reaches_the_caller() -> None:
    a, b = adapters(2)
    with pytest.raises(AssertionError, match="was read"):
        measured([a, Unread(b.modules)], workers=2)


def test_progress_counts_modules_one_by_one() -> None:
    told: list[tuple[int, int, str]] = []
    geometry(adapters(2), infos(2), (1,), progress=lambda *step: told.append(step), workers=2)
    assert told == [(done, 8, "modules") for done in range(1, 9)]


def test_the_null_of_an_update_with_leading_directions_only_has_its_whole_norm() -> None:
    # E inner^2 = |a|^2 |b|^2 / (out in), though 2 of a's 8 directions are known. A standard deviation is known to 2 %.
    rng = np.random.default_rng(3)
    sides = DENSE_LIMIT + 6, DENSE_LIMIT + 9
    a = (frame_of(rng, sides[0], 8) * np.linspace(1.5, 1, 8)) @ frame_of(rng, sides[1], 8).T
    b = random_factors(rng, *sides, 2)
    (found,) = measure([Memory({"m.0.q": Dense(a)}), Memory({"m.0.q": b})], (1, 2))
    assert not found.spectra[0].complete
    assert found.chance is not None
    expected = np.linalg.norm(a) * np.linalg.norm(dense(b)) / np.sqrt(a.size)
    assert np.sqrt(np.mean(found.chance.inner**2)) == pytest.approx(expected, rel=0.12)


def test_the_rank_is_always_among_the_subspaces() -> None:
    rng = np.random.default_rng(2)
    low, high = (Memory({"m.0.q": random_factors(rng, 9, 8, r)}) for r in (3, 5))
    whole = Memory({"m.0.q": Dense(rng.standard_normal((9, 8)))})
    assert resolve_ks((1, 10), [high, low, whole]) == (1, 3, 10)
    assert resolve_ks((1, 10), [whole]) == (1, 10)
    assert resolve_ks((), [high]) == (5,)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_holds_a_few_modules_however_deep_the_adapters_are(workers: int) -> None:
    sources = [Watched({name: (20, 14) for name in grid(30)}) for _ in range(3)]
    gc.collect()
    geometry(sources, infos(3), (1,), workers=workers)
    assert [source.reads for source in sources] == [60] * 3
    # Those in work, those done and waiting for their turn, and the one in the reader's hand.
    assert all(1 <= source.most <= 2 * workers + 2 for source in sources), [source.most for source in sources]


def test_a_slow_reader_does_not_make_measured_modules_pile_up() -> None:
    sources = [Watched({name: (20, 14) for name in grid(20)}) for _ in range(2)]
    ahead = []
    for done, one in enumerate(measure(sources, (1,), workers=2), start=1):
        assert isinstance(one, ModuleMeasure)
        time.sleep(0.02)
        ahead.append(sources[0].reads - done)
    assert max(ahead) <= 6
    assert ahead[-1] == 0


def test_a_reader_that_stops_stops_the_work() -> None:
    source = Watched({name: (20, 14) for name in grid(200)})
    steps = measure([source], (1,), workers=2)
    next(steps)
    steps.close()
    assert source.reads <= 10
