"""The null of every metric against brute force: the same singular values, singular vectors drawn anew."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest, ortho_group

from tasks.geometry.delta import Factors
from tasks.geometry.tables.build import geometry, pair_frame
from tasks.geometry.updates.metrics import PAIR_METRICS
from tests.lab.frames import WHOLE
from tests.lab.updates import Memory, dense, frame_of, grid, infos, random_delta, random_factors, width

KS = (1, 2, 3)
DRAWS = 4000
POOL = 1000
"""Draws of the null itself."""
SHAPES = {"q_proj": (9, 6), "k_proj": (5, 8), "o_proj": (6, 9)}
PLACES = grid(3, tuple(SHAPES))
GROUPS = {
    ("*", None, None): list(PLACES),
    ("*", 1, None): [name for name, place in PLACES.items() if place[0] == 1],
    ("*", None, "q_proj"): [name for name, place in PLACES.items() if place[1] == "q_proj"],
    (next(iter(PLACES)), *next(iter(PLACES.values()))): [next(iter(PLACES))],
}
WITH_NULL = [name for name, metric in PAIR_METRICS.items() if metric.null]
Draws = dict[str, dict[tuple[str, int | None], np.ndarray]]


def adapters() -> tuple[Memory, Memory]:
    """Two adapters, of ranks 4 and 3, that point partly the same way, modules of very different norms."""
    rng = np.random.default_rng(0)
    a, b = {}, {}
    for i, (name, (_, projection)) in enumerate(PLACES.items()):
        a[name] = random_factors(rng, *SHAPES[projection], 4)
        noise = random_factors(rng, *SHAPES[projection], 3)
        b[name] = Factors(0.5 * a[name].B[:, :3] + noise.B, 0.5 * a[name].A[:3] + noise.A, 1.0 + i % 3)
    return Memory(a), Memory(b)


def drawn(a: Memory, b: Memory) -> Draws:
    """Module -> (metric, k) -> (DRAWS,) values with b's singular vectors replaced by Haar ones; sums for the ratios."""
    rng = np.random.default_rng(1)
    found: Draws = {}
    for name in a.modules:
        wa, wb = dense(a.read(name)), dense(b.read(name))
        (u, _, vt), s = np.linalg.svd(wa), np.linalg.svd(wb, compute_uv=False)[: width(b.read(name))]
        left, right = (ortho_group.rvs(n, size=DRAWS, random_state=rng)[:, :, : len(s)] for n in wa.shape)
        inner = np.einsum("oi,dor,r,dir->d", wa, left, s, right, optimize=True)
        aa, bb = np.sum(wa**2), np.sum(wb**2)
        one = {("inner", None): inner, ("aa", None): np.full(DRAWS, aa), ("bb", None): np.full(DRAWS, bb)}
        one |= {("res_a", None): aa - inner**2 / bb, ("res_b", None): bb - inner**2 / aa}
        for side, mine, theirs in (("left", u, left), ("right", vt.T, right)):
            for k in KS:
                overlaps = mine[:, :k].T @ theirs[:, :, :k]
                cosines = np.linalg.svd(overlaps, compute_uv=False)
                one[f"angle_{side}", k] = np.rad2deg(np.arccos(np.clip(cosines[:, -1], 0, 1)))
                one[f"angle_min_{side}", k] = np.rad2deg(np.arccos(np.clip(cosines[:, 0], 0, 1)))
                one[f"phi_{side}", k] = np.sum(overlaps**2, axis=(1, 2)) / k
            one["u1_overlap" if side == "left" else "v1_overlap", None] = np.abs(mine[:, 0] @ theirs[:, :, 0].T).ravel()
        found[name] = one
    return found


def joined(draws: Draws, names: list[str], metric: str, k: int | None) -> np.ndarray:
    """(DRAWS,) the metric over several modules."""

    def total(part: str) -> np.ndarray:
        return np.sum([draws[name][part, None] for name in names], axis=0)

    if metric == "cosine":
        return total("inner") / np.sqrt(total("aa") * total("bb"))
    if metric == "orthogonal_fraction":
        return np.sqrt(total("res_a") / total("aa"))
    if metric == "orthogonal_fraction_reverse":
        return np.sqrt(total("res_b") / total("bb"))
    over = np.median if metric.startswith("angle") else np.mean
    return over([draws[name][metric, k] for name in names], axis=0)


