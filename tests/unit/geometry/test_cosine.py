from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.core.errors import InputError
from tasks.geometry.cosine import cosine_matrix, inner, module_cosines, norm, orthogonal_fraction
from tasks.geometry.delta import Factors, LoraDelta
from tests.lab.updates import SHAPES, Shape, deltas, dense, flat, mapped, random_delta, rotation, zero


def dense_fraction(delta: LoraDelta, reference: LoraDelta) -> float:
    rest = 0.0
    for name, factors in delta.modules.items():
        d, r = dense(factors), dense(reference.modules[name])
        rest += np.sum((d - np.sum(d * r) / np.sum(r * r) * r) ** 2)
    return math.sqrt(rest) / float(np.linalg.norm(flat(delta)))


@pytest.mark.parametrize("shape", SHAPES)
def test_inner_products_norms_and_cosines_equal_the_dense_definition(shape: Shape) -> None:
    a, b = deltas(shape)
    for name, value in inner(a, b).items():
        da, db = dense(a.modules[name]), dense(b.modules[name])
        size = float(np.linalg.norm(da) * np.linalg.norm(db))
        assert value == pytest.approx(float(np.sum(da * db)), abs=1e-13 * size)
        assert module_cosines(a, b)[name] == pytest.approx(float(np.sum(da * db)) / size, abs=1e-13)
    assert norm(a) == pytest.approx(float(np.linalg.norm(flat(a))), rel=1e-13)
    x, y = flat(a), flat(b)
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    found = cosine_matrix([a, zero(a), b])
    none = np.nan
    np.testing.assert_allclose(found, [[1, none, cosine], [none, none, none], [cosine, none, 1]], atol=1e-13)
    assert np.isnan(list(module_cosines(zero(a), b).values())).all()
    assert orthogonal_fraction(a, b) == pytest.approx(dense_fraction(a, b), abs=1e-13)


def test_cosine_by_hand() -> None:
    # dW_a = 2 * [1, 0]^T [3, 4] = [[6, 8], [0, 0]], |dW_a| = 10; dW_b = [1, 1]^T [1, 0] = [[1, 0], [1, 0]], sqrt(2).
    # <dW_a, dW_b> = 6, cosine = 6 / (10 sqrt(2)) = .424264...
    a = LoraDelta({"m": Factors(np.array([[1.0], [0.0]]), np.array([[3.0, 4.0]]), 2.0)})
    b = LoraDelta({"m": Factors(np.array([[1.0], [1.0]]), np.array([[1.0, 0.0]]), 1.0)})
    assert inner(a, b) == pytest.approx({"m": 6.0}, rel=1e-15)
    assert norm(a) == pytest.approx(10.0, rel=1e-15)
    assert cosine_matrix([a, b])[0, 1] == pytest.approx(6 / (10 * math.sqrt(2)), rel=1e-15)
    # P = (6 / 2) dW_b = [[3, 0], [3, 0]]; rest = [[3, 8], [-3, 0]], |rest|^2 = 82; fraction = sqrt(82) / 10.
    assert orthogonal_fraction(a, b) == pytest.approx(math.sqrt(82) / 10, rel=1e-15)


def test_pairs_use_the_modules_that_both_have() -> None:
    a, b = deltas((12, 9, 4, 2))
    first = next(iter(b.modules))
    part = LoraDelta({first: b.modules[first]})
    assert cosine_matrix([a, part])[0, 1] == pytest.approx(module_cosines(a, b)[first], abs=1e-15)
    with pytest.raises(InputError, match="no module in common"):
        cosine_matrix([part, LoraDelta({"other": b.modules[first]})])


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 1e-4, 1e-2, 1.0])
def test_orthogonal_fraction_is_the_sine_also_for_nearly_parallel_updates(angle: float) -> None:
    # One module, dW = cos * r + sin * o with |r| = |o| = 1 and <r, o> = 0: the fraction is sin(angle).
    r, o = np.eye(6)[:, :1], np.eye(6)[:, 1:2]
    reference = LoraDelta({"m": Factors(r, np.eye(1, 4), 1.0)})
    delta = LoraDelta({"m": Factors(math.cos(angle) * r + math.sin(angle) * o, np.eye(1, 4), 1.0)})
    assert orthogonal_fraction(delta, reference) == pytest.approx(math.sin(angle), rel=1e-9, abs=1e-15)


def test_orthogonal_fraction_limits() -> None:
    a, b = deltas((12, 9, 4, 2))
    # Each module is rescaled on its own: inside the span module by module although the global cosine is below 1.
    scales = iter([0.5, -3.0, 7.0])
    within = mapped(a, lambda f: f._replace(scale=next(scales) * f.scale))
    assert orthogonal_fraction(within, a) == pytest.approx(0.0, abs=1e-14)
    assert abs(cosine_matrix([within, a])[0, 1]) < 0.95
    outside = mapped(
        random_delta(np.random.default_rng(3), 24, 9, 4), lambda f: f._replace(B=f.B * (np.arange(24) > 11)[:, None])
    )
    inside = mapped(
        random_delta(np.random.default_rng(4), 24, 9, 4), lambda f: f._replace(B=f.B * (np.arange(24) < 12)[:, None])
    )
    assert orthogonal_fraction(outside, inside) == 1.0
    assert orthogonal_fraction(a, zero(b)) == 1.0
    assert math.isnan(orthogonal_fraction(zero(a), b))


@pytest.mark.parametrize("condition", [1e3, 1e6, 1e8])
def test_badly_conditioned_factors_of_the_same_update_cost_their_condition_and_not_its_square(condition: float) -> None:
    a, b = deltas((24, 18, 5, 5))
    rng = np.random.default_rng(5)
    mix = rotation(rng, 5) * np.geomspace(1, 1 / condition, 5) @ rotation(rng, 5)
    other = mapped(a, lambda f: Factors(f.B @ mix, np.linalg.solve(mix, f.A), f.scale))
    atol = 1e-13 + 10 * np.finfo(np.float64).eps * condition
    np.testing.assert_allclose(cosine_matrix([other, a, b]), cosine_matrix([a, a, b]), atol=atol)
    assert norm(other) == pytest.approx(norm(a), rel=atol)
    assert orthogonal_fraction(other, b) == pytest.approx(orthogonal_fraction(a, b), abs=atol)
    assert list(module_cosines(other, b).values()) == pytest.approx(list(module_cosines(a, b).values()), abs=atol)


def test_an_update_whose_terms_cancel_is_zero() -> None:
    a, b = deltas((12, 9, 4, 4))
    nothing = mapped(a, lambda f: Factors(np.hstack([f.B, f.B]), np.vstack([f.A, -f.A]), f.scale))
    assert norm(nothing) == 0.0
    cosines = cosine_matrix([nothing, b])
    assert np.isnan(cosines[0]).all()
    assert orthogonal_fraction(b, nothing) == 1.0
    assert math.isnan(orthogonal_fraction(nothing, b))
