"""The frame of pair metrics: groups by hand, intervals against a naive bootstrap, what is null and what absent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.frames import PAIR_METRICS_FRAME
from tasks.geometry.chance.bootstrap import cluster_counts
from tasks.geometry.delta import Dense, Factors, natural
from tasks.geometry.tables.build import geometry, pair_frame
from tasks.geometry.tables.pairs import REPLICATES, PairTable
from tasks.geometry.updates.metrics import PAIR_METRICS
from tasks.geometry.updates.random_subspaces import SEED
from tests.definitions.geometry import Formed, pair_value
from tests.lab.adapter_cases import formed
from tests.lab.updates import Checked, Memory, grid, infos, random_factors

Q0, K0, Q1, K1 = (f"m.layers.{layer}.{name}" for layer in (0, 1) for name in ("q_proj", "k_proj"))
EVERYTHING = ("*", None, None)
Forms = Mapping[str, Formed]


def by_hand() -> tuple[Memory, Memory]:
    """Updates of one direction each, ``x * e1 e1^T`` against ``y * (cos e1 + sin e2) e1^T``.

    x = 3, 4, 12, 0 and y = 1, 1, 2, 5 in Q0, K0, Q1, K1; the angles are 60, 0 and 90 degrees, none in K1 (x = 0).
    """
    e, row = np.eye(4), np.eye(1, 3)
    a, b = {}, {}
    for name, x, y, angle in ((Q0, 3, 1, 60), (K0, 4, 1, 0), (Q1, 12, 2, 90), (K1, 0, 5, 0)):
        turned = math.cos(math.radians(angle)) * e[:, :1] + math.sin(math.radians(angle)) * e[:, 1:2]
        a[name], b[name] = Factors(e[:, :1], row, float(x)), Factors(turned, row, float(y))
    return Memory(a), Memory(b)


def rows_of(frame: pl.DataFrame, metric: str, k: int | None = None) -> dict[tuple, dict[str, Any]]:
    chosen = frame.filter(pl.col("metric") == metric, pl.col("k").eq_missing(k))
    rows = {(row["module"], row["layer"], row["projection"]): row for row in chosen.iter_rows(named=True)}
    assert len(rows) == len(chosen)
    return rows


def values_of(frame: pl.DataFrame, metric: str, k: int | None = None) -> dict[tuple, float | None]:
    return {key: row["value"] for key, row in rows_of(frame, metric, k).items()}


def test_groups_by_hand() -> None:
    frame = pair_frame(*by_hand(), *infos(2), (1,))
    assert dict(frame.schema) == PAIR_METRICS_FRAME
    single = {(name, int(name[9]), name[11:]) for name in (Q0, K0, Q1, K1)}
    groups = {EVERYTHING, ("*", 0, None), ("*", 1, None), ("*", None, "q_proj"), ("*", None, "k_proj")}
    for metric, kind in PAIR_METRICS.items():
        assert set(rows_of(frame, metric, 1 if kind.by_k else None)) == single | groups, metric
    assert len(frame) == 9 * len(PAIR_METRICS)

    # <a, b> = 3 cos 60 = 1.5, 4, 0, 0;  |a|^2 = 9, 16, 144, 0;  |b|^2 = 1, 1, 4, 25.
    cosine = values_of(frame, "cosine")
    assert cosine[EVERYTHING] == pytest.approx(5.5 / math.sqrt(169 * 31), rel=1e-14)
    assert cosine["*", 0, None] == pytest.approx(5.5 / math.sqrt(25 * 2), rel=1e-14)
    assert cosine["*", 1, None] == pytest.approx(0.0, abs=1e-15)
    assert cosine["*", None, "q_proj"] == pytest.approx(1.5 / math.sqrt(153 * 5), rel=1e-14)
    assert cosine["*", None, "k_proj"] == pytest.approx(4 / math.sqrt(16 * 26), rel=1e-14)
    assert cosine[Q0, 0, "q_proj"] == pytest.approx(0.5, rel=1e-14)
    assert cosine[K1, 1, "k_proj"] is None
    assert values_of(frame, "norm_ratio")[EVERYTHING] == pytest.approx(13 / math.sqrt(31), rel=1e-14)
    # Outside b's line, module by module: 9 sin^2 60 = 6.75, 0, 144, 0 of 169; outside a's: .75, 0, 4, 25 of 31.
    assert values_of(frame, "orthogonal_fraction")[EVERYTHING] == pytest.approx(math.sqrt(150.75 / 169), rel=1e-14)
    reverse = values_of(frame, "orthogonal_fraction_reverse")
    assert reverse[EVERYTHING] == pytest.approx(math.sqrt(29.75 / 31), rel=1e-14)
    assert reverse["*", None, "k_proj"] == pytest.approx(math.sqrt(25 / 26), rel=1e-14)
    # Means and medians of .5, 1, 0 and of 60, 0, 90 degrees: the zero module is left out.
    assert values_of(frame, "u1_overlap")[EVERYTHING] == pytest.approx(0.5, rel=1e-14)
    assert values_of(frame, "u1_overlap")["*", 0, None] == pytest.approx(0.75, rel=1e-14)
    assert values_of(frame, "phi_left", 1)[EVERYTHING] == pytest.approx(1.25 / 3, rel=1e-14)
    angle = values_of(frame, "angle_left", 1)
    assert angle[EVERYTHING] == pytest.approx(60, rel=1e-13)
    assert angle["*", 0, None] == pytest.approx(30, rel=1e-13)
    assert angle["*", None, "q_proj"] == pytest.approx(75, rel=1e-13)
    assert angle["*", 1, None] == pytest.approx(90, rel=1e-13)
    assert angle["*", None, "k_proj"] == 0.0
    # lora_A is e1^T everywhere, B's scale is not in it, and the zero module has one as well.
    assert list(values_of(frame, "lora_a_cosine").values()) == pytest.approx([1.0] * 9, abs=1e-15)


def random_pair(layers: int) -> tuple[Memory, Memory]:
    rng = np.random.default_rng(layers)
    a, b = ({name: random_factors(rng, 10, 8, 3) for name in grid(layers)} for _ in range(2))
    if layers > 1:
        name = next(iter(a))
        a[name] = a[name]._replace(scale=0.0)
    return Memory(a), Memory(b)


def test_intervals_of_many_layers_equal_a_naive_bootstrap_of_whole_layers() -> None:
    a, b = random_pair(10)
    places = grid(10)
    names = sorted(places, key=natural)
    frame = pair_frame(a, b, *infos(2), (1, 3))
    counts = cluster_counts([places[name][0] for name in names], REPLICATES, np.random.default_rng((SEED, 2)))
    forms = [{name: formed(one.modules[name]) for name in names} for one in (a, b)]
    for metric, kind in PAIR_METRICS.items():
        for k in (1, 3) if kind.by_k else (None,):
            own = {n: pair_value(metric, k, {n: forms[0][n]}, {n: forms[1][n]}) for n in names}
            drawn = [replicate(metric, own, *forms, np.repeat(names, count)) for count in counts]
            row = rows_of(frame, metric, k)[EVERYTHING]
            expected = np.nanquantile(drawn, [0.025, 0.975])
            assert [row["low"], row["high"]] == pytest.approx(expected, rel=1e-11, abs=1e-12), (metric, k)
            assert row["low"] < row["value"] < row["high"]
    others = frame.filter(
        (pl.col("module") != "*") | pl.col("layer").is_not_null() | pl.col("projection").is_not_null()
    )
    assert others["low"].null_count() == others["high"].null_count() == len(others)


T = {2: 4.302652729749464, 8: 2.306004135204166}
"""97.5 % points of Student's t, from a table, by degrees of freedom."""