@pytest.fixture(scope="module")
def compared() -> tuple[dict[tuple, dict[str, float]], Draws]:
    a, b = adapters()
    frame = pair_frame(a, b, *infos(2), KS)
    rows = {
        (row["module"], row["layer"], row["projection"], row["metric"], row["k"]): row
        for row in frame.iter_rows(named=True)
    }
    return rows, drawn(a, b)


@pytest.mark.parametrize("group", GROUPS)
def test_null_is_the_mean_of_brute_force(compared: tuple[dict, Draws], group: tuple) -> None:
    rows, draws = compared
    for metric in WITH_NULL:
        for k in KS if PAIR_METRICS[metric].by_k else [None]:
            values = joined(draws, GROUPS[group], metric, k)
            mean, error = values.mean(), values.std() / np.sqrt(DRAWS)
            if metric.startswith("angle"):  # which is itself a mean of POOL draws
                error *= np.sqrt(1 + DRAWS / POOL)
            if metric.startswith("orthogonal"):  # the root of the mean square, which is exact
                square = values**2
                mean, error = np.sqrt(square.mean()), square.std() / np.sqrt(DRAWS) / 2 / np.sqrt(square.mean())
            assert rows[*group, metric, k]["null"] == pytest.approx(mean, abs=4 * error), (metric, k)


@pytest.mark.parametrize("group", [group for group in GROUPS if group[1:] == (None, None) or group[0] != "*"])
def test_percentile_is_that_of_brute_force(compared: tuple[dict, Draws], group: tuple) -> None:
    rows, draws = compared
    inside = 0
    for metric in WITH_NULL:
        for k in KS if PAIR_METRICS[metric].by_k else [None]:
            row = rows[*group, metric, k]
            share = np.mean(joined(draws, GROUPS[group], metric, k) <= row["value"])
            error = np.sqrt(max(share * (1 - share), 1e-3) * (1 / DRAWS + 1 / POOL))
            assert row["percentile"] == pytest.approx(100 * share, abs=100 * 4 * error), (metric, k)
            inside += 0.02 < share < 0.98
    assert inside >= 5


