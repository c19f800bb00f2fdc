"""One module of many adapters: parts and overlaps of its pairs against the formed matrices."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.linalg

from tasks.geometry.angles import SMALL
from tasks.geometry.cosine import CANCELS
from tasks.geometry.delta import Dense, Factors, Update
from tasks.geometry.updates.modules import Decomposed, ModulePairs, Overlaps, pair_up
from tests.lab.updates import dense, frame_of, random_factors, rotation

PARTS = ("inner", "squared_a", "squared_b", "residual_a", "residual_b")


def paired(*updates: Update, leading: int = 8) -> ModulePairs:
    """All pairs, in the order of `itertools.combinations`."""
    first, second = (np.array(side) for side in zip(*combinations(range(len(updates)), 2), strict=True))
    return pair_up([Decomposed(update, leading) for update in updates], first, second)


@pytest.fixture
def updates() -> list[Update]:
    """Ranks 4, 2 and 6 (above a side), a full dense one, a zero one and one of a single direction with wide factors."""
    rng = np.random.default_rng(0)
    made: list[Update] = [random_factors(rng, 9, 5, r) for r in (4, 2, 6)]
    wide = random_factors(rng, 9, 5, 1)
    return [
        *made,
        Dense(rng.standard_normal((9, 5))),
        Factors(np.zeros((9, 3)), rng.standard_normal((3, 5)), 1.0),
        Factors(wide.B * np.array([1.0, 2.0, 3.0]), np.repeat(wide.A, 3, axis=0), 0.1),
    ]


def test_parts_equal_those_of_the_formed_matrices(updates: list[Update]) -> None:
    pairs = paired(*updates)
    for p, (i, j) in enumerate(combinations(range(len(updates)), 2)):
        a, b = dense(updates[i]), dense(updates[j])
        size = np.linalg.norm(a) * np.linalg.norm(b)
        assert pairs.inner[p] == pytest.approx(np.sum(a * b), abs=1e-14 * size)
        assert pairs.squared_a[p] == pytest.approx(np.sum(a * a), rel=1e-13, abs=0)
        assert pairs.squared_b[p] == pytest.approx(np.sum(b * b), rel=1e-13, abs=0)
        for found, d, r in ((pairs.residual_a[p], a, b), (pairs.residual_b[p], b, a)):
            rest = d - (np.sum(d * r) / np.sum(r * r) * r if r.any() else 0)
            assert found == pytest.approx(np.sum(rest**2), rel=1e-12, abs=0)
    # min(r, out, in) of both: 4, 2, 5, 5, 3, 3.
    assert pairs.width.tolist() == [2, 4, 4, 3, 3, 2, 2, 2, 2, 5, 3, 3, 3, 3, 3]
    assert pairs.left.rank.tolist() == pairs.right.rank.tolist() == [2, 4, 4, 0, 1, 2, 2, 0, 1, 5, 0, 1, 0, 1, 0]
    assert (pairs.left.dimension, pairs.right.dimension) == (9, 5)


def test_overlaps_equal_those_of_the_singular_vectors(updates: list[Update]) -> None:
    pairs = paired(*updates)
    svds = [np.linalg.svd(dense(update)) for update in updates]
    for p, (i, j) in enumerate(combinations(range(len(updates)), 2)):
        for side, at in ((pairs.left, 0), (pairs.right, 2)):
            k = int(side.rank[p])
            a, b = ((svd[at] if at == 0 else svd[at].T)[:, :k] for svd in (svds[i], svds[j]))
            np.testing.assert_allclose(np.abs(side.cosines[p, :k, :k]), np.abs(a.T @ b), atol=1e-13)
            assert not side.cosines[p, k:, k:].any() or i in (2, 3) or j in (2, 3)
            for n in range(1, 6):
                angle, phi = side.largest_angle(n)[p], side.similarity(n)[p]
                if n > k:
                    assert np.isnan(angle)
                    assert np.isnan(phi)
                else:
                    expected = np.rad2deg(scipy.linalg.subspace_angles(a[:, :n], b[:, :n])[0])
                    assert angle == pytest.approx(expected, abs=2e-6 if expected < 1e-3 else 1e-11)
                    assert phi == pytest.approx(np.sum((a[:, :n].T @ b[:, :n]) ** 2) / n, abs=1e-13)
            first = side.first_overlap()[p]
            assert np.isnan(first) if k == 0 else first == pytest.approx(abs(a[:, 0] @ b[:, 0]), abs=1e-13)


def test_any_choice_and_order_of_pairs_gives_the_same(updates: list[Update]) -> None:
    whole = [Decomposed(update, 8) for update in updates]
    everything = paired(*updates)
    places = list(combinations(range(len(updates)), 2))
    chosen = [(1, 0), (5, 2), (3, 1), (2, 5)]
    some = pair_up(whole, *(np.array(side) for side in zip(*chosen, strict=True)))
    for p, (i, j) in enumerate(chosen):
        q = places.index((min(i, j), max(i, j)))
        flip = {
            "squared_a": "squared_b",
            "squared_b": "squared_a",
            "residual_a": "residual_b",
            "residual_b": "residual_a",
        }
        for part in PARTS:
            other = flip.get(part, part) if i > j else part
            assert getattr(some, part)[p] == pytest.approx(getattr(everything, other)[q], rel=1e-13), part
        for mine, theirs in ((some.left, everything.left), (some.right, everything.right)):
            np.testing.assert_allclose(mine.largest_angle(1)[p], theirs.largest_angle(1)[q], rtol=1e-12)
            np.testing.assert_allclose(mine.similarity(1)[p], theirs.similarity(1)[q], rtol=1e-12)


def test_similarity_is_the_mean_squared_cosine_of_the_principal_angles() -> None:
    rng = np.random.default_rng(1)
    a, b = (random_factors(rng, 20, 15, 5) for _ in range(2))
    pairs = paired(a, b)
    u, v = (np.linalg.svd(dense(f))[0][:, :3] for f in (a, b))
    cosines = np.cos(scipy.linalg.subspace_angles(u, v))
    assert pairs.left.similarity(3)[0] == pytest.approx(np.mean(cosines**2), rel=1e-13)
    assert pairs.left.largest_angle(3)[0] == pytest.approx(np.rad2deg(np.arccos(cosines.min())), rel=1e-13)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-6, 1e-4, 0.0099, 0.0101, 0.3, np.pi / 2])
def test_known_angles_on_both_sides_of_the_switch_to_the_sine(angle: float) -> None:
    e = np.eye(8)
    turned = np.cos(angle) * e[:, 1] + np.sin(angle) * e[:, 4]
    s = np.diag([3.0, 1.0])
    a = Factors(e[:, :2], s @ np.eye(2, 5), 1.0)
    b = Factors(np.column_stack([e[:, 0], turned]), s @ np.eye(2, 5), 1.0)
    far = Factors(e[:, 5:7], s @ np.eye(2, 5), 1.0)  # a pair that is not small beside one that is
    found = paired(a, b, far).left
    np.testing.assert_allclose(found.largest_angle(2), [np.rad2deg(angle), 90, 90], rtol=2e-12, atol=1e-14)
    np.testing.assert_allclose(found.largest_angle(1), [0, 90, 90], atol=1e-13)
    assert 0.0099 < np.arccos(np.sqrt(SMALL)) < 0.0101


@pytest.mark.parametrize("angle", [1e-12, 1e-9, 1e-6, 0.9e-3, 1.1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("kinds", ["factored", "dense", "both"])
def test_residual_is_the_squared_sine_also_where_the_subtraction_cancels(angle: float, kinds: str) -> None:
    # dW = cos * R + sin * O with |R| = |O| = 1 and <R, O> = 0: the part outside R's line has the square sin^2.
    rng = np.random.default_rng(2)
    u, v = frame_of(rng, 12, 2), frame_of(rng, 10, 1).T
    turned = np.cos(angle) * u[:, :1] + np.sin(angle) * u[:, 1:]
    d: Update = Factors(turned, v, 2.0)
    r: Update = Factors(u[:, :1], v, -3.0)
    if kinds != "factored":
        d = Dense(dense(d))
    if kinds == "dense":
        r = Dense(dense(r))
    pairs = paired(d, r)
    # Rounding of the vectors themselves: 1e-16 of the sine.
    assert np.sqrt(pairs.residual_a[0]) == pytest.approx(2 * np.sin(angle), rel=1e-9, abs=1e-15)
    assert np.sqrt(pairs.residual_b[0]) == pytest.approx(3 * np.sin(angle), rel=1e-9, abs=1e-15)
    assert 0.9e-3 < np.sqrt(CANCELS) < 1.1e-3


def test_lora_a_is_compared_where_both_have_it_in_one_shape() -> None:
    rng = np.random.default_rng(3)
    a = random_factors(rng, 9, 7, 3)
    near = a._replace(A=a.A + 1e-3 * rng.standard_normal(a.A.shape), B=rng.standard_normal(a.B.shape))
    other_rank, merged = random_factors(rng, 9, 7, 2), Dense(dense(a))
    pairs = paired(a, near, other_rank, merged)
    products = [np.sum(a.A * near.A), np.sum(a.A * a.A), np.sum(near.A * near.A)]
    for part, expected in zip((pairs.factor_inner, pairs.factor_a, pairs.factor_b), products, strict=True):
        np.testing.assert_allclose(part, [expected, 0, 0, 0, 0, 0], rtol=1e-14)
    # A merged update that brings its lora_A is compared by it, with a factored one or with another merged one.
    brought = [Dense(dense(one), one.A) for one in (a, near)]
    np.testing.assert_allclose(paired(a, brought[1]).factor_inner, products[:1], rtol=1e-14)
    np.testing.assert_allclose(paired(*brought).factor_inner, products[:1], rtol=1e-14)
    # Neither B, nor the scale, nor other factors of the same update: what is compared is the matrix as it was stored.
    mix = rotation(rng, 3)
    turned = Factors(a.B @ mix.T, mix @ a.A, 5 * a.scale)
    assert paired(a, turned).factor_inner[0] == pytest.approx(np.sum(a.A * (mix @ a.A)), rel=1e-12)


def test_bases_need_not_have_one_width() -> None:
    # Overlaps as given: |<u1, u1'>| = .6, and the planes (e1, e2), (.6 e1 + .8 e3, e2) at arccos .6.
    e = np.eye(4)
    bases = [e[:, :3], np.column_stack([0.6 * e[:, 0] + 0.8 * e[:, 2], e[:, 1]])]
    cosines = np.zeros((1, 3, 3))
    cosines[0, :, :2] = bases[0].T @ bases[1]
    overlaps = Overlaps(bases, np.array([0]), np.array([1]), cosines, np.array([2]))
    assert overlaps.first_overlap()[0] == pytest.approx(0.6)
    assert overlaps.largest_angle(2)[0] == pytest.approx(np.rad2deg(np.arccos(0.6)), rel=1e-14)
    assert overlaps.similarity(2)[0] == pytest.approx((0.36 + 1) / 2)
    assert np.isnan(overlaps.similarity(3)[0])
