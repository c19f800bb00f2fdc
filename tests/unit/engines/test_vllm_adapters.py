"""Adapters that vLLM would serve wrongly are refused by their files alone; no vLLM is needed to say so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.engines.vllm import VllmEngine
from tasks.engines.vllm_adapters import check_adapters
from tests.lab.vllm_models import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("plain"), 0)


def changed(plain: Path, folder: Path, **fields: Any) -> Path:
    """A copy with fields of its configuration set."""
    shutil.copytree(plain, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def test_the_engines_rank_is_the_smallest_that_holds_all(base: Path, plain: Path, tmp_path: Path) -> None:
    """vLLM takes 1, 8, 16, 32, ...: rank 4 needs 8, and 4 beside 9 needs 16."""
    assert check_adapters(base, {"plain": plain}) == 8
    nine = make_adapter(base, tmp_path / "nine", 1, r=9, use_rslora=True, layers_to_transform=[1])
    assert check_adapters(base, {"plain": plain, "nine": nine}) == 16


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "is DoRA, which vLLM cannot serve"),
        ({"modules_to_save": ["lm_head"]}, r"holds whole weights \(modules_to_save\)"),
        ({"bias": "lora_only"}, "trains biases"),
        ({"lora_bias": True}, "trains biases"),
        ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern\), whose updates vLLM would scale wrongly"),
        ({"alpha_pattern": {"q_proj": 3}}, r"alpha_pattern\), which vLLM would not apply"),
        ({"init_lora_weights": "pissa"}, "was initialised by pissa"),
        ({"r": 520}, "has rank 520, above vLLM's largest, 512"),
    ],
)
def test_peft_s_own_variants_are_refused_with_the_way_out(
    base: Path, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    folder = make_adapter(base, tmp_path / "variant", 0, **config)
    with pytest.raises(InputError, match=rf"^adapter it \(.*variant\) .*{reason}.*evaluation\.engine=transformers$"):
        check_adapters(base, {"it": folder})


def test_a_field_of_a_newer_peft_is_refused_unless_it_is_empty(base: Path, plain: Path, tmp_path: Path) -> None:
    assert check_adapters(base, {"it": changed(plain, tmp_path / "empty", use_tomorrow=False)}) == 8
    with pytest.raises(InputError, match="sets use_tomorrow, which vLLM does not read"):
        check_adapters(base, {"it": changed(plain, tmp_path / "set", use_tomorrow=True)})
    with pytest.raises(InputError, match="is no LoRA adapter"):
        check_adapters(base, {"it": changed(plain, tmp_path / "ia3", peft_type="IA3")})


def test_factors_that_do_not_fit_the_base_are_refused(base: Path, plain: Path, tmp_path: Path) -> None:
    """vLLM copies smaller factors into its buffers and says nothing."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(plain / "adapter_model.safetensors")
    narrow, foreign = changed(plain, tmp_path / "narrow"), changed(plain, tmp_path / "foreign")
    cut = {name: value[:, :32].contiguous() if "lora_A" in name else value for name, value in tensors.items()}
    save_file(cut, narrow / "adapter_model.safetensors")
    message = r"does not fit the base: .*lora_A\.weight is \(4, 32\), the weight \(\d+, 64\), the rank 4"
    with pytest.raises(InputError, match=message):
        check_adapters(base, {"it": narrow})
    renamed = {name.replace("layers.1", "layers.7"): value for name, value in tensors.items()}
    save_file(renamed, foreign / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"has .*layers\.7.*, for which vLLM has no place in the base"):
        check_adapters(base, {"it": foreign})


def test_it_is_refused_before_anything_is_started(
    base: Path, plain: Path, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("COLINEAR_VLLM_PYTHON", str(program))
    engine = VllmEngine(base, adapters={"it": changed(plain, tmp_path / "dora", use_dora=True)})
    with pytest.raises(InputError, match="DoRA"), engine:
        pass
    assert not ran.exists()