@pytest.mark.parametrize("layers", [3, 9])
def test_intervals_of_few_layers_are_t_over_layers(layers: int) -> None:
    a, b = random_pair(layers)
    names = sorted(grid(layers), key=natural)
    frame = pair_frame(a, b, *infos(2), (1, 3))
    forms = [{name: formed(one.modules[name]) for name in names} for one in (a, b)]
    inside = 0
    for metric, kind in PAIR_METRICS.items():
        for k in (1, 3) if kind.by_k else (None,):
            own = {n: pair_value(metric, k, {n: forms[0][n]}, {n: forms[1][n]}) for n in names}
            row = rows_of(frame, metric, k)[EVERYTHING]
            value = replicate(metric, own, *forms, names)
            numbers = []
            for layer in range(layers):
                mine = [n for n in names if grid(layers)[n][0] == layer]
                rest = replicate(metric, own, *forms, [n for n in names if n not in mine])
                if metric == "norm_ratio":
                    numbers.append(layers * math.log(value) - (layers - 1) * math.log(rest))
                elif metric.startswith("angle"):
                    numbers.append(replicate(metric, own, *forms, mine))
                else:
                    numbers.append(layers * value - (layers - 1) * rest)
            half = T[layers - 1] * np.std(numbers, ddof=1) / math.sqrt(layers)
            low, high = (0, 90) if "angle" in metric else (-1, 1) if "cosine" in metric else (0, 1)
            expected = [max(value - half, low), min(value + half, high)]
            if metric == "norm_ratio":
                expected = [value * math.exp(-half), value * math.exp(half)]
            assert [row["low"], row["high"]] == pytest.approx(expected, rel=1e-11, abs=1e-12), (metric, k)
            inside += low < expected[0] and expected[1] < high
    assert inside > len(PAIR_METRICS) / 2  # most are not merely the metric's whole range


