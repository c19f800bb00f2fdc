"""From the gradients of parts to cosines, noise and intervals: numbers worked by hand, and a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.chance import student
from tasks.training.alignment import PARTS, Gradients, alignment_frame

MODULE = "model.layers.0.self_attn.q_proj"


def gradients(method: str, parts: np.ndarray) -> Gradients:
    return Gradients(method, 1, {MODULE: parts.astype(np.float32)}, {})


def test_halves_and_jackknife_by_hand() -> None:
    """a: (1, 0) in the first four parts, (1, 1) in the others; b: (0, 1) in all."""
    a = np.array([[1.0, 0.0]] * 4 + [[1.0, 1.0]] * 4)
    b = np.tile([0.0, 1.0], (PARTS, 1))
    found = alignment_frame([gradients("a", a), gradients("b", b)]).row(0, named=True)
    # Wholes: (8, 4) and (0, 8).
    assert found["projected"] == pytest.approx(1 / 5**0.5, rel=1e-6)
    # Halves of a: (4, 0) and (4, 4), at 45 degrees; of b: equal.
    assert (found["half_a"], found["half_b"]) == pytest.approx((0.5**0.5, 1.0), rel=1e-6)
    # Over pairs of different parts: 32 - 4 between the two, 80 - 12 within a, 64 - 8 within b.
    assert found["corrected"] == pytest.approx(28 / (68 * 56) ** 0.5, rel=1e-6)
    without = np.array([4 / (49 + 16) ** 0.5] * 4 + [3 / (49 + 9) ** 0.5] * 4)  # (7, 4) or (7, 3) against (0, 7)
    pseudo = 8 / 5**0.5 - 7 * without
    half = student(7) * pseudo.std(ddof=1) / 8**0.5
    assert found["low"] == pytest.approx(1 / 5**0.5 - half, rel=1e-5)
    assert found["high"] == pytest.approx(1 / 5**0.5 + half, rel=1e-5)
    # Without a part of the first four: 28 - 4 between, 65 - 11 within a; without one of the others 21 - 3 and 58 - 10.
    without = np.array([24 / (54 * 42) ** 0.5] * 4 + [18 / (48 * 42) ** 0.5] * 4)
    half = student(7) * (8 * found["corrected"] - 7 * without).std(ddof=1) / 8**0.5
    ends = (found["corrected"] - half, found["corrected"] + half)
    assert (found["corrected_low"], found["corrected_high"]) == pytest.approx(ends, rel=1e-5)
    assert found["cosine"] is None  # the weights' own gradients were not computed


def test_a_method_without_gradient_has_no_cosine() -> None:
    found = alignment_frame([gradients("a", np.ones((PARTS, 3))), gradients("b", np.zeros((PARTS, 3)))])
    columns = ("projected", "low", "high", "half_b", "corrected", "corrected_low")
    assert all(found[name].null_count() == found.height for name in columns)
    assert found["half_a"].null_count() == 0
    assert alignment_frame([gradients("a", np.ones((PARTS, 3)))]).is_empty()


def test_the_interval_holds_the_cosine_without_noise_and_the_correction_finds_it() -> None:
    """600 draws: two directions with cosine .6, each part with its own noise as large as a whole's signal.

    The plain cosine is attenuated; its jackknife interval is about its own mean. That of the correction errs on the
    wide side, as the jackknife does on sums over pairs.
    """
    rng = np.random.default_rng(0)
    n, draws, noise = 400, 600, 0.12
    first, second = np.eye(n)[0], 0.6 * np.eye(n)[0] + 0.8 * np.eye(n)[1]
    found = [
        alignment_frame(
            [
                gradients(name, one + noise * rng.standard_normal((PARTS, n)))
                for name, one in (("a", first), ("b", second))
            ]
        ).row(0, named=True)
        for _ in range(draws)
    ]
    plain = np.mean([one["projected"] for one in found])
    # Of a whole: signal 8^2, noise 8 n .12^2 = 46: .6 x 64 / 110.
    assert plain == pytest.approx(0.6 * 64 / (64 + 8 * n * noise**2), abs=0.01)
    assert np.mean([one["corrected"] for one in found]) == pytest.approx(0.6, abs=0.01)
    assert 0.9 < np.mean([one["low"] <= plain <= one["high"] for one in found]) < 0.98
    assert 0.95 < np.mean([one["corrected_low"] <= 0.6 <= one["corrected_high"] for one in found]) < 0.995
