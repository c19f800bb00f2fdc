"""Loading a base, its tokenizer and an adapter on top."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.core.errors import InputError
from tasks.models.load import (
    Arithmetic,
    arithmetic,
    computed_on,
    context_length,
    light,
    load_adapters,
    load_model,
    load_tokenizer,
    resolved,
    stored_in_16_bits,
)

CONTEXT = 64


def test_a_tokenizer_without_pad_token_is_refused_and_a_given_one_is_used(variant: Callable[..., Path]) -> None:
    base = variant("unpadded", pad_token=None)
    with pytest.raises(InputError, match=r"^model\.pad_token: .* has none; give one: --set model\.pad_token='<eos>'$"):
        load_tokenizer(base)
    assert load_tokenizer(base, "<eos>").pad_token_id == 1
    assert load_tokenizer(base, "<unk>").pad_token_id == 2


def test_a_pad_token_that_the_tokenizer_does_not_know_is_refused(base_model: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.pad_token: '<nope>' is not in the tokenizer of "):
        load_tokenizer(base_model, "<nope>")


def test_a_tokenizer_without_end_of_sequence_token_is_refused(variant: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"^model\.base: .* no end-of-sequence token"):
        load_tokenizer(variant("endless", eos_token=None))


def test_the_context_is_the_models_and_a_shorter_limit_wins(base_model: Path) -> None:
    assert context_length(base_model) == CONTEXT
    assert context_length(base_model, 40) == 40
    assert context_length(base_model, CONTEXT) == CONTEXT
    with pytest.raises(InputError, match=r"^model\.max_length: 65 tokens is beyond the model's context of 64$"):
        context_length(base_model, CONTEXT + 1)


def test_a_merged_adapter_adds_its_delta_and_nothing_else(base_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_model(base_model, "float32")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    # alpha / r = 6 / 2 = 3: the merged weight is W + 3 B A.
    peft = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"]))
    layer = peft.base_model.model.model.layers[0].self_attn.q_proj
    torch.manual_seed(1)
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    delta = 3 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    peft.save_pretrained(tmp_path / "adapter")

    merged = load_model(base_model, "float32", tmp_path / "adapter")
    name = "model.layers.0.self_attn.q_proj.weight"
    after = merged.state_dict()
    torch.testing.assert_close(after[name], before[name] + delta.detach(), atol=1e-6, rtol=1e-5)
    assert all(torch.equal(after[other], before[other]) for other in before if other != name)
    assert not merged.training


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is bfloat16 on a GPU")
def test_precision_on_a_cpu(base_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arithmetic("auto") == Arithmetic("float32", autocast=False, attention="sdpa")
    assert arithmetic("bfloat16") == Arithmetic("bfloat16", autocast=True, attention="eager")
    for native in (True, False):
        monkeypatch.setattr("tasks.models.load.native_bfloat16", lambda where, native=native: native)
        assert arithmetic("mixed") == Arithmetic("float32", native, "eager" if native else "sdpa")
    assert load_model(base_model, "bfloat16").dtype is torch.bfloat16


@pytest.fixture
def halves(base_model: Path, tmp_path: Path) -> Path:
    """`base_model` with its weights stored in bfloat16."""
    folder = tmp_path / "halves"
    load_tokenizer(base_model).save_pretrained(folder)
    load_model(base_model, "float32").to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_what_is_stored_in_16_bits(base_model: Path, halves: Path, tmp_path: Path) -> None:
    assert stored_in_16_bits(halves)
    assert not stored_in_16_bits(base_model)
    assert not stored_in_16_bits(tmp_path / "nothing")
    assert not stored_in_16_bits("org/name")


def test_auto_is_bfloat16_where_the_weights_and_the_processor_are(
    base_model: Path, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the stages' keys, where a CPU that computes in float32 is still just a cpu."""
    for native in (True, False):
        monkeypatch.setattr("tasks.workers.cpu.has_bfloat16", lambda native=native: native)
        expected = "bfloat16" if native else "float32"
        assert [resolved("auto", base, "cpu") for base in (halves, base_model)] == [expected, "float32"]
        assert computed_on("cpu", halves) == ("cpu bfloat16" if native else "cpu")
        assert light(halves, "cpu") is native
        assert resolved("auto", base_model, "cuda") == "bfloat16"
        assert resolved("mixed", halves, "cpu") == "mixed"
        assert (computed_on("cpu", base_model), computed_on("gpu", halves)) == ("cpu", "gpu")
        assert not light(halves, "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="models that are read are in float32 on a GPU")
def test_a_model_that_is_read_is_held_as_it_is_stored(
    base_model: Path, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.workers.cpu.has_bfloat16", lambda: True)
    assert load_adapters(halves, {}).dtype is torch.bfloat16
    assert load_adapters(base_model, {}).dtype is torch.float32
