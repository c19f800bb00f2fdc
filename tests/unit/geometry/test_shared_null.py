"""The cosine's two nulls: any direction, and given the common input subspace; exact spreads against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest

from tasks.geometry.delta import Dense, Factors
from tasks.geometry.tables.build import geometry, pair_frame
from tests.definitions.geometry import random_cosines
from tests.lab.adapter_cases import formed
from tests.lab.updates import Memory, frame_of, grid, infos, random_factors

DRAWS = 1500
PLACES = grid(2)
FIRST = next(iter(PLACES))
SPREADS = ("null_sd", "shared_null_sd", "shared_percentile")


def rows_of(frame: pl.DataFrame) -> dict[tuple, dict[str, Any]]:
    rows = frame.filter(metric="cosine").iter_rows(named=True)
    return {(row["module"], row["layer"], row["projection"]): row for row in rows}


def of_one_start(rng: np.random.Generator, out: int = 16, n_in: int = 12, r: int = 3) -> tuple[Memory, Memory]:
    """Two adapters whose lora_A are mostly the same, as after a training from one initialisation; B unrelated."""
    a, b = {}, {}
    for i, name in enumerate(PLACES):
        a[name] = random_factors(rng, out, n_in, r)
        turned = a[name].A + 0.2 * rng.standard_normal((r, n_in))
        b[name] = Factors(rng.standard_normal((out, r)), turned, 1.0 + i)
    return Memory(a), Memory(b)


@pytest.mark.parametrize("group", [("*", None, None), ("*", 1, None), ("*", None, "q_proj"), (FIRST, *PLACES[FIRST])])
def test_spreads_and_percentile_are_those_of_brute_force(group: tuple) -> None:
    rng = np.random.default_rng(0)
    a, b = of_one_start(rng)
    row = rows_of(pair_frame(a, b, *infos(2), (1,)))[group]
    module, layer, projection = group
    names = [
        name for name, place in PLACES.items()
        if module in ("*", name) and layer in (None, place[0]) and projection in (None, place[1])
    ]  # fmt: skip
    forms = [{name: formed(one.read(name)) for name in names} for one in (a, b)]
    given, free = (random_cosines(*forms, DRAWS, rng, given_right=given) for given in (True, False))
    assert row["null_sd"] == pytest.approx(np.sqrt(np.mean(free**2)), rel=4 / np.sqrt(2 * DRAWS))
    assert row["shared_null_sd"] == pytest.approx(np.sqrt(np.mean(given**2)), rel=4 / np.sqrt(2 * DRAWS))
    assert row["shared_null_sd"] > 1.5 * row["null_sd"]
    below = np.mean(given <= row["value"])
    assert row["shared_percentile"] == pytest.approx(100 * below, abs=100 * 4 * 0.5 / np.sqrt(DRAWS))


def test_unrelated_input_subspaces_give_both_nulls_one_spread() -> None:
    rng = np.random.default_rng(1)
    names = list(grid(300, ("q_proj",)))
    a, b = (Memory({name: random_factors(rng, 20, 30, 4) for name in names}) for _ in range(2))
    frame = pair_frame(a, b, *infos(2), (1,)).filter(pl.col("module") != "*", metric="cosine")
    assert set(frame["null_sd"].round(12)) == {round(1 / np.sqrt(600), 12)}
    assert np.mean(frame["shared_null_sd"].to_numpy() ** 2 * 600) == pytest.approx(1, rel=0.05)


def test_one_input_subspace_and_flat_spectra_widen_the_null_by_the_root_of_in_over_r() -> None:
    rng = np.random.default_rng(2)
    right = {name: frame_of(rng, 30, 4).T for name in PLACES}
    a, b = (Memory({name: Factors(frame_of(rng, 20, 4), right[name], 3.0) for name in PLACES}) for _ in range(2))
    for row in rows_of(pair_frame(a, b, *infos(2), (1,))).values():
        assert row["shared_null_sd"] / row["null_sd"] == pytest.approx(np.sqrt(30 / 4), rel=1e-12)
    same = rows_of(pair_frame(a, a, *infos(2), (1,)))["*", None, None]
    assert same["shared_null_sd"] == pytest.approx(1 / np.sqrt(20 * 4 * len(PLACES)), rel=1e-12)  # |cos| <= 1 is rare
    assert same["shared_percentile"] == 100.0


def test_percentiles_of_unrelated_outputs_on_one_input_subspace_are_uniform_in_the_second_null_alone() -> None:
    rng = np.random.default_rng(3)
    right = {name: frame_of(rng, 60, 3).T for name in PLACES}
    many = [Memory({name: Factors(rng.standard_normal((40, 3)), right[name], 1.0) for name in PLACES})
            for _ in range(24)]  # fmt: skip
    frame = geometry(many, infos(24), (1,)).pair_metrics.filter(
        pl.col("layer").is_null(), pl.col("projection").is_null(), metric="cosine"
    )
    assert kstest(frame["shared_percentile"].to_numpy() / 100, "uniform").pvalue > 0.001
    assert kstest(frame["percentile"].to_numpy() / 100, "uniform").pvalue < 1e-6  # seems far from chance on both sides


def test_where_there_is_no_second_null_it_is_null() -> None:
    rng = np.random.default_rng(4)
    a, b = of_one_start(rng)
    frame = pair_frame(a, b, *infos(2), (1, 2))
    assert all(frame.filter(pl.col("metric") != "cosine")[name].null_count() == len(frame) - 9 for name in SPREADS)
    gone = Memory({name: f._replace(B=f.B * (name != FIRST)) for name, f in b.modules.items()})
    rows = rows_of(pair_frame(a, gone, *infos(2), (1,)))
    assert [rows[FIRST, *PLACES[FIRST]][name] for name in SPREADS] == [None] * 3
    assert all(rows["*", None, None][name] is not None for name in SPREADS)
    large = random_factors(rng, 1030, 1100, 3)  # a dense update of which only the leading directions are computed
    whole = Memory({"m.layers.0.q": Dense(large.scale * large.B @ large.A + rng.standard_normal((1030, 1100)))})
    row = rows_of(pair_frame(whole, Memory({"m.layers.0.q": large}), *infos(2), (1,)))["*", None, None]
    assert row["null_sd"] == pytest.approx(1 / np.sqrt(1030 * 1100), rel=1e-12)
    assert row["shared_null_sd"] is row["shared_percentile"] is None
