"""The tokenizer loses nothing, knows every word of the small world, and survives saving."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tasks.core.sections import TinySpec
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.synthetic import draw_problem, instruct, pretraining_example, solve, vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(vocabulary(), max_length=256)


def test_generated_texts_have_no_unknown_token_and_decode_to_themselves(tokenizer: Any) -> None:
    rng = Random(0)
    texts = []
    for _ in range(300):
        problem = draw_problem(rng, rng.randint(2, 5), rng.randint(5, 99))
        texts += [problem.question, instruct(problem.question), solve(problem, "a"), solve(problem, "b")]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_every_token_occurs(tokenizer: Any) -> None:
    """A token that never occurs would keep an untrained embedding and only cost time."""
    seen: set[int] = set()
    for i in range(4000):
        example = pretraining_example(TinySpec(), i)
        for text in (example.prompt, example.completion):
            seen |= set(tokenizer(text, add_special_tokens=False)["input_ids"])
    unused = set(tokenizer.convert_ids_to_tokens(sorted(set(range(len(tokenizer))) - seen)))
    assert unused == {"<pad>", "<bos>", "<eos>", "<unk>", "\n"}


def test_numbers_are_digits(tokenizer: Any) -> None:
    assert tokenizer.tokenize("12 + 5 = 17. \\boxed{17}") == [
        "1", "2", " +", " 5", " =", " 1", "7", ".", " \\boxed{", "1", "7", "}",
    ]  # fmt: skip


def test_prompt_is_bos_question_newline(tokenizer: Any) -> None:
    question = "tom has 5 apples."
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "tom", " has", " 5", " apples", ".", "\n"]


def test_template_of_a_finished_turn_continues_the_prompt(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "tom has 5 apples."}, {"role": "assistant", "content": "\\boxed{5}"}]
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(turns, tokenize=False) == f"{prompt}\\boxed{{5}}<eos>"


def test_special_tokens_are_distinct(tokenizer: Any) -> None:
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id] == [
        0,
        1,
        2,
        3,
    ]


def test_foreign_text_is_unknown_not_an_error(tokenizer: Any) -> None:
    assert tokenizer.unk_token_id in tokenizer("Zebras")["input_ids"]


def test_reloaded_from_disk_it_is_the_same(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = solve(draw_problem(Random(5), 4, 30), "b")
    ids = tokenizer(text)["input_ids"]
    assert loaded(text)["input_ids"] == ids
    assert loaded.decode(ids) == text
    assert loaded.padding_side == "left"
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.model_max_length == 256
