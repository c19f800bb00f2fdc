"""Updates of any size and precision give the numbers of their definition; those that have no number give none."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from tasks.core.errors import InputError
from tasks.geometry.base.metrics import base_module, base_rows
from tasks.geometry.base.sparsity import update_sparsity
from tasks.geometry.connectivity import PATH_ITEMS, barrier_frame
from tasks.geometry.cosine import norm
from tasks.geometry.delta import Factors, LoraDelta, load_delta
from tasks.geometry.spectrum import effective_rank, singular_values
from tasks.geometry.tables.build import geometry
from tests.lab.updates import infos

OUT, IN, RANK, LAYERS = 14, 10, 3, 3


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def factors(seed: int) -> dict[str, Factors]:
    rng = np.random.default_rng(seed)
    return {
        f"model.layers.{layer}.self_attn.q_proj": Factors(
            rng.standard_normal((OUT, RANK)), rng.standard_normal((RANK, IN)), 2.0
        )
        for layer in range(LAYERS)
    }


def scaled(delta: LoraDelta, factor: float) -> LoraDelta:
    """Both factors times the root, as an optimiser that ran away leaves them."""
    root = math.sqrt(factor)
    return LoraDelta({name: Factors(f.B * root, f.A * root, f.scale) for name, f in delta.modules.items()})


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_an_update_of_norm_1e30_or_1e_minus_30_has_the_direction_of_one_of_norm_1(size: float) -> None:
    a, b = (LoraDelta(factors(seed)) for seed in (0, 1))
    plain = geometry([a, b], infos(2), (1, 2)).pair_metrics
    changed = geometry([scaled(a, size), b], infos(2), (1, 2)).pair_metrics
    ratios = pl.col("metric") == "norm_ratio"
    numbers = ["value", "low", "high", "null", "percentile"]
    for name in numbers:
        one, other = (frame.filter(~ratios)[name] for frame in (plain, changed))
        assert one.is_null().equals(other.is_null())
        np.testing.assert_allclose(other.drop_nulls(), one.drop_nulls(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(changed.filter(ratios)["value"], size * plain.filter(ratios)["value"], rtol=1e-12)
    assert norm(scaled(a, size)) == pytest.approx(size * norm(a), rel=1e-13)
    for name, s in singular_values(scaled(a, size)).items():
        assert effective_rank(s) == pytest.approx(effective_rank(singular_values(a)[name]), rel=1e-12)


def save(folder: Path, modules: dict[str, Factors], kind: torch.dtype) -> Path:
    """As PEFT saves it, in another precision."""
    folder.mkdir()
    tensors = {}
    for name, f in modules.items():
        for side, matrix in (("A", f.A), ("B", f.B)):
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = torch.from_numpy(matrix.copy()).to(kind)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_what_float16_cannot_hold_is_named_and_what_it_rounds_to_nothing_is_zero(tmp_path: Path) -> None:
    large = {name: Factors(f.B * 1e5, f.A, 2.0) for name, f in factors(0).items()}
    with pytest.raises(InputError, match=r"entries \(\d+(\.\d+)? %\) of lora_B are NaN or infinite"):
        load_delta(save(tmp_path / "large", large, torch.float16))
    small = {name: Factors(f.B * 1e-30, f.A, 2.0) for name, f in factors(0).items()}
    assert norm(load_delta(save(tmp_path / "small", small, torch.float16))) == 0.0
    assert norm(load_delta(save(tmp_path / "kept", small, torch.bfloat16))) == pytest.approx(
        1e-30 * norm(LoraDelta(factors(0))), rel=1e-2
    )


def test_an_entry_that_overflows_bfloat16_has_moved() -> None:
    base = np.ones((4, 5))
    assert update_sparsity(base, base) == 1.0
    assert update_sparsity(base, np.full((4, 5), 1e39)) == 0.0


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e45])
def test_measures_on_the_base_of_any_size_are_numbers(size: float) -> None:
    rng = np.random.default_rng(3)
    base = base_module(rng.standard_normal((OUT, IN)))
    update = Factors(rng.standard_normal((OUT, RANK)) * size, rng.standard_normal((RANK, IN)), 1.0)
    found = {(name, k): value for _, name, k, value in base_rows("m", base, update, (1, 3))}
    assert all(math.isfinite(value) for value in found.values())
    moved = size > 1
    assert found["update_sparsity", None] == (0.0 if moved else 1.0)
    assert (found["spectrum_shift", None] > 1e20) == moved
    assert (found["base_rotation_left", 1] > 1) == moved


def test_a_path_whose_loss_is_no_number_has_no_barrier() -> None:
    for bad in (math.nan, math.inf):
        rows = [(False, alpha, "p1", "boxed", value, 2) for alpha, value in ((0.0, 1.0), (0.5, bad), (1.0, 1.0))]
        found = barrier_frame(pl.DataFrame(rows, schema=PATH_ITEMS, orient="row"), "a", "b")
        assert found.select("barrier", "low", "high").row(0) == (None, None, None)
