"""Rounding of stored weights, expected from what is stored alone, against the error of an update that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.geometry.adapters.rounding import NOTHING, Rounding, rounding
from tasks.geometry.compare import Comparison, compare
from tests.lab.foreign_adapters import named

KINDS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}


def stored(weight: np.ndarray, kind: torch.dtype) -> np.ndarray:
    return torch.from_numpy(weight).to(kind).double().numpy()


def case(
    rank: int, size: float, kind: torch.dtype = torch.bfloat16, base_kind: torch.dtype = torch.bfloat16
) -> tuple[Rounding, np.ndarray, np.ndarray]:
    """What is expected, the update before it was rounded, and the stored one; ``size``: |dW| / |W|."""
    rng = np.random.default_rng(rank)
    base = stored(0.02 * rng.standard_normal((320, 256)), base_kind)
    update = rng.standard_normal((320, rank)) @ rng.standard_normal((rank, 256))
    update *= size * np.linalg.norm(base) / np.linalg.norm(update)
    weight = stored(base + update, kind)
    return rounding(weight - base, weight, KINDS[kind], KINDS[base_kind]), update, weight - base


@pytest.mark.parametrize("rank", [1, 2, 25])
@pytest.mark.parametrize("size", [3e-4, 1e-3, 1e-2])
def test_expected_rounding_is_that_of_the_update_that_was_rounded(rank: int, size: float) -> None:
    found, update, after = case(rank, size)
    assert np.sqrt(found.error) == pytest.approx(np.linalg.norm(after - update), rel=0.1)
    assert found.share == pytest.approx(np.linalg.norm(after - update) / np.linalg.norm(after), rel=0.1)
    if size >= 1e-3:  # below, few entries reach half a step, and how many they are in a sample is chance
        cosine = np.sum(after * update) / np.linalg.norm(after) / np.linalg.norm(update)
        assert found.cosine == pytest.approx(cosine, abs=0.03)
    assert found.changed == np.count_nonzero(after) < found.entries == after.size
    assert found.too_large


@pytest.mark.parametrize(
    ("kind", "base_kind"), [(torch.float32, torch.bfloat16), (torch.float16, torch.float16), (torch.float64,) * 2]
)
def test_finer_types_round_less(kind: torch.dtype, base_kind: torch.dtype) -> None:
    found, update, after = case(2, 0.1, kind, base_kind)
    if kind != torch.float64:  # whose error the double precision of this test does not show
        assert np.sqrt(found.error) == pytest.approx(np.linalg.norm(after - update), rel=0.1)
    assert not found.too_large
    assert found.cosine == pytest.approx(1, abs=1e-3)


def test_a_base_between_the_models_steps_is_rounded_too() -> None:
    found, update, after = case(2, 1e-3, base_kind=torch.float32)  # most of what is stored is rounding of the base
    assert np.sqrt(found.error) == pytest.approx(np.linalg.norm(after - update), rel=0.02)
    assert found.share == pytest.approx(np.linalg.norm(after - update) / np.linalg.norm(after), rel=0.02)
    cosine = np.sum(after * update) / np.linalg.norm(after) / np.linalg.norm(update)
    assert found.cosine == pytest.approx(cosine, abs=0.02)


def test_by_hand() -> None:
    # Steps of bfloat16 are 2^-7 in [1, 2) and 2^-8 in [.5, 1); rounding to nearest leaves step^2 / 12 in the mean.
    weight, update = np.array([[1.0, 1.5, 0.5, 0.0]]), np.array([[0.25, 0.0, -0.125, 0.0]])
    found = rounding(update, weight, "BF16", "BF16")
    assert found.error == pytest.approx((2 * 2**-14 + 2**-16) / 12, rel=1e-14)  # a 0 that stayed one has no error
    assert (found.stored, found.changed, found.entries) == (0.25**2 + 0.125**2, 2, 4)
    both = found + rounding(np.zeros((1, 4)), weight, "BF16", "BF16")
    assert (both.error, both.changed, both.entries) == (found.error, 2, 8)
    assert (NOTHING + found).share == found.share > 0
    assert NOTHING.share == NOTHING.cosine == 0


# --- whole models, from their files --------------------------------------------------------------------------------

Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj" for i in (0, 1))


def compared(tmp_path: Path, kind: torch.dtype) -> Comparison:
    """Two fine-tunes of rank 2 at a thousandth of a bfloat16 base, of which they share one direction."""
    rng = np.random.default_rng(0)
    base = {name: stored(0.02 * rng.standard_normal((96, 64)), torch.bfloat16) for name in (Q0, Q1)}
    common = {name: np.outer(rng.standard_normal(96), rng.standard_normal(64)) for name in base}
    for folder in ("base", "a", "b"):
        tensors = {}
        for name, weight in base.items():
            update = common[name] + 0.4 * np.outer(rng.standard_normal(96), rng.standard_normal(64))
            update *= (folder != "base") * 1e-3 * np.linalg.norm(weight) / np.linalg.norm(update)
            tensors[f"{name}.weight"] = torch.from_numpy(weight + update).to(kind)
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return compare(named([tmp_path / "a", tmp_path / "b"]), (1,), tmp_path / "base", tmp_path / "scratch")


def test_an_update_that_is_mostly_rounding_has_no_rank_and_says_why(tmp_path: Path) -> None:
    found = compared(tmp_path, torch.bfloat16)
    ranks = found.spectra.filter(found.spectra["metric"].is_in(["effective_rank", "stable_rank", "participation_rank"]))
    assert ranks["value"].null_count() == len(ranks) == 2 * 3 * 3
    assert found.adapters["dtype"].to_list() == ["bfloat16"] * 2
    assert all(0.1 < share < 0.3 for share in found.adapters["changed"])
    assert all(0.7 < share < 1.1 for share in found.adapters["rounding"])
    assert len(found.notes) == 2
    assert found.notes[0].startswith("a: its weights are stored in bfloat16: ")
    assert "no rank is given for 2 of 2 modules, where it is above 10 %" in found.notes[0]


def test_the_same_update_in_float32_has_its_rank(tmp_path: Path) -> None:
    found = compared(tmp_path, torch.float32)
    ranks = found.spectra.filter(metric="effective_rank", module=Q0)["value"].to_list()
    assert all(1 < rank < 2.05 for rank in ranks)
    assert found.adapters["dtype"].to_list() == ["float32"] * 2
    assert all(share < 1e-3 for share in found.adapters["rounding"])
    assert all(share > 0.99 for share in found.adapters["changed"])
    assert found.notes == ()
