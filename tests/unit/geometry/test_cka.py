"""Linear CKA against its definition, published numbers, its invariances and limits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.geometry.cka import Accumulator, Similarities, cka_with_reason, linear_cka

Array = np.ndarray


def hsic_1(k: Array, l: Array) -> float:  # noqa: E741
    """Song et al. 2012: the mean of the U-statistic's kernel over all ordered quadruples of different rows."""
    n = len(k)
    total, count = 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
                        count += 1
    return total / count


def quadruples_cka(x: Array, y: Array) -> float:
    """Debiased CKA by `hsic_1`, O(n^4): shares no formula with the code under test."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic_1(k, l) / math.sqrt(hsic_1(k, k) * hsic_1(l, l))


def biased_cka(x: Array, y: Array) -> float:
    """Kornblith et al. 2019, equation 3 with H K H written out."""
    h = np.eye(len(x)) - 1 / len(x)
    k, l = h @ x @ x.T @ h, h @ y @ y.T @ h  # noqa: E741
    return float(np.trace(k @ l) / math.sqrt(np.trace(k @ k) * np.trace(l @ l)))


def related(n: int, p: int, q: int, seed: int = 0) -> tuple[Array, Array]:
    """Correlated features of unequal scale, with an offset."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * np.geomspace(0.3, 3, p) + 2
    return x, x @ rng.standard_normal((p, q)) + 2 * rng.standard_normal((n, q)) - 1


def streamed(arrays: list[Array], route: str, size: int) -> Similarities:
    rows = len(arrays[0])
    accumulator = Accumulator([a.shape[1] for a in arrays], rows, route)  # type: ignore[arg-type]
    for start, end in pairwise([*range(0, rows, size), rows]):
        accumulator.add([a[start:end] for a in arrays])
    assert accumulator.route == route
    return accumulator.result()


def test_numbers_of_the_public_demo() -> None:
    """google-research/representation_similarity/Demo.ipynb prints 0.55761 and, debiased, 0.51346 for these draws."""
    draws = np.random.RandomState(1337)  # what np.random.seed(1337); np.random.randn draws
    x = draws.randn(100, 10)
    y = draws.randn(100, 10) + x
    assert f"{linear_cka(x, y, debiased=False):.5f}" == "0.55761"
    assert f"{linear_cka(x, y):.5f}" == "0.51346"
    for route in ("gram", "covariance"):
        assert f"{streamed([x, y], route, 32).pair(0, 1)[0]:.5f}" == "0.51346"


def test_by_hand() -> None:
    """x = (0, 1, 0, 1), y = (0, 0, 1, 1): x is uncorrelated with y, so biased 0.

    Debiased, U-statistic over the 24 quadruples: K has its one pair {2, 4}, L its one pair {3, 4}. For ordered
    quadruples (i, j, q, r): sum of k_ij l_ij = 0; k_ij l_qr: {i, j} = {2, 4} and {q, r} = {3, 4} share row 4, 0;
    k_ij l_iq: i = 4, j = 2, q = 3: 1. HSIC = -2 / 24. With itself: k_ij k_ij: 2 orders of (i, j) times 2 of (q, r) = 4;
    k_ij k_qr = 0; k_ij k_iq = 0: HSIC = 4 / 24. CKA = -2 / 4.
    """
    x, y = np.array([[0.0], [1], [0], [1]]), np.array([[0.0], [0], [1], [1]])
    assert linear_cka(x, y, debiased=False) == pytest.approx(0, abs=1e-15)
    assert linear_cka(x, y) == pytest.approx(-0.5, rel=1e-14)


