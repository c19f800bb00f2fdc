"""How a question becomes tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.models.load import load_tokenizer
from tasks.models.prompts import check_template, prompt_ids
from tasks.models.turn import Turn, open_turn, turn_of

EOS = 1


@pytest.fixture(scope="module")
def tokenizer(base_model: Path) -> Any:
    return load_tokenizer(base_model)


@pytest.fixture(scope="module")
def turn(base_model: Path) -> Turn:
    return open_turn(base_model)


def characters(text: str) -> list[int]:
    """The test tokenizer by hand: ids 0-2 are special, 3 is the newline, then printable ASCII from the space on."""
    return [3 if character == "\n" else ord(character) - 32 + 4 for character in text]


def test_the_chat_template_opens_the_answer(tokenizer: Any) -> None:
    assert prompt_ids(tokenizer, "1 + 1?") == characters("U: 1 + 1?\nA: ")


def test_a_given_template_replaces_the_chat_template_and_other_braces_are_text(tokenizer: Any) -> None:
    assert prompt_ids(tokenizer, "{question}?", "{x} {question} }") == characters("{x} {question}? }")


def test_the_beginning_of_sequence_token_is_put_in_front_once(base_model: Path) -> None:
    tokenizer = load_tokenizer(base_model)
    tokenizer.bos_token = "@"
    bos = characters("@")
    assert prompt_ids(tokenizer, "q", "{question}") == bos + characters("q")
    assert prompt_ids(tokenizer, "q", "@{question}") == bos + characters("q")


def test_an_end_of_sequence_token_that_the_tokenizer_adds_is_taken_off(base_model: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(base_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A <eos>", special_tokens=[("<eos>", EOS)])
    assert tokenizer("q")["input_ids"] == [*characters("q"), EOS]
    assert prompt_ids(tokenizer, "q", "{question}") == characters("q")
    assert turn_of(tokenizer, base_model).answer("a") == [*characters("a"), EOS]


def test_completions_are_closed_once_and_truncated_ones_stay_open(turn: Turn) -> None:
    assert turn.answer("4\n") == [*characters("4\n"), EOS]
    assert turn.answer("4\n", closed=False) == characters("4\n")
    assert turn.answer("") == [EOS]
    assert turn.answer("4<eos>") == [*characters("4"), EOS]


@pytest.mark.parametrize("template", ["no field", "{question} {question}", "", "{ question }"])
def test_a_template_without_the_question_once_is_refused(tokenizer: Any, template: str) -> None:
    with pytest.raises(InputError, match=r"^model\.prompt_template: expected \{question\} exactly once, got "):
        check_template(template)
    with pytest.raises(InputError, match=r"^model\.prompt_template: "):
        prompt_ids(tokenizer, "q", template)


def test_no_template_at_all_is_refused(variant: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(variant("plain", chat_template=None))
    with pytest.raises(InputError, match=r"^model\.prompt_template: the base has no chat template; give one"):
        prompt_ids(tokenizer, "q")
    assert prompt_ids(tokenizer, "q", "Q: {question}") == characters("Q: q")


def test_a_box_is_closed_where_it_stands_for_a_solution(turn: Turn) -> None:
    assert turn.boxed("4") == [*characters("\\boxed{4}"), EOS]
    assert turn.boxed("4", closed=False) == characters("\\boxed{4}")


def test_a_word_level_tokenizer_gets_the_command_that_it_knows() -> None:
    from tasks.models.tokenizer import build_tokenizer

    spaced = build_tokenizer([" \\boxed{", "}", "4", "2", " 4"], max_length=64)
    boxed = turn_of(spaced, None).boxed("42")
    assert spaced.decode(boxed) == " \\boxed{42}<eos>"
    assert spaced.unk_token_id not in boxed
    both = build_tokenizer(["\\boxed{", " \\boxed{", "}", "4", "2"], max_length=64)
    assert both.decode(turn_of(both, None).boxed("42", closed=False)) == "\\boxed{42}"
