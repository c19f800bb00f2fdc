"""The methods' colours: told apart with and without red-green blindness, seen on paper and on a dark screen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tasks.methods import METHOD_NAMES
from tasks.reporting.charts.picture import KNOWN
from tasks.reporting.charts.style import MARKERS, PALETTE

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SEEN = {
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
D65 = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB."""
    xyz = TO_XYZ @ rgb.clip(0, 1) / D65
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    """WCAG 2."""
    dark, light = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (a, b))
    return (light + 0.05) / (dark + 0.05)


def test_lab_of_known_colours() -> None:
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert contrast("#ffffff", "#000000") == pytest.approx(21.0)


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_are_told_apart(eyes: str) -> None:
    """Okabe and Ito's nearest two are 17.9 apart, the limit is just below; 2.3 is a just noticeable difference."""
    found = {
        (a, b): float(np.linalg.norm(lab(SEEN[eyes] @ linear(a)) - lab(SEEN[eyes] @ linear(b))))
        for a, b in combinations(PALETTE, 2)
    }
    assert min(found.values()) > 17.5, min(found, key=lambda pair: found[pair])


def test_colours_are_seen_on_both_backgrounds() -> None:
    for colour in PALETTE:
        assert contrast(colour, "#ffffff") > 2.2, colour
        assert contrast(colour, "#15181c") > 2.5, colour


def test_every_method_has_a_colour_of_its_own() -> None:
    assert KNOWN == METHOD_NAMES
    assert len(PALETTE) >= len(KNOWN)
    assert len(set(MARKERS)) >= len(KNOWN)  # and a shape: nobody needs to see the colour
