"""Decoding: greedy equals the slow loop, sampling follows the model and each row's own seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from tasks.core.errors import InputError
from tasks.models.generate import Generated, InverseSampler, generate
from tests.lab.models import small_model

EOS, PAD = 2, 0
PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 8, 8, 8, 8, 3], [1, 4, 5]]


@pytest.fixture(scope="module")
def model() -> Any:
    shape = {"vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    tokens = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD, "max_position_embeddings": 64}
    network = small_model(**shape, **tokens, intermediate_size=32, initializer_range=0.3).eval()
    # shipped sampling defaults that must not reach the decoding
    network.generation_config.repetition_penalty = 5.0
    network.generation_config.top_k = 1
    network.generation_config.temperature = 0.1
    network.generation_config.do_sample = True
    return network


def decode(model: Any, prompts: list[list[int]], **settings: Any) -> list[Generated]:
    return generate(
        model, prompts, **{"end_ids": [EOS], "pad_id": PAD, "max_new_tokens": 8, "batch_size": 4, **settings}
    )


def next_logprobs(model: Any, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    return torch.log_softmax(logits / temperature, dim=-1)


def test_greedy_is_the_argmax_loop(model: Any) -> None:
    outputs = decode(model, PROMPTS)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = list(prompt)
        while len(ids) - len(prompt) < 8 and ids[-1] != EOS:
            ids.append(int(next_logprobs(model, ids).argmax()))
        assert list(output.ids) == ids[len(prompt) :]
        assert output.finish_reason == ("stop" if ids[-1] == EOS else "length")
        assert output.logprobs is None


def test_sampling_inverts_the_cumulative_distribution_of_each_rows_seed(model: Any) -> None:
    seeds = [3, 1, 4, 1]
    outputs = decode(model, PROMPTS, temperature=0.7, seeds=seeds)
    for prompt, seed, output in zip(PROMPTS, seeds, outputs, strict=True):
        uniforms = np.random.default_rng(seed).random(8)
        ids = list(prompt)
        assert output.logprobs is not None
        assert len(output.logprobs) == len(output.ids)
        for u, token, logprob in zip(uniforms, output.ids, output.logprobs, strict=False):
            reference = next_logprobs(model, ids, 0.7)
            heads = np.cumsum(reference.exp().numpy())
            expected = next(i for i, head in enumerate(heads) if head > u)  # the slow definition
            assert token == expected
            assert logprob == pytest.approx(float(reference[token]), abs=1e-4)
            ids.append(token)


def test_a_row_does_not_depend_on_its_batch(model: Any) -> None:
    prompts, seeds = PROMPTS * 5, list(range(20))
    reference = decode(model, prompts, temperature=1.0, seeds=seeds, batch_size=20)
    order = list(np.random.default_rng(0).permutation(20))
    shuffled = decode(
        model, [prompts[i] for i in order], temperature=1.0, seeds=[seeds[i] for i in order], batch_size=3
    )
    assert [output.ids for output in shuffled] == [reference[i].ids for i in order]


def test_stop_and_length(model: Any) -> None:
    outputs = decode(model, PROMPTS * 50, temperature=2.0, seeds=list(range(200)), batch_size=200)
    reasons = {output.finish_reason for output in outputs}
    assert reasons == {"stop", "length"}
    for output in outputs:
        assert EOS not in output.ids[:-1]
        if output.finish_reason == "stop":
            assert output.ids[-1] == EOS
        else:
            assert len(output.ids) == 8
            assert output.ids[-1] != EOS


def test_sampled_frequencies_follow_the_model(model: Any) -> None:
    n = 4000
    outputs = decode(model, [[1, 9]] * n, temperature=1.0, seeds=list(range(n)), max_new_tokens=1, batch_size=n)
    counts = np.bincount([output.ids[0] for output in outputs], minlength=12)
    p = next_logprobs(model, [1, 9]).exp().numpy()
    # four standard deviations of each count
    assert np.all(np.abs(counts - n * p) <= 4 * np.sqrt(n * p * (1 - p)) + 1)


def test_a_draw_close_to_one_stays_in_the_vocabulary() -> None:
    sampler = InverseSampler(torch.tensor([[1 - 2**-53], [0.0]], dtype=torch.float64), 1.0, prompt_tokens=1)
    scores = torch.tensor([[0.0, 0.0, -200.0], [float("-inf"), 0.0, 0.0]])
    chosen = sampler(torch.zeros((2, 1), dtype=torch.long), scores)
    assert chosen[1].tolist() == [float("-inf"), 0.0, float("-inf")]  # never a token of probability 0
    assert torch.isfinite(chosen[0]).sum() == 1
    # row 1: two tokens equally likely
    assert sampler.logprobs()[1][0] == pytest.approx(np.log(0.5))


def test_training_mode_is_put_back(model: Any) -> None:
    model.train()
    decode(model, PROMPTS[:1])
    assert model.training
    model.eval()


def test_progress_counts_prompts(model: Any) -> None:
    seen: list[tuple[int, int]] = []
    decode(model, PROMPTS, batch_size=3, progress=lambda done, total, note: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_adapters_decode_too(model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    reference = decode(model, PROMPTS)
    torch.manual_seed(0)
    copy = Qwen3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    wrapped = get_peft_model(copy, LoraConfig(r=2, target_modules=["q_proj"]))  # B = 0: the same function
    assert decode(wrapped, PROMPTS) == reference


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"temperature": 0.0, "seeds": [1] * 4}, "temperature"),
        ({"temperature": 1.0}, "seeds"),
        ({"temperature": 1.0, "seeds": [1]}, "seeds"),
        ({"prompts": [[1], []]}, "prompts"),
    ],
)
def test_bad_input_is_refused(model: Any, settings: dict[str, Any], word: str) -> None:
    prompts = settings.pop("prompts", PROMPTS)
    with pytest.raises(InputError, match=word):
        decode(model, prompts, **settings)


def test_every_end_token_ends_an_answer_and_the_first_one_wins(model: Any) -> None:
    """Against the same rows decoded with one end token: each is cut at the first of both."""
    other = 9
    rows, settings = PROMPTS * 50, {"temperature": 2.0, "seeds": list(range(200)), "batch_size": 200}
    once, both = decode(model, rows, **settings), decode(model, rows, end_ids=[EOS, other], **settings)
    ended = {output.ids[-1] for output in both if output.finish_reason == "stop"}
    assert ended == {EOS, other}
    for output, longer in zip(both, once, strict=True):
        cut = next((n for n, token in enumerate(longer.ids, 1) if token in (EOS, other)), len(longer.ids))
        assert output.ids == longer.ids[:cut]
        assert output.logprobs is not None
        assert output.logprobs == pytest.approx(longer.logprobs[:cut], abs=1e-5)  # type: ignore[index]
        assert (output.finish_reason == "stop") == (output.ids[-1] in (EOS, other))