def test_pairs_with_a_value_in_few_layers_have_t_intervals_among_pairs_of_many() -> None:
    many, few = random_pair(12), random_pair(4)
    together = geometry([*many, *few], infos(4), (1,)).pair_metrics
    for place, pair in ((0, many), (2, few)):
        run = infos(4)[place : place + 2]
        alone = pair_frame(*pair, *run, (1,))
        among = together.filter(pl.col("run_a") == run[0].run, pl.col("run_b") == run[1].run)
        for bound in ("low", "high"):
            ours, theirs = ({key: row[bound] for key, row in rows_of(f, "cosine").items()} for f in (among, alone))
            assert ours[EVERYTHING] == pytest.approx(theirs[EVERYTHING], rel=1e-11)


def replicate(metric: str, own: Mapping[str, float], a: Forms, b: Forms, names: Sequence[str]) -> float:
    """The metric over a multiset of modules: of sums over them, or the mean or median of their ``own`` values."""
    if metric == "lora_a_cosine":
        x, y = (np.concatenate([one[name].lora_a.ravel() for name in names]) for one in (a, b))
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    x, y = (np.concatenate([one[name].w.ravel() for name in names]) for one in (a, b))
    match metric:
        case "cosine":
            return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        case "norm_ratio":
            return float(np.linalg.norm(x) / np.linalg.norm(y))
        case "orthogonal_fraction" | "orthogonal_fraction_reverse":
            d, r = (a, b) if metric == "orthogonal_fraction" else (b, a)
            rest = [outside(d[name].w, r[name].w) for name in names]
            return float(np.linalg.norm(rest) / np.linalg.norm(x if d is a else y))
    values = [own[name] for name in names if not np.isnan(own[name])]
    return float((np.median if metric.startswith("angle") else np.mean)(values)) if values else np.nan


def outside(d: np.ndarray, r: np.ndarray) -> float:
    return float(np.linalg.norm(d - (np.sum(d * r) / np.sum(r * r) * r if r.any() else 0)))


def test_one_layer_has_no_interval() -> None:
    frame = pair_frame(*random_pair(1), *infos(2), (1,))
    assert frame["low"].null_count() == frame["high"].null_count() == len(frame)
    a, b = random_pair(2)
    two = pair_frame(a, b, *infos(2), (1,)).filter(pl.col("module") == "*", pl.col("metric") == "u1_overlap")
    assert two["low"].null_count() == len(two) - 1
    for name in list(a.modules)[1:2]:  # with the zero one, all that layer 0 has: a value in one layer only
        a.modules[name] = a.modules[name]._replace(scale=0.0)  # type: ignore[union-attr]
    gone = pair_frame(a, b, *infos(2), (1,)).filter(pl.col("module") == "*", pl.col("metric") == "u1_overlap")
    assert gone["low"].null_count() == len(gone)


def test_k_above_the_width_has_no_row_and_above_the_numerical_rank_is_null() -> None:
    rng = np.random.default_rng(0)
    a, b = ({name: random_factors(rng, 10, 8, 4) for name in (Q0, Q1)} for _ in range(2))
    b[Q0] = random_factors(rng, 10, 8, 2)
    b[Q1] = b[Q1]._replace(B=b[Q1].B[:, [0, 1, 2, 0]])  # lora_B of rank 3
    frame = pair_frame(Memory(a), Memory(b), *infos(2), (1, 3, 4, 9))
    ks = {name: set(frame.filter(pl.col("module") == name)["k"]) for name in (Q0, Q1, "*")}
    assert ks == {Q0: {None, 1, 2}, Q1: {None, 1, 2, 3, 4}, "*": {None, 1, 2, 3, 4}}
    layer = {
        (row["layer"], row["k"])
        for row in frame.filter(pl.col("layer").is_not_null(), pl.col("module") == "*").iter_rows(named=True)
    }
    assert layer == {(0, None), (0, 1), (0, 2), *((1, k) for k in (None, 1, 2, 3, 4))}
    for side in ("left", "right"):
        for metric in (f"angle_{side}", f"phi_{side}"):
            third, fourth = (rows_of(frame, metric, k) for k in (3, 4))
            assert third[EVERYTHING]["value"] == third[Q1, 1, "q_proj"]["value"] is not None
            for column in ("value", "low", "high", "null", "percentile"):
                assert fourth[Q1, 1, "q_proj"][column] is None
                assert fourth[EVERYTHING][column] is None


