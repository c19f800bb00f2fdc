"""Operations: by hand, and against what torch counts in a Qwen3 under LoRA."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.planning import flops
from tasks.planning.shapes import KNOWN, Shape, shape_of_config

ONE = Shape(layers=1, hidden=2, heads=1, kv_heads=1, head_dim=3, intermediate=5, vocabulary=7)


def test_forward_and_backward_by_hand() -> None:
    """N = q 6 + k 6 + v 6 + o 6 + 3 x 10 = 54; head 14; 10 tokens, 4 scored, each with 5 keys (4 x 3 x 5 = 60)."""
    assert (ONE.linear, ONE.head) == (54, 14)
    assert flops.forward(ONE, 10, 5, 4) == 10 * (108 + 60) + 2 * 14 * 4 == 1792
    # frozen: 4 N and 4 a head entry; 8 of LoRA: 6 each; attention three times
    assert flops.train(ONE, 8, 10, 5, 4) == 10 * 4 * 54 + 4 * 14 * 4 + 10 * 6 * 8 + 3 * 10 * 60 == 4664
    # checkpointed: the layers forward once more, less the last matrix of 2 x 5
    assert flops.train(ONE, 8, 10, 5, 4, checkpointing=True) == 4664 + 10 * (2 * (54 - 10) + 2 * 8 + 60)
    assert flops.pretrain(ONE, 10, 5, 4) == 3 * 1792


def test_an_answer_passes_the_layers_once_a_token() -> None:
    """3 + 2 tokens: 5 through the layers attending to (5 + 1) / 2 = 3 keys, 2 through the head."""
    assert flops.decode(ONE, 3, 2) == 5 * (108 + 4 * 3 * 3) + 2 * 14 * 2


def test_a_token_of_the_paper_s_training_by_hand() -> None:
    """4 x 3,633,315,840 + 6 x 23,592,960 and 4 x 388,956,160 for the head: 16.2 GFLOP, without attention."""
    shape = KNOWN["Qwen/Qwen3-4B-Instruct-2507"]
    lora = shape.lora_parameters(32, ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert flops.train(shape, lora, 1, 0, 1) == 14_533_263_360 + 141_557_760 + 1_555_824_640


@pytest.mark.parametrize("checkpointing", [False, True])
def test_torch_counts_the_same(checkpointing: bool) -> None:
    """Eager attention computes the whole square, so every token is given all keys. Forward, and where the first layer's
    inputs need a gradient, to the operation; in a training they need none, which is the 2 % of ten layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen3Config, Qwen3ForCausalLM

    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    config = Qwen3Config(
        vocab_size=211, hidden_size=64, num_hidden_layers=10, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=160, tie_word_embeddings=True, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):  # shapes are all that is counted
        model: Any = get_peft_model(Qwen3ForCausalLM(config), LoraConfig(r=4, target_modules=targets))
        whole = {"attention_mask": torch.zeros((3, 1, 40, 40)), "position_ids": torch.zeros((1, 40), dtype=torch.long)}
        batch = whole | {"input_ids": torch.zeros((3, 40), dtype=torch.long)}
    shape = shape_of_config(config.to_dict())
    assert shape is not None
    lora = shape.lora_parameters(4, targets)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(**batch)
    assert forward.get_total_flops() == flops.forward(shape, 120, 40, 120, lora)
    if checkpointing:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            model(**batch).logits.sum().backward()
        return counter.get_total_flops()

    expected = flops.train(shape, lora, 120, 40, 120, checkpointing=checkpointing)
    assert counted() == pytest.approx(expected, rel=0.02)
    model.enable_input_require_grads()
    assert counted() == expected
