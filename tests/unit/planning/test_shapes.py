"""Shapes of bases: by hand from Qwen3-4B's config.json, and against the modules that transformers and PEFT build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.sections import TinySpec
from tasks.planning.disk import adapter_bytes
from tasks.planning.memory import lora_bytes
from tasks.planning.shapes import KNOWN, Shape, find_shape, shape_of_config, shape_of_world
from tasks.settings.study import build

QWEN3_4B = KNOWN["Qwen/Qwen3-4B-Instruct-2507"]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def test_qwen3_4b_by_hand() -> None:
    """A layer: q and o 2560 x 4096, k and v 2560 x 1024, three of 2560 x 9728; norms 2 x 2560 + 2 x 128."""
    layer = 2 * 10_485_760 + 2 * 2_621_440 + 3 * 24_903_680
    assert layer == 100_925_440
    embedding = 151_936 * 2560
    assert QWEN3_4B.parameters == 36 * (layer + 5_376) + 2_560 + embedding == 4_022_468_096
    assert QWEN3_4B.cache_bytes(2) == 2 * 36 * 1024 * 2 == 147_456


def test_lora_of_the_paper_by_hand() -> None:
    """r (in + out): q and o 32 x 6656, k and v 32 x 3584, in 36 layers."""
    lora = QWEN3_4B.lora_parameters(32, ATTENTION)
    assert lora == 36 * 2 * (32 * 6_656 + 32 * 3_584) == 23_592_960
    assert adapter_bytes(lora) == 94_371_840
    assert lora_bytes(lora) == 377_487_360
    assert len(ATTENTION) * QWEN3_4B.layers == 144  # the paper's modules


CONFIGS: list[dict[str, Any]] = [
    {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
    {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": False},
    {"model_type": "qwen2", "tie_word_embeddings": True},
    {"model_type": "llama", "tie_word_embeddings": False},
    {"model_type": "mistral", "head_dim": 12, "tie_word_embeddings": False},
]


@pytest.mark.parametrize("given", CONFIGS, ids=lambda given: "-".join(map(str, given.values())))
def test_parameters_are_those_that_transformers_and_peft_build(given: dict[str, Any]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    values = given | {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 56, "vocab_size": 101,
    }  # fmt: skip
    shape = shape_of_config(values)
    assert shape is not None
    kind = values.pop("model_type")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        adapted = get_peft_model(model, LoraConfig(r=5, target_modules=[*ATTENTION, "down_proj"]))
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert shape.lora_parameters(5, [*ATTENTION, "down_proj"]) == trained


def test_the_embedded_world_s_network_is_the_one_that_is_pretrained() -> None:
    from tasks.models.tiny.model import MAX_LENGTH
    from tasks.models.tiny.network import build_network
    from tasks.models.tokenizer import build_tokenizer
    from tasks.problems.synthetic import vocabulary

    spec = TinySpec()
    model = build_network(spec, build_tokenizer(vocabulary(), max_length=MAX_LENGTH), MAX_LENGTH)
    assert shape_of_world(spec).parameters == sum(parameter.numel() for parameter in model.parameters()) == 752_832


def test_a_shape_comes_from_the_folder_before_the_table(base_model: Path) -> None:
    found = find_shape(str(base_model))
    assert found.shape == Shape(1, 16, 2, 1, 8, 16, 99)
    assert found.here


@pytest.mark.parametrize(
    ("config", "source"),
    [
        ({"model_type": "gpt2", "n_embd": 8}, "not modelled: architecture 'gpt2'"),
        ({"model_type": "qwen3"}, "not modelled: architecture 'qwen3'"),
        ([], "not modelled: architecture None"),
    ],
)
def test_what_is_not_modelled_has_no_shape(tmp_path: Path, config: object, source: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_shape(str(tmp_path))
    assert (found.shape, found.source, found.here) == (None, source, False)


def test_the_paper_s_base_is_known_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = find_shape("Qwen/Qwen3-4B-Instruct-2507")
    assert found.shape == QWEN3_4B
    assert not found.here
    assert find_shape("nobody/nothing").shape is None
    assert find_shape("../no/such/folder").shape is None
    assert build({}).model.base == "tiny"