@pytest.mark.parametrize("sides", [(30, 20), (24, 24)])  # square: both sides' draws come out of one pool
def test_percentiles_of_random_adapters_are_uniform_over_modules(sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    a, b = (random_delta(rng, *sides, 4, modules=300) for _ in range(2))
    frame = pair_frame(a, b, *infos(2), (1, 2)).filter(pl.col("module") != "*")
    for metric in WITH_NULL:
        for k in (1, 2, 4) if PAIR_METRICS[metric].by_k else [None]:
            found = frame.filter(pl.col("metric") == metric, pl.col("k").eq_missing(k))["percentile"].to_numpy()
            assert len(found) == 300
            assert kstest(found / 100, "uniform").pvalue > 0.001, (metric, k)


def test_percentiles_of_random_adapters_are_uniform_over_pairs_for_the_whole() -> None:
    rng = np.random.default_rng(3)
    many = [random_delta(rng, 16, 12, 3, modules=3) for _ in range(24)]
    frame = geometry(many, infos(24), (1,)).pair_metrics.filter(*WHOLE)
    for metric in WITH_NULL:
        found = frame.filter(pl.col("metric") == metric, pl.col("k").fill_null(1) == 1)["percentile"].to_numpy()
        assert len(found) == 24 * 23 / 2
        assert kstest(found / 100, "uniform").pvalue > 0.001, metric


def test_identical_adapters_are_beyond_every_draw() -> None:
    a = random_delta(np.random.default_rng(4), 40, 30, 4)
    frame = pair_frame(a, a, *infos(2), (1, 2))
    for metric in WITH_NULL:
        closeness = 0.0 if metric.startswith(("angle", "orthogonal")) else 100.0
        found = set(frame.filter(pl.col("metric") == metric)["percentile"].drop_nulls())
        assert found == {closeness}, metric
    opposite = Memory({name: f._replace(scale=-f.scale) for name, f in a.modules.items()})
    turned = pair_frame(a, opposite, *infos(2), (1,)).filter(pl.col("metric") == "cosine")
    assert set(turned["percentile"].drop_nulls()) == {0.0}


@pytest.mark.parametrize(("out", "r"), [(6, 4), (4, 4)])
def test_subspaces_that_must_meet_are_at_their_nulls_middle(out: int, r: int) -> None:
    # k = 4 directions of 6 meet in a plane, of 4 are all there is: the smallest angle is 0; the largest only for 4.
    rng = np.random.default_rng(5)
    a, b = (random_delta(rng, out, 20, r) for _ in range(2))
    frame = pair_frame(a, b, *infos(2), ()).filter(pl.col("k") == r)
    for metric in ("angle_left", "phi_left"):
        found = frame.filter(pl.col("metric") == metric)["percentile"].drop_nulls().to_list()
        if out == r:
            assert found == [50.0] * 4, metric
        else:
            assert all(0 < value < 100 for value in found)


def test_a_zero_update_has_no_null_and_leaves_the_others_alone() -> None:
    rng = np.random.default_rng(6)
    a, b = (random_delta(rng, 16, 12, 3) for _ in range(2))
    first, *rest = a.modules
    gone = Memory({name: f._replace(B=f.B * (name != first)) for name, f in b.modules.items()})
    frame = pair_frame(a, gone, *infos(2), (1,))
    here = frame.filter(pl.col("module") == first)
    nulls = dict(here.select("metric", "null").unique().rows())
    # The reverse fraction has no meaning for a zero update, the fraction outside a zero reference is 1 for sure.
    assert nulls["orthogonal_fraction"] == 1.0
    assert {value for metric, value in nulls.items() if metric != "orthogonal_fraction"} == {None}
    assert set(here["percentile"]) == {None}
    kept = pair_frame(*(Memory({n: one.read(n) for n in rest}) for one in (a, b)), *infos(2), (1,))
    columns = ["metric", "k", "null"]
    everything = [f.filter(*WHOLE)
                  for f in (frame, kept)]  # fmt: skip
    whole, part = (dict(zip(f.select(columns[:2]).rows(), f["null"], strict=True)) for f in everything)
    for key, value in part.items():
        if key[0].startswith(("u1", "v1", "phi")):
            assert whole[key] == value, key
    n = 16 * 12
    squares = [float(np.sum(dense(a.modules[name]) ** 2)) for name in a.modules]
    expected = np.sqrt((squares[0] + sum(squares[1:]) * (1 - 1 / n)) / sum(squares))
    assert whole["orthogonal_fraction", None] == pytest.approx(expected, rel=1e-14)


def test_the_null_keeps_the_spectrum() -> None:
    # Rank 1 beside rank 4 of equal norm: every cosine has the variance 1 / (out in), whatever the spectrum.
    rng = np.random.default_rng(7)
    names = list(grid(200, ("q_proj",)))
    sharp, flat_ = (
        {name: Factors(frame_of(rng, 12, r), frame_of(rng, 10, r).T, 1.0) for name in names} for r in (1, 4)
    )
    for other in (sharp, flat_):
        turned = {name: Factors(frame_of(rng, 12, 4), frame_of(rng, 10, 4).T, 1.0) for name in names}
        frame = pair_frame(Memory(other), Memory(turned), *infos(2), (1,))
        rows = frame.filter(pl.col("metric") == "cosine", pl.col("module") != "*")
        assert np.mean(np.square(rows["value"].to_numpy())) == pytest.approx(1 / 120, rel=5 * np.sqrt(3 / 200))
        assert kstest(rows["percentile"].to_numpy() / 100, "uniform").pvalue > 0.001