@pytest.mark.parametrize(("n", "p", "q"), [(4, 3, 2), (7, 3, 5), (9, 20, 4), (8, 1, 1), (6, 30, 30)])
def test_both_estimators_equal_their_definitions(n: int, p: int, q: int) -> None:
    x, y = related(n, p, q)
    assert linear_cka(x, y) == pytest.approx(quadruples_cka(x, y), rel=1e-10, abs=1e-12)
    assert linear_cka(x, y, debiased=False) == pytest.approx(biased_cka(x, y), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize(("p", "q"), [(5, 8), (60, 60), (200, 90)])
def test_grams_and_covariances_give_the_same_for_any_batches(p: int, q: int, size: int, offset: float) -> None:
    x, y = related(60, p, q)
    arrays = [x + offset, y, x[:, ::-1] ** 2]
    gram, covariance = (streamed(arrays, route, size) for route in ("gram", "covariance"))
    tolerance = 1e-12 if offset == 0 else 1e-10  # the input itself is rounded at 1e-12 of its spread
    for a, b in ((0, 1), (0, 2), (1, 2), (2, 0), (1, 1)):
        for debiased in (True, False):
            value, reason = gram.pair(a, b, debiased)
            assert reason is None
            assert covariance.pair(a, b, debiased)[0] == pytest.approx(value, abs=tolerance)
            assert linear_cka(arrays[a], arrays[b], debiased) == pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize(("far", "tolerance"), [(10, 1e-12), (1000, 1e-7)])
def test_what_an_outlier_costs_the_covariances(far: float, tolerance: float) -> None:
    """One row, the first, ``far`` spreads away: its fourth power cancels in the debiased sums, not in Grams."""
    x, y = related(60, 6, 6)
    x[0] += far * x.std()
    one, whole = streamed([x, y], "covariance", 1), streamed([x, y], "gram", 60)
    assert one.pair(0, 1)[0] == pytest.approx(whole.pair(0, 1)[0], abs=tolerance)
    assert one.pair(0, 1, debiased=False)[0] == pytest.approx(whole.pair(0, 1, debiased=False)[0], abs=1e-12)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize(("n", "p"), [(40, 6), (12, 50)])
def test_invariances(n: int, p: int, debiased: bool) -> None:
    x, y = related(n, p, p)
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.standard_normal((p, p)))[0]
    order = rng.permutation(n)
    value = linear_cka(x, y, debiased)
    for name, a, b in (
        ("rotation", x @ rotation, y),
        ("scale", -3e-4 * x, 50 * y),
        ("shift", x + 7, y - np.arange(p)),
        ("swap", y, x),
        ("order", x[order], y[order]),
    ):
        assert linear_cka(a, b, debiased) == pytest.approx(value, abs=1e-12), name
    assert abs(linear_cka(x @ rng.standard_normal((p, p)), y, debiased) - value) > 0.01  # only to rotations
    assert abs(linear_cka(x[order], y, debiased) - value) > 0.1  # rows must pair up


def test_duplicates() -> None:
    """Features written twice are a scaling by sqrt(2). Rows written twice change nothing biased; debiased, a row and
    its copy are a pair of different rows that agree, which independent data would not have.
    """
    x, y = related(30, 4, 5)
    for debiased in (True, False):
        assert linear_cka(x, np.hstack([x, x]), debiased) == pytest.approx(1, abs=1e-12)
        assert linear_cka(x, y, debiased) == pytest.approx(linear_cka(np.hstack([x, x]), y, debiased), abs=1e-12)
    x, y = np.random.default_rng(8).standard_normal((2, 10, 40))
    twice = np.vstack([x, x]), np.vstack([y, y])
    assert linear_cka(*twice, debiased=False) == pytest.approx(linear_cka(x, y, debiased=False), abs=1e-12)
    assert linear_cka(*twice) > linear_cka(x, y) + 0.3


@pytest.mark.parametrize("debiased", [True, False])
def test_identical_representations_have_one(debiased: bool) -> None:
    x, _ = related(50, 30, 1)
    assert linear_cka(x, x, debiased) == pytest.approx(1, abs=1e-14)
    # The first half of the variance shared: x = [z, e], y = [z, e'], all independent and of equal size, gives 1 / 2.
    z, e, f = np.random.default_rng(4).standard_normal((3, 4000, 5))
    assert linear_cka(np.hstack([z, e]), np.hstack([z, f]), debiased) == pytest.approx(0.5, abs=0.02)


def test_the_bias_where_rows_are_few() -> None:
    """Independent data, 100 rows of 2,560 features (a layer of Qwen3-4B): biased 0.96, debiased 0 +- .02."""
    rng = np.random.default_rng(5)
    draws = [tuple(rng.standard_normal((2, 100, 2560))) for _ in range(20)]
    biased = [linear_cka(x, y, debiased=False) for x, y in draws]
    debiased = [linear_cka(x, y) for x, y in draws]
    # E biased: the numerator is about p^2 n, of which n/p is added to each norm's square: 1 / (1 + n/p) = .962.
    assert np.mean(biased) == pytest.approx(1 / (1 + 100 / 2560), abs=0.002)
    # One debiased value has a spread of about sqrt(2) / n = .014.
    assert np.std(debiased) == pytest.approx(math.sqrt(2) / 100, rel=0.5)
    assert abs(np.mean(debiased)) < 4 * math.sqrt(2) / 100 / math.sqrt(20)


