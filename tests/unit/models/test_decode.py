"""Decoding in places: the answers of transformers' own loop, whatever comes and goes beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3ForCausalLM

from tasks.core.results import no_progress
from tasks.models import decode as module
from tasks.models.decode import can_decode, decode
from tasks.models.generate import generate, nobody
from tasks.models.load import BARE
from tasks.models.score import _packed, _padded
from tests.lab.models import small_model

EOS, PAD = 2, 0


@pytest.fixture(scope="module")
def model() -> Any:
    tokens = {"vocab_size": 40, "initializer_range": 0.3, "eos_token_id": EOS, "pad_token_id": PAD}
    return small_model(**tokens, attn_implementation="sdpa").eval()


PROMPTS = [
    torch.randint(3, 40, (1 + 5 * i % 11,), generator=torch.Generator().manual_seed(i)).tolist() for i in range(15)
]


def ours(model: Any, **changes: Any) -> Any:
    settings = {"temperature": None, "seeds": None, "adapters": None, "logprobs": True, "progress": no_progress}
    settings["ended"] = nobody
    return decode(
        model, PROMPTS, **{"end_ids": [EOS, 7, 9], "max_new_tokens": 12, "batch_size": 6, **settings, **changes}
    )


@pytest.mark.parametrize("temperature", [None, 0.8])
@pytest.mark.parametrize("batch", [1, 6, 64])
def test_the_answers_are_those_of_transformers(model: Any, temperature: float | None, batch: int) -> None:
    """15 prompts of 1 to 11 tokens; several end early, so places are taken over. In float32 token for token."""
    seeds = list(range(15)) if temperature else None
    found = ours(model, temperature=temperature, seeds=seeds, batch_size=batch)
    expected = generate(
        model, PROMPTS, end_ids=[EOS, 7, 9], pad_id=PAD, max_new_tokens=12, batch_size=1, temperature=temperature,
        seeds=seeds, greedy_logprobs=True,
    )  # fmt: skip
    assert {answer.finish_reason for answer in expected} == {"stop", "length"}
    assert len({len(answer.ids) for answer in expected}) > 3
    for one, other in zip(found, expected, strict=True):
        assert (one.ids, one.finish_reason) == (other.ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_rows_with_adapters_of_their_own(model: Any, tmp_path: Path) -> None:
    """Two adapters and the bare base in one batch are each model by itself; so are the scores of given answers."""
    bare = Qwen3ForCausalLM(model.config).eval()
    bare.load_state_dict(model.state_dict())
    alone: dict[str, Any] = {BARE: generate(bare, PROMPTS, **common())}
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        copy = Qwen3ForCausalLM(model.config)
        copy.load_state_dict(model.state_dict())
        adapted = get_peft_model(copy, LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False))
        adapted.save_pretrained(tmp_path / name)
        alone[name] = generate(adapted.eval(), PROMPTS, **common())
    wrapped: Any = PeftModel.from_pretrained(bare, tmp_path / "one", adapter_name="one")
    wrapped.load_adapter(tmp_path / "two", adapter_name="two")
    names = [("one", BARE, "two")[i % 3] for i in range(15)]
    found = ours(wrapped.eval(), adapters=names)
    assert [answer.ids for answer in found] == [alone[name][i].ids for i, name in enumerate(names)]
    assert len({alone[name][0].ids for name in alone}) == 3
    targets = [[5, 6, 7]] * 3
    padded = _padded(wrapped, PROMPTS[:3], targets, ["two"] * 3, PAD)
    assert _packed(wrapped, PROMPTS[:3], targets, ["two"] * 3) == pytest.approx(padded, rel=1e-5)
    assert wrapped.get_base_model().config._attn_implementation == "sdpa"


def common() -> dict[str, Any]:
    return {"end_ids": [EOS, 7, 9], "pad_id": PAD, "max_new_tokens": 12, "batch_size": 1}


def test_few_places_where_memory_is_short(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """23 tokens of 128 bytes (2 layers, 2 heads of 8, keys and values, 2 bytes) a row: 12,000 bytes hold 2 rows."""
    monkeypatch.setattr(module, "memory_left", lambda: 12_000.0)
    places: list[int] = []
    made = module.Kept.__init__
    monkeypatch.setattr(
        module.Kept, "__init__", lambda self, rows, length: places.append(rows) or made(self, rows, length)
    )
    longest = max(map(len, PROMPTS)) + 12
    assert (longest, module.kept_bytes(model)) == (23, 128)
    ours(model)
    assert places == [2]


def test_only_bfloat16_on_a_cpu_decodes_so(model: Any) -> None:
    assert not can_decode(model)
    assert not can_decode(torch.nn.Linear(2, 2))
    light = Qwen3ForCausalLM(model.config).to(torch.bfloat16).eval()
    assert can_decode(light)
    answers = generate(light, PROMPTS[:3], **common())
    assert all(len(answer.ids) <= 12 for answer in answers)
