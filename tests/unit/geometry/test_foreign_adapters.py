"""Geometry of adapters that our trainer never saw.

``COLINEAR_ADAPTERS``: a folder with any number of PEFT adapters as subfolders; ``COLINEAR_ADAPTERS_BASE``: the model
they were trained from, where it is at hand.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasks.geometry.adapters.opened import FACTORED, RESCALED
from tasks.geometry.compare import Comparison
from tests.lab.foreign_adapters import Missing, check, groups, make, named
from tests.lab.frames import WHOLE


def test_adapters_of_others(tmp_path: Path) -> None:
    given, base = os.environ.get("COLINEAR_ADAPTERS"), os.environ.get("COLINEAR_ADAPTERS_BASE")
    if not given:
        pytest.skip("COLINEAR_ADAPTERS names no folder of PEFT adapters")
    found, alone = groups(Path(given), Path(base) if base else None)
    if not found:
        pytest.skip(f"{given} holds no two adapters that can be compared; left out: {alone}")
    for number, group in enumerate(found):
        check(group, Path(base) if base else None, tmp_path / str(number))
    print(f"{sum(map(len, found))} adapters compared in {len(found)} groups; left out: {alone}")


# --- a folder of our own making: stories260K, plain PEFT, a bare loop ----------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of adapters, and their base."""
    folder = tmp_path_factory.mktemp("foreign")
    try:
        return folder, make(folder)
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def comparison(made: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """With their base, and everything checked that must hold for any adapters."""
    folder, base = made
    return check(named(sorted(folder.iterdir())), base, tmp_path_factory.mktemp("scratch"), sampled=20)


def test_what_they_are(comparison: Comparison, made: tuple[Path, Path]) -> None:
    found = {row["run"]: row for row in comparison.adapters.iter_rows(named=True)}
    assert {run: (row["kind"], row["update"], row["rank"]) for run, row in found.items()} == {
        "seed0": ("LoRA", FACTORED, 8),
        "seed0-dora": ("DoRA", RESCALED, None),
        "seed0-order1": ("LoRA", FACTORED, 8),
        "seed1": ("LoRA", FACTORED, 8),
    }
    assert {row["modules"] for row in found.values()} == {20}  # 5 layers, q k v o
    # A of (8, 64); B of (64, 8) for q and o, (32, 8) for k and v: stories260K has 8 heads of 8 and 4 for keys.
    assert found["seed0"]["parameters"] == 5 * (2 * 8 * (64 + 64) + 2 * 8 * (32 + 64))
    assert found["seed0"]["size"] == (made[0] / "seed0" / "adapter_model.safetensors").stat().st_size
    assert {row["base"] for row in found.values()} == {str(made[1])}
    assert comparison.unshared.is_empty()
    assert comparison.notes == ()


def value(comparison: Comparison, a: str, b: str, metric: str, column: str = "value", k: int | None = None) -> float:
    """Over all modules; either order of the two."""
    rows = comparison.pair_metrics.filter(
        *WHOLE, pl.col("metric") == metric,
        pl.col("run_a").is_in([a, b]), pl.col("run_b").is_in([a, b]), pl.col("k").eq_missing(k),
    )  # fmt: skip
    return rows[column].item()


def test_same_initialisation_shows_in_lora_a_and_on_the_right(comparison: Comparison) -> None:
    """B starts at zero, so the rows of dW lie in the span of A, which ten steps of 1e-3 hardly turn."""
    assert value(comparison, "seed0", "seed0-order1", "lora_a_cosine") > 0.9
    phi, chance = (value(comparison, "seed0", "seed0-order1", "phi_right", c, 8) for c in ("value", "null"))
    assert chance == pytest.approx(8 / 64)  # E phi = k / n, the right side being the 64 inputs
    assert phi > 5 * chance
    assert value(comparison, "seed0", "seed0-order1", "phi_right", "percentile", 8) == 100
    # DoRA starts from the same A; its update is merged - base, its lora_A is the one in its file.
    assert value(comparison, "seed0", "seed0-dora", "phi_right", k=8) > 3 * chance
    assert value(comparison, "seed0", "seed0-dora", "lora_a_cosine") > 0.9
    assert abs(value(comparison, "seed1", "seed0-dora", "lora_a_cosine")) < 0.04


def test_other_initialisation_leaves_chance_in_lora_a_and_on_the_right(comparison: Comparison) -> None:
    """Two independent A of 20 x 8 x 64 entries: standard deviation 1 / sqrt(10240) = .0099."""
    assert abs(value(comparison, "seed0", "seed1", "lora_a_cosine")) < 0.04
    # E phi = 8 / 64 = .125; one module's standard deviation is about .018, the mean of twenty modules' .004.
    assert value(comparison, "seed0", "seed1", "phi_right", k=8) == pytest.approx(8 / 64, abs=0.016)
    assert 1 < value(comparison, "seed0", "seed1", "phi_right", "percentile", 8) < 99
    assert value(comparison, "seed0", "seed1", "cosine") < value(comparison, "seed0", "seed0-order1", "cosine")


def test_without_the_base_the_plain_ones_have_the_same_numbers(
    comparison: Comparison, made: tuple[Path, Path], tmp_path: Path
) -> None:
    found, alone = groups(made[0], None)
    assert [[one.info.run for one in group] for group in found] == [["seed0", "seed0-order1", "seed1"]]
    assert list(alone) == ["seed0-dora"]
    assert "give --base MODEL" in alone["seed0-dora"]
    plain = check(found[0], None, tmp_path)
    keys = ["run_a", "run_b", "module", "layer", "projection", "metric", "k"]
    both = plain.pair_metrics.join(comparison.pair_metrics, on=keys, nulls_equal=True)
    assert both.height == plain.pair_metrics.height
    # One Gram matrix serves all adapters of a module, so its rounding depends on how many there are.
    np.testing.assert_allclose(both["value"].to_numpy(), both["value_right"].to_numpy(), rtol=1e-9, atol=1e-12)
