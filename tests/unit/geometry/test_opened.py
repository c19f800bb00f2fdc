from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.opened import FACTORED, MERGED, check, open_adapter
from tasks.geometry.compare import Named
from tasks.geometry.delta import Dense
from tests.lab.foreign_adapters import named, tiny_base
from tests.lab.refusals import refusal as refused
from tests.lab.updates import dense
from tests.unit.geometry.test_merged import lora, train

Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj" for i in (0, 1))
V0, V1 = (f"model.layers.{i}.self_attn.v_proj" for i in (0, 1))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "plain"
    train(base, folder, lora())
    return folder


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of `plain` with fields of its configuration changed."""

    def make(name: str, **fields: Any) -> Path:
        shutil.copytree(plain, tmp_path / name)
        file = tmp_path / name / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        return tmp_path / name

    return make


def one(folder: Path) -> Named:
    return named([folder])[0]


def refusal(folder: Path, base: Path | None = None) -> str:
    said = refused(check, one(folder), base)
    assert str(folder) in said
    return said


# --- each kind, its row and its update -----------------------------------------------------------------------------


def test_plain_lora_is_read_from_its_factors_with_or_without_a_base(base: Path, plain: Path, tmp_path: Path) -> None:
    for given in (None, base):
        opened = open_adapter(one(plain), given, tmp_path)
        assert dict(opened.about) == {
            "run": "plain",
            "source": str(plain),
            "base": str(base),
            "kind": "LoRA",
            "update": FACTORED,
            "rank": 4,
            "modules": 2,
            "parameters": 2 * 4 * (40 + 32),
            "size": (plain / WEIGHTS).stat().st_size,
            "note": None,
        }
        assert isinstance(opened.source, AdapterSource)
        assert opened.source.rank == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "kind", "note"),
    [
        ({"init_lora_weights": "pissa"}, "LoRA (pissa)", "PiSSA changes the base weights"),
        ({"modules_to_save": ["lm_head"]}, "LoRA", "modules_to_save holds whole weights: lm_head"),
        (
            {"modules_to_save": ["input_layernorm"]},
            "LoRA",
            "modules_to_save holds whole weights: input_layernorm; 2 other tensors differ and are not compared "
            "(model.layers.0.input_layernorm.weight, model.layers.1.input_layernorm.weight)",
        ),
    ],
)
def test_what_is_not_a_product_is_merged_and_says_so(
    base: Path, tmp_path: Path, settings: dict[str, Any], kind: str, note: str
) -> None:
    train(base, tmp_path / "x", lora(**settings))
    assert check(one(tmp_path / "x"), base) is None
    opened = open_adapter(one(tmp_path / "x"), base, tmp_path / "scratch")
    expected = [*(["lm_head"] if settings.get("modules_to_save") == ["lm_head"] else []), Q0, Q1]
    assert list(opened.source.shapes) == expected
    assert opened.source.rank is None
    about = opened.about
    assert (about["kind"], about["update"], about["rank"], about["note"]) == (kind, MERGED, None, note)
    assert about["modules"] == len(expected)
    assert about["parameters"] == 2 * 40 * 32 + (24 * 32 if "lm_head" in expected else 0)
    assert about["size"] == (tmp_path / "x" / WEIGHTS).stat().st_size  # the adapter's, not the merged model's
    stored = load_file(tmp_path / "x" / WEIGHTS)
    for name in expected:
        update = opened.source.read(name)
        assert isinstance(update, Dense)
        if name == "lm_head":
            assert update.lora_a is None  # saved whole
        else:
            np.testing.assert_array_equal(update.lora_a, stored[f"base_model.model.{name}.lora_A.weight"].double())


def test_full_fine_tune_is_its_difference_also_between_shards(base: Path, tmp_path: Path) -> None:
    model = Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        model.get_submodule(V1).weight += 0.5
        model.model.norm.weight += 1
    model.save_pretrained(tmp_path / "full", max_shard_size="10KB")
    assert len(list((tmp_path / "full").glob("*.safetensors"))) > 1
    opened = open_adapter(one(tmp_path / "full"), base, tmp_path)
    about = opened.about
    assert (about["kind"], about["update"], about["rank"]) == ("full fine-tune", MERGED, None)
    assert about["base"] is None  # it names none; where the one that was given lies is for the report to say
    assert about["note"] == "1 other tensor differs and is not compared (model.norm.weight)"
    assert about["size"] == sum(file.stat().st_size for file in (tmp_path / "full").glob("*.safetensors"))
    assert dict(opened.source.shapes) == {V1: (8, 32)}
    np.testing.assert_allclose(dense(opened.source.read(V1)), np.full((8, 32), 0.5), atol=1e-7)  # float32 sums


def test_two_runs_whose_names_differ_in_a_slash_do_not_share_a_merged_model(base: Path, tmp_path: Path) -> None:
    updates = []
    for name, alpha in (("x/y", 6), ("x-y", 60)):
        train(base, tmp_path / str(alpha), lora(init_lora_weights="pissa", lora_alpha=alpha))
        adapter = one(tmp_path / str(alpha))
        info = type(adapter.info)(name, name, None, None, None)
        updates.append(open_adapter(Named(info, adapter.folder, "x"), base, tmp_path / "scratch"))
    first, second = (dense(opened.source.read(Q0)) for opened in updates)
    assert np.linalg.norm(first) < 0.9 * np.linalg.norm(second)


def test_a_model_that_equals_its_base_has_no_update(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no matrix differs from"):
        open_adapter(one(base), base, tmp_path)


# --- what is refused, reading headers only -------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_without_the_base_the_way_out_is_named(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    train(base, tmp_path / "x", lora(**settings))
    said = refusal(tmp_path / "x")
    assert "give --base MODEL" in said
    assert f"its configuration names {base}" in said


def test_a_whole_model_without_its_base_is_refused(base: Path) -> None:
    assert "a whole model, whose update is its difference from a base: give --base MODEL" in refusal(base)


@pytest.mark.parametrize("dora", [False, True])
def test_pickles_are_not_read(copy: Callable[..., Path], base: Path, dora: bool) -> None:
    folder = copy("pickled", use_dora=dora)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    said = refusal(folder, base)
    assert f"adapter_model.bin is a pickle, which is not read; convert it: cd {folder} && python -c" in said


def test_what_is_neither_adapter_nor_model_is_refused(tmp_path: Path) -> None:
    assert "adapter_config.json is missing; give a directory that PEFT saved" in refusal(tmp_path)
    assert "adapter_config.json is missing" in refusal(tmp_path / "nowhere")


def test_wrong_rank_in_the_configuration_is_refused(copy: Callable[..., Path]) -> None:
    said = refusal(copy("wrong", r=8))
    assert f"module {Q0} has rank 4, its adapter_config.json says 8" in said


def test_a_configuration_of_wrong_types_is_refused_by_field(copy: Callable[..., Path], base: Path) -> None:
    said = refusal(copy("saved", modules_to_save=True), base)
    assert "adapter_config.json: modules_to_save is true; it must be a list of names" in said
    assert "r is 4.5; it must be a whole number of at least 1" in refusal(copy("half", r=4.5))


@pytest.mark.parametrize("dora", [False, True])
def test_a_file_cut_anywhere_is_refused_before_any_work(copy: Callable[..., Path], base: Path, dora: bool) -> None:
    folder = copy("cut", use_dora=dora)
    whole = (folder / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:length])
        said = refusal(folder, base)
        assert f"{folder / WEIGHTS}: not a readable safetensors file" in said, length
        assert "copy it again" in said


def test_flipped_bits_of_a_header_are_refused_or_change_nothing(copy: Callable[..., Path]) -> None:
    """Every fifth bit of it (all eight places of a byte occur). The weights themselves have no checksum."""
    folder = copy("flipped")
    whole = (folder / WEIGHTS).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    expected = opened_or_refused(folder)
    assert isinstance(expected, dict)
    refused = 0
    flips = range(0, 8 * header, 5)
    for flip in flips:
        damaged = bytearray(whole)
        damaged[flip // 8] ^= 1 << flip % 8
        (folder / WEIGHTS).write_bytes(damaged)
        found = opened_or_refused(folder)
        if isinstance(found, str):
            assert str(folder) in found
            assert "\n" not in found
            refused += 1
            continue
        assert found.keys() == expected.keys(), flip
        for name, update in found.items():
            np.testing.assert_array_equal(update, expected[name], err_msg=str(flip))
    assert refused > 0.8 * len(flips)  # the rest is padding and metadata


def opened_or_refused(folder: Path) -> dict[str, np.ndarray] | str:
    try:
        source = AdapterSource(folder)
        return {name: dense(source.read(name)) for name in source.shapes}
    except InputError as error:
        return str(error)


def test_a_damaged_model_or_base_is_named(base: Path, plain: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "full")
    file = tmp_path / "full" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file}: not a readable safetensors file" in refusal(tmp_path / "full", base)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        Checkpoint(tmp_path / "full")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_read_exactly(copy: Callable[..., Path], tmp_path: Path, dtype: torch.dtype) -> None:
    folder = copy("half")
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    update = open_adapter(one(folder), None, tmp_path).source.read(Q1)
    b, a = (tensors[f"base_model.model.{Q1}.lora_{side}.weight"].double().numpy() for side in "BA")
    np.testing.assert_array_equal(dense(update), 6 / 4 * b @ a)