def test_runs_are_named_and_every_pair_is_there() -> None:
    rng = np.random.default_rng(0)
    many = [Memory({Q0: random_factors(rng, 6, 5, 2), Q1: random_factors(rng, 6, 5, 2)}) for _ in range(10)]
    frame = geometry(many, infos(10), (1,)).pair_metrics
    pairs = [(row[0], row[1]) for row in frame.select("run_a", "run_b").unique(maintain_order=True).rows()]
    assert pairs == [(f"run{i}", f"run{j}") for i in range(10) for j in range(i + 1, 10)]  # 45: more than one chunk
    assert set(frame.select("seed_a", "seed_b").rows()) == {(i, j) for i in range(10) for j in range(i + 1, 10)}
    alone = pair_frame(many[3], many[7], infos(10)[3], infos(10)[7], (1,))
    among = frame.filter(pl.col("run_a") == "run3", pl.col("run_b") == "run7")
    assert among.select(pl.exclude("value", "low", "high")).equals(alone.select(pl.exclude("value", "low", "high")))


def test_pairs_without_an_undamaged_module_in_common_have_no_rows() -> None:
    assert PairTable([Q0], 2).frame(infos(2)).equals(pl.DataFrame(schema=PAIR_METRICS_FRAME))
    assert PairTable([Q0], 1).frame(infos(1)).is_empty()
    rng = np.random.default_rng(0)
    a, b = ({name: random_factors(rng, 6, 5, 2) for name in (Q0, Q1)} for _ in range(2))
    a[Q0], b[Q1] = (f._replace(A=np.nan * f.A) for f in (a[Q0], b[Q1]))
    found = geometry([Checked(a), Checked(b)], infos(2), (1,))
    assert found.pair_metrics.is_empty()
    assert {i: list(modules) for i, modules in found.damaged.items()} == {0: [Q0], 1: [Q1]}
    assert set(found.spectra.filter(pl.col("run") == "run0")["module"]) == {"*", Q1}


def test_modules_out_of_layers_are_groups_of_their_projection() -> None:
    rng = np.random.default_rng(0)
    one, other = ({"lm_head": random_factors(rng, 6, 5, 2), Q0: random_factors(rng, 6, 5, 2)} for _ in range(2))
    places = set(rows_of(pair_frame(Memory(one), Memory(other), *infos(2), (1,)), "cosine"))
    assert places == {
        EVERYTHING, ("*", 0, None), ("*", None, "q_proj"), ("*", None, "lm_head"), ("lm_head", None, "lm_head"),
        (Q0, 0, "q_proj"),
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(12, 10), (1030, 1100)])
def test_dense_updates_without_a_change_have_null_rows_as_factored_ones_have(shape: tuple[int, int]) -> None:
    nothing = Memory({Q0: Dense(np.zeros(shape)), Q1: Dense(np.zeros(shape))})
    frame = pair_frame(nothing, nothing, *infos(2), (1, 2))
    assert set(frame["metric"]) == set(PAIR_METRICS)
    assert set(frame["module"]) == {"*", Q0, Q1}
    assert frame["value"].null_count() == len(frame)


def test_a_large_dense_update_of_low_rank_has_no_more_subspaces_than_its_rank() -> None:
    rng = np.random.default_rng(0)
    factors = [random_factors(rng, 1030, 1100, 3) for _ in range(2)]
    a, b = (Memory({Q0: Dense(f.scale * f.B @ f.A)}) for f in factors)
    frame = pair_frame(a, b, *infos(2), (1, 3, 5))
    exact = pair_frame(*(Memory({Q0: f}) for f in factors), *infos(2), (1, 3))
    for metric in ("angle_left", "angle_right", "phi_left", "phi_right"):
        assert set(values_of(frame, metric, 5).values()) == {None}
        for k in (1, 3):
            for key, value in values_of(exact, metric, k).items():
                assert values_of(frame, metric, k)[key] == pytest.approx(value, abs=1e-10)
