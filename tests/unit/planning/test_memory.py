"""Memory: against what autograd saves in real models, and by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning import memory
from tasks.planning.shapes import KNOWN, Shape

PAPER = KNOWN["Qwen/Qwen3-4B-Instruct-2507"]
LORA = 23_592_960


def test_the_rule_is_that_of_training() -> None:
    from tasks.models.head import tile_bytes
    from tasks.training import memory as real

    assert (memory.SPARE, memory.TILES, memory.MOST_TOKENS) == (real.SPARE, real.TILES, real.MOST_TOKENS)
    assert memory.CPU_TOKENS == real.CPU_TOKENS
    assert tile_bytes(151_936) == memory.CPU_TILE * 151_936


@pytest.mark.parametrize("bfloat16", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "r"), [(4, 2, 16, 8), (2, 1, 24, 3)])
def test_activations_are_what_autograd_saves_of_a_qwen3(
    bfloat16: bool, heads: int, kv_heads: int, head_dim: int, r: int
) -> None:
    """Two depths, so that what the embedding and the last norm keep drops out: to the byte."""
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tasks.training.memory import saved_bytes_per_token

    def saved(layers: int) -> float:
        config = Qwen3Config(
            vocab_size=64, hidden_size=48, num_hidden_layers=layers, num_attention_heads=heads, head_dim=head_dim,
            num_key_value_heads=kv_heads, intermediate_size=80, tie_word_embeddings=True, attn_implementation="sdpa",
        )  # fmt: skip
        base = Qwen3ForCausalLM(config).to(torch.bfloat16 if bfloat16 else torch.float32)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        model: Any = get_peft_model(base, LoraConfig(r=r, target_modules=targets, task_type="CAUSAL_LM")).train()
        for module in model.modules():
            if isinstance(module, BaseTunerLayer) and bfloat16:
                module.cast_input_dtype_enabled = False  # as `tasks.training.build` does
        return saved_bytes_per_token(model, autocast=bfloat16)

    shape = Shape(2, 48, heads, kv_heads, head_dim, 80, 64)
    assert saved(4) - saved(2) == pytest.approx(memory.activation_bytes(shape, r, bfloat16=bfloat16), rel=1e-9)


def test_a_token_of_the_paper_s_training_by_hand() -> None:
    """10 x 2560 + 8 x (4096 + 1024) + 6 x 9728 + 8 x 32 + 8 x 32 + 4 x 8 + 8 = 125,480 bytes a layer; 4.5 MB in all."""
    assert memory.activation_bytes(PAPER, 32, bfloat16=True) == 36 * 125_480
    # inputs of 36 layers in bfloat16, and one layer while it is computed again
    assert memory.checkpointed_bytes(PAPER, 32, bfloat16=True) == 36 * 2560 * 2 + 125_480


@pytest.mark.parametrize(
    ("device", "setting", "checkpointing", "tokens"),
    [
        (80e9, "auto", False, 11_868),  # (.8 (80e9 - 2^29 - 8.04e9 - .38e9) - 3 x 2^30) / 4.517e6
        (24e9, "auto", True, 28_442),  # 1,951 without: less than a quarter of the most
        (80e9, "on", True, 32_768),
        (24e9, "off", False, 4_246),  # less fits, but the longest example has to
    ],
)
def test_how_the_paper_s_training_is_run(device: float, setting: str, checkpointing: bool, tokens: int) -> None:
    found = memory.training(PAPER, 32, LORA, device, 4_246, 44_096, bfloat16=True, setting=setting)
    assert (found.checkpointing, found.weights, found.tiles) == (checkpointing, 8_044_936_192, 3 * 2**30)
    assert found.pass_tokens == tokens
    assert found.total == found.weights + 377_487_360 + found.activations + found.tiles
    fits = setting != "off" or device == 80e9
    assert (found.least <= device) is fits


def test_least_memory_is_where_the_longest_example_just_fits() -> None:
    least = memory.training(PAPER, 32, LORA, 0.0, 4_246, 44_096, bfloat16=True, setting="auto").least
    usable = 0.8 * (least - memory.WORKER - 8_044_936_192 - 377_487_360) - 3 * 2**30
    assert usable == pytest.approx(4_246 * (36 * 2560 * 2 + 125_480), rel=1e-9)


def test_answers_hold_their_keys_and_values() -> None:
    assert memory.answering(PAPER, 256, 4_246, bfloat16=True) == (8_044_936_192, 256 * 4_246 * 147_456)
    assert memory.answering(PAPER, 1, 1, bfloat16=False) == (16_089_872_384, 294_912)


QWEN = Shape(24, 896, 14, 2, 64, 4864, 151_936, tied=False, query_norms=False, biases=True)
"""Qwen2.5-Coder-0.5B-Instruct, its head apart from its embedding."""


def test_a_cpu_in_bfloat16_holds_a_thousand_tokens() -> None:
    """However large the step: activations of 1,024 tokens, 107 MB of logits where whole ones would take 311 MB."""
    lora = QWEN.lora_parameters(16, ("q_proj", "k_proj", "v_proj", "o_proj"))
    found = memory.training(QWEN, 16, lora, 8 * 2**30, 740, 40_000, bfloat16=True, setting="auto", on_cpu=True)
    assert (found.pass_tokens, found.checkpointing) == (1024, False)
    assert found.tiles == (2 * 256 + 3 * 4 * 16) * 151_936
    assert found.weights == 2 * 630_167_424
    measured = {"sft": 3.65 * 2**30, "dpo": 3_851_224 * 1024}  # of a worker, tests/benchmarks/real_model.py and a study
    for name, most in measured.items():
        assert most / 1.3 < found.total + found.worker < 1.3 * most, name