@pytest.mark.parametrize("route", ["gram", "covariance"])
def test_no_value_is_never_without_a_reason(route: str) -> None:
    x, _ = related(12, 3, 1)
    constant = np.full((12, 2), 0.1)
    spoilt = x.copy()
    spoilt[5, 1] = np.inf
    simplex = np.eye(12)  # every off-diagonal inner product is 0
    found = streamed([x, constant, spoilt, simplex], route, 5)
    for other, debiased, said in (
        (1, True, "zero variance: all 12 rows are equal"),
        (1, False, "zero variance"),
        (2, True, "NaN or infinite entries"),
        (2, False, "NaN or infinite entries"),
        (3, True, "all rows are equally far apart"),
    ):
        for a, b in ((0, other), (other, 0), (other, other)):
            value, reason = found.pair(a, b, debiased)
            assert math.isnan(value)
            assert reason is not None
            assert said in reason
    assert found.pair(0, 0) == (pytest.approx(1), None)  # the others are not spoilt by it
    assert found.pair(0, 3, debiased=False)[1] is None
    few = streamed([x[:3], x[:3]], route, 2)
    assert few.pair(0, 1)[1] == "debiased CKA needs 4 rows, there are 3"
    assert few.pair(0, 1, debiased=False) == (pytest.approx(1), None)
    one = streamed([x[:1], x[:1]], route, 1)
    assert one.pair(0, 1, debiased=False)[1] == "biased CKA needs 2 rows, there are 1"


def test_rounding_is_not_variance() -> None:
    """Equal rows up to the last bit of float32 have none; the same spread in float64 is real."""
    rng = np.random.default_rng(6)
    noise = 1 + 5e-8 * rng.standard_normal((20, 3))
    assert cka_with_reason(noise.astype(np.float32), rng.standard_normal((20, 3)))[1] is not None
    assert linear_cka(noise, 1e8 * (noise - 1)) == pytest.approx(1, abs=1e-6)


def test_the_plain_function_warns_of_nan() -> None:
    with pytest.warns(RuntimeWarning, match="debiased CKA needs 4 rows"):
        assert math.isnan(linear_cka(np.eye(3), np.eye(3)))


def test_the_smaller_is_held() -> None:
    """7 models of width 64 in float32: rows take 4 * 7 * 64 n bytes, covariances about 8 * 28 * 64^2: n = 512."""
    small, large = (Accumulator([64] * 7, n, itemsize=4) for n in (500, 600))
    assert (small.route, large.route) == ("gram", "covariance")
    assert small.nbytes == 4 * 7 * 64 * 500
    assert large.nbytes == Accumulator([64] * 7, 10**6, itemsize=4).nbytes
    assert large.nbytes == pytest.approx(8 * 28 * 64**2, rel=0.05)
    # Between: rows are held, and their covariances are made at the end, as 7 Grams of 500 x 500 would be larger.
    arrays = [np.random.default_rng(7).standard_normal((500, 64)).astype(np.float32) for _ in range(7)]
    small.add(arrays)
    found = small.result()
    assert found.pair(2, 5)[0] == pytest.approx(streamed(arrays, "gram", 500).pair(2, 5)[0], abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [((4, 2), (5, 2)), ((4,), (4,)), ((4, 2, 1), (4, 2))])
def test_shapes_that_do_not_pair_up_are_refused(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"need \(n, p\) and \(n, q\)"):
        linear_cka(np.ones(x), np.ones(y))


def test_batches_that_do_not_fit_are_refused() -> None:
    accumulator = Accumulator([2, 3], 5)
    accumulator.add([np.ones((4, 2)), np.ones((4, 3))])
    for batch in ([np.ones((1, 2)), np.ones((2, 3))], [np.ones((1, 3)), np.ones((1, 3))]):
        with pytest.raises(InputError, match="need \\(b, p\\)"):
            accumulator.add(batch)
    with pytest.raises(InputError, match="more than the 5 rows"):
        accumulator.add([np.ones((2, 2)), np.ones((2, 3))])
