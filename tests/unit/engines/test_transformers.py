"""The transformers engine against the bare model: greedy text, log-probabilities, adapters side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import InputError
from tasks.engines.interface import Completion, Request, Sampling, seed_of
from tasks.engines.transformers import TransformersEngine
from tasks.models.load import load_model, load_tokenizer
from tasks.models.prompts import prompt_ids
from tests.lab.families import FAMILIES, write_parrot

QUESTIONS = ["1 + 1?", "How many?", "x", "A longer question, with more words"]


@pytest.fixture(scope="module")
def adapters(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters that change the model a good deal."""
    from peft import LoraConfig, get_peft_model

    made = {}
    for seed, name in enumerate(("one", "two")):
        model = get_peft_model(load_model(base_model, "float32"), LoraConfig(r=2, target_modules=["q_proj", "o_proj"]))
        generator = torch.Generator().manual_seed(seed)
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.data = torch.randn(parameter.shape, generator=generator)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


def requests(base: Path, adapters: list[str | None] | None = None) -> list[Request]:
    tokenizer = load_tokenizer(base)
    who = adapters or [None] * len(QUESTIONS)
    return [
        Request(f"{i}", question, tuple(prompt_ids(tokenizer, question)), seed_of(0, question), adapter)
        for i, (question, adapter) in enumerate(zip(QUESTIONS, who, strict=True))
    ]


def complete(engine: TransformersEngine, asked: list[Request], sampling: Sampling) -> dict[str, Completion]:
    found: dict[str, Completion] = {}
    with engine:
        engine.complete(asked, sampling, lambda request, completion: found.update({request.id: completion}))
    return found


def logprobs(model: Any, request: Request, completion: Completion, temperature: float = 1.0) -> list[float]:
    """Of the completion's tokens, by one forward pass."""
    prompt = request.prompt_ids or ()
    assert completion.ids is not None
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion.ids]])).logits[0, len(prompt) - 1 : -1].double()
    chosen = torch.log_softmax(logits / temperature, dim=-1).gather(1, torch.tensor(completion.ids)[:, None])
    return [float(value) for value in chosen[:, 0]]


def test_greedy_is_the_bare_models_generate(base_model: Path) -> None:
    asked = requests(base_model)
    found = complete(TransformersEngine(base_model, batch_size=3), asked, Sampling(12, logprobs=True))
    model, tokenizer = load_model(base_model), load_tokenizer(base_model)
    for request in asked:
        prompt = torch.tensor([request.prompt_ids])
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
        ids = whole[0, prompt.shape[1] :].tolist()
        answer = found[request.id]
        assert list(answer.ids or ()) == ids
        assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.finish_reason == ("stop" if ids[-1] == tokenizer.eos_token_id else "length")
        assert answer.logprobs == pytest.approx(logprobs(model, request, answer), abs=1e-4)


def test_sampled_logprobs_are_the_models_at_the_temperature(base_model: Path) -> None:
    asked = requests(base_model)
    found = complete(TransformersEngine(base_model), asked, Sampling(12, 0.7, logprobs=True))
    model = load_model(base_model)
    for request in asked:
        answer = found[request.id]
        assert answer.logprobs == pytest.approx(logprobs(model, request, answer, 0.7), abs=1e-4)
        assert answer.logprobs != pytest.approx(logprobs(model, request, answer), abs=1e-2)


def test_a_row_is_the_same_alone_in_company_and_in_another_order(base_model: Path) -> None:
    asked, drawn = requests(base_model), Sampling(12, 1.0)
    together = complete(TransformersEngine(base_model), asked, drawn)
    backwards = complete(TransformersEngine(base_model, batch_size=2), asked[::-1], drawn)
    alone = complete(TransformersEngine(base_model), asked[2:3], drawn)
    assert together == backwards
    assert alone["2"] == together["2"]
    assert together["0"].logprobs is None  # not asked for
    assert together["0"].ids != complete(TransformersEngine(base_model), asked, Sampling(12))["0"].ids


def test_adapters_answer_by_name_in_one_batch(base_model: Path, adapters: dict[str, Path]) -> None:
    mixed = requests(base_model, ["one", "two", None, "one"])
    found = complete(TransformersEngine(base_model, adapters=adapters), mixed, Sampling(12, logprobs=True))
    for request in mixed:
        folder = adapters[request.adapter] if request.adapter else None
        model = load_model(base_model, "float32", folder)
        answer = found[request.id]
        assert answer.logprobs == pytest.approx(logprobs(model, request, answer), abs=1e-4)
    bare = complete(TransformersEngine(base_model), requests(base_model), Sampling(12))
    assert found["2"].ids == bare["2"].ids
    assert found["0"].ids != bare["0"].ids


def test_each_batch_is_delivered_when_it_is_done(base_model: Path) -> None:
    """A failure later on leaves what was delivered before."""
    found: list[str] = []

    def deliver(request: Request, _: Completion) -> None:
        found.append(request.id)
        if len(found) == 2:
            raise KeyboardInterrupt

    with TransformersEngine(base_model, batch_size=2) as engine, pytest.raises(KeyboardInterrupt):
        engine.complete(requests(base_model), Sampling(2), deliver)
    assert found == ["2", "0"]  # the shortest prompts first


def test_what_it_cannot_answer_is_refused_before_it_begins(base_model: Path, adapters: dict[str, Path]) -> None:
    with TransformersEngine(base_model, adapters=adapters) as engine:
        with pytest.raises(InputError, match=r"^request a: the transformers engine needs the prompt's tokens"):
            engine.complete([Request("a", "q", None, 0)], Sampling(2), lambda *_: None)
        with pytest.raises(InputError, match=r"^request a: no adapter 'three' is loaded; there: one, two"):
            engine.complete([Request("a", "q", (5,), 0, "three")], Sampling(2), lambda *_: None)


def test_an_answer_ends_at_every_end_token_of_the_model(tmp_path: Path) -> None:
    """The end of the template's turn, of which the tokenizer's own end-of-sequence token knows nothing."""
    base = write_parrot(FAMILIES["gemma 3"], "A: 7", "9", tmp_path)
    prompt = tuple(prompt_ids(load_tokenizer(base), "What is 3 + 4?"))
    asked = [Request("a", "", prompt, 0), Request("b", "", prompt, 1)]
    closing = load_tokenizer(base).convert_tokens_to_ids("<end_of_turn>")
    for sampling in (Sampling(9, logprobs=True), Sampling(9, 1.0, end_ids=(1, closing), logprobs=True)):
        for found in complete(TransformersEngine(base), asked, sampling).values():
            assert (found.text, found.finish_reason) == ("A: 7", "stop")
            assert found.ids is not None
            assert found.ids[-1] == closing
            assert found.logprobs is not None
            assert len(found.logprobs) == len(found.ids) == 5
    found = complete(TransformersEngine(base), asked[:1], Sampling(9, end_ids=(1,)))["a"]
    assert (found.text, found.finish_reason) == ("A: 79999", "length")
