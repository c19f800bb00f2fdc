"""What a token costs, counted on a model; and what is decided from it, with the arithmetic."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tasks.training.memory import MOST_TOKENS, SPARE, TILES, _saved_bytes, plan, saved_bytes_per_token
from tests.lab.models import small_model


def make_model(layers: int) -> torch.nn.Module:
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return get_peft_model(small_model(num_hidden_layers=layers), LoraConfig(r=4, target_modules=targets))


def test_bytes_are_linear_in_tokens_and_in_layers() -> None:
    """What the probe finds at 160 tokens holds at 1,000; six layers keep three times what two do, but for the ends."""
    two, six = make_model(2), make_model(6)
    per_token = saved_bytes_per_token(two, autocast=False)
    assert _saved_bytes(two, 1000, autocast=False) == pytest.approx(1000 * per_token, rel=0.02)
    four_layers = saved_bytes_per_token(six, autocast=False) - per_token
    assert four_layers / 2 == pytest.approx(per_token, rel=0.1)


def test_a_layer_keeps_at_least_what_its_gradient_needs() -> None:
    """Two products of the MLP (64), its two factors (64), the three LoRA inputs (32): each once, in float32."""
    by_layer = saved_bytes_per_token(make_model(3), autocast=False) - saved_bytes_per_token(
        make_model(2), autocast=False
    )
    assert 4 * (4 * 64 + 3 * 32) < by_layer < 4 * 4 * (4 * 64 + 3 * 32)


def test_checkpointing_keeps_less() -> None:
    model = make_model(4)
    before = saved_bytes_per_token(model, autocast=False)
    model.train()
    model.get_base_model().activation_checkpointing_enable()
    assert saved_bytes_per_token(model, autocast=False) < before / 4


GIGABYTE = 2**30


@pytest.mark.parametrize(
    ("longest", "free", "setting", "expected"),
    [
        # .8 x 60 - 3 = 45 GiB; at 1 MiB a token 46,080 tokens, of which 32,768 are used
        (1000, 60, "auto", (False, MOST_TOKENS)),
        # .8 x 20 - 3 = 13 GiB: 13,312 tokens
        (1000, 20, "auto", (False, 13_312)),
        # .8 x 10 - 3 = 5 GiB: 5,120 tokens are below 8,192, so with checkpointing at 64 KiB a token: 81,920
        (1000, 10, "auto", (True, MOST_TOKENS)),
        (1000, 10, "off", (False, 5_120)),
        (1000, 60, "on", (True, MOST_TOKENS)),
        # the longest example has to run whatever is free: if it does not fit, that is found out when it runs
        (20_000, 20, "auto", (True, MOST_TOKENS)),
        (20_000, 3, "off", (False, 20_000)),
    ],
)
def test_plan(longest: int, free: int, setting: str, expected: tuple[bool, int]) -> None:
    assert (SPARE, TILES) == (0.8, 3 * GIGABYTE)
    assert plan(longest, free * GIGABYTE, 2**20, 2**16, setting) == expected
