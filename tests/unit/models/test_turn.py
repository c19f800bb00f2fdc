"""What stands before an answer and what ends it, for models with the traits of those that people use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import InputError
from tasks.core.results import ArtifactRef, ModelRef
from tasks.models.prompts import prompt_ids
from tasks.models.turn import CHAT_TEMPLATE, CONFIG, GENERATION, TOKENIZER, Turn, open_turn
from tests.lab.families import FAMILIES, Family, write_tokenizer

Write = Callable[..., Turn]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, template: str | None = None, date: str = "2024-07-26", **changes: Any) -> Turn:
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        write_tokenizer(replace(FAMILIES[name], **changes), tmp_path / "model")
        return open_turn(tmp_path / "model", template, date=date)

    return make


def spelled(turn: Turn, ids: list[int]) -> str:
    return "".join(turn.tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_asked_ended_and_taught_in_its_own_way(write: Write, name: str) -> None:
    family: Family = FAMILIES[name]
    turn = write(name)
    assert spelled(turn, turn.prompt("Q?")) == family.prompt
    assert tuple(end.text for end in turn.ends) == family.ends
    assert turn.end_ids == tuple(turn.tokenizer.convert_tokens_to_ids(list(family.ends)))
    assert turn.opens == family.opens
    assert spelled(turn, turn.answer("It is 2.")) == f"It is 2.{family.closing}"
    assert spelled(turn, turn.answer("It is", closed=False)) == "It is"
    assert spelled(turn, turn.boxed("2")) == rf"\boxed{{2}}{family.closing}"
    for end in family.ends:  # whichever token ended it: it is not part of what was said, and one takes its place
        assert turn.text(turn.tokenizer.convert_tokens_to_ids([*"It is 2.", end])) == "It is 2."
        assert spelled(turn, turn.answer(f"It is 2.{end}")) == f"It is 2.{family.closing}"


def test_who_says_so_is_told_of_each_end(write: Write) -> None:
    ends = {end.text: end.sources for end in write("llama 3").ends}
    assert ends == {
        "<|end_of_text|>": (GENERATION, TOKENIZER),
        "<|eom_id|>": (GENERATION,),
        "<|eot_id|>": (GENERATION, CHAT_TEMPLATE),
    }
    assert {end.text: end.sources for end in write("phi 4").ends} == {
        "<eos>": (CONFIG, TOKENIZER), "<|im_end|>": (CHAT_TEMPLATE,)
    }  # fmt: skip


def test_a_words_id_in_a_configuration_ends_nothing(write: Write, tmp_path: Path) -> None:
    """transformers writes a default id into configurations that name none; in this tokenizer it may be a word."""
    turn = write("gemma 3")
    word = turn.tokenizer.convert_tokens_to_ids("e")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"eos_token_id": [word, 10**6, -1, None, True]}))
    assert open_turn(tmp_path / "model").end_ids == turn.end_ids
    (tmp_path / "model" / "config.json").write_text(json.dumps({"text_config": {"eos_token_id": 2}}))
    assert [end.text for end in open_turn(tmp_path / "model").ends] == ["<eos>", "<unk>", "<end_of_turn>"]
    (tmp_path / "model" / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"^model\.base: .*generation_config\.json cannot be read"):
        open_turn(tmp_path / "model")


# --- what the template opens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen3 thinking", "r1 distill"])
def test_what_the_prompt_opens_is_in_a_training_row_once(write: Write, name: str) -> None:
    turn = write(name)
    thought = "so\n</think>\n\nIt is 2."
    for text in (f"<think>\n{thought}", f"\n<think>\n{thought}", thought):
        row = spelled(turn, [*turn.prompt("Q?"), *turn.answer(text)])
        assert row == f"{FAMILIES[name].prompt}{thought}{FAMILIES[name].closing}"
    assert spelled(turn, turn.answer("<think>so</think>", closed=False)) == "so</think>"
    assert spelled(turn, turn.answer("I <think> so", closed=False)) == "I <think> so"


def test_a_template_that_opens_nothing_leaves_a_thought_as_it_is(write: Write) -> None:
    turn = write("qwen2.5 instruct")
    assert spelled(turn, turn.answer("<think>\nso")) == "<think>\nso<|im_end|>"


def test_ids_that_are_known_keep_their_log_probabilities_where_they_stay_the_same(write: Write) -> None:
    turn = write("qwen3 thinking")
    ids = turn.tokenizer.convert_tokens_to_ids
    told = ids(["<think>", "\n", "s", "o", "<|im_end|>"])
    assert turn.taken("<think>\nso", told, closed=True) == (ids(["s", "o", "<|im_end|>"]), 2)
    assert turn.taken("so", ids(["s", "o", "<|im_end|>"]), closed=True) == (ids(["s", "o", "<|im_end|>"]), 0)
    assert turn.taken("so", ids(["s", "o"]), closed=False) == (ids(["s", "o"]), 0)
    # Ended by a token that training does not teach, or not told at all: the last id is another one.
    for other in (["s", "o", "<|endoftext|>"], ["s", "o"]):
        assert turn.taken("so", ids(other), closed=True) == (ids(["s", "o", "<|im_end|>"]), None)


# --- templates of the user's ------------------------------------------------------------------------------------------


def test_a_users_template_is_closed_by_what_it_spells(write: Write) -> None:
    plain = write("gemma 3", "Question: {question}\nAnswer:\n")
    assert spelled(plain, plain.prompt("Q?")) == "<bos>Question: Q?\nAnswer:\n"
    assert spelled(plain, plain.answer("2")) == "2<eos>"
    assert [end.text for end in plain.ends] == ["<eos>", "<end_of_turn>"]  # a chat model may end so all the same
    chat = write("gemma 3", "<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n")
    assert spelled(chat, chat.answer("2")) == "2<end_of_turn>"


def test_the_beginning_of_sequence_token_stands_once_where_a_template_spells_what_the_tokenizer_adds(
    write: Write,
) -> None:
    from tokenizers.processors import TemplateProcessing

    turn = write("llama 3", "<|begin_of_text|>{question}")
    bos = turn.tokenizer.bos_token_id
    adding = TemplateProcessing("<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)])
    turn.tokenizer.backend_tokenizer.post_processor = adding
    assert turn.tokenizer("<|begin_of_text|>Q")["input_ids"][:2] == [bos, bos]
    assert spelled(turn, turn.prompt("Q")) == "<|begin_of_text|>Q"
    assert turn.record.rule == {
        "ends": list(turn.end_ids), "closing": turn.tokenizer.eos_token_id, "bos": "once"
    }  # fmt: skip


def test_a_template_whose_end_the_tokenizer_joins_with_the_answer_is_told(tmp_path: Path) -> None:
    """Bytes with merges for " T" and for " 2": as in every tokenizer of GPT-2's kind, a word begins with its space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = "\u0120"
    vocabulary = {token: i for i, token in enumerate(["<eos>", *letters, f"{space}T", f"{space}2"])}
    inner = Tokenizer(models.BPE(vocabulary, [(space, "T"), (space, "2")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>").save_pretrained(tmp_path)
    assert open_turn(tmp_path, "Q: {question}\nA: ").split() == " T"
    assert open_turn(tmp_path, "Q: {question}\nA:\n").split() is None
    assert open_turn(tmp_path, "Q: {question}\nA:").split() is None


@pytest.mark.parametrize(
    ("question", "mark"),
    [
        ("<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>"),
        ("<s>[INST] Q? [/INST]", "[INST]"),
        ("<start_of_turn>user\nQ?<end_of_turn>", "<start_of_turn>"),
        ("<|start_header_id|>user<|end_header_id|>", "<|start_header_id|>"),
        ("Q?<|observation|>", "<|observation|>"),  # this tokenizer's own
    ],
)
def test_a_template_inside_a_template_is_refused(write: Write, question: str, mark: str) -> None:
    turn = write("glm 4")
    with pytest.raises(InputError) as error:
        turn.prompt(question)
    assert f"holds {mark!r}" in str(error.value)
    assert "\n" not in str(error.value)
    for plain in ("if a <b> c", "|x| < |y|", "[1] INST", "a <unk> b", "<|x|>"):
        turn.prompt(plain)


# --- the date ---------------------------------------------------------------------------------------------------------

CLOCKS = {
    "{{ strftime_now('%d %b %Y') }}": "26 Jul 2024",
    "{{ strftime_now('%Y-%m-%d') }}": "2024-07-26",
    "{{ strftime_now('%A %-d %B') }}": "Friday 26 July",
    "{% if strftime_now is defined %}{{ strftime_now('%H:%M') }}{% endif %}": "00:00",
    "{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}": "26",
    "{% if day is not defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}{{ day }}": "26 Jul 2024",
}


@pytest.mark.parametrize("chat", CLOCKS)
def test_templates_that_print_the_day_are_told_one(write: Write, chat: str) -> None:
    turn = write("gemma 3", chat=f"\n{chat}: {{{{ messages[0]['content'] }}}}")
    assert spelled(turn, turn.prompt("Q?")) == f"\n{CLOCKS[chat]}: Q?"
    other = write("gemma 3", chat=f"{chat}: {{{{ messages[0]['content'] }}}}", date="2025-01-09")
    assert other.prompt("Q?") != turn.prompt("Q?")
    assert other.record.rule is not None
    assert other.record.rule["date"] == other.record.date == "2025-01-09"


def test_a_template_without_a_clock_has_no_date_in_its_record(write: Write) -> None:
    record = write("gemma 3", date="2025-01-09").record
    assert record.date is None
    assert "date" not in (record.rule or {})
    with pytest.raises(InputError, match=r"^model\.template_date: expected a day such as 2024-07-26, got 'today'"):
        prompt_ids(write("granite").tokenizer, "Q?", date="today")


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_the_record_shows_a_prompt_and_the_row_that_is_taught(write: Write) -> None:
    record = write("qwen3 thinking").record
    assert record.prompt == "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert record.answer == "The answer is \\boxed{2}.<|im_end|>"
    assert record.opens == "<think>\n"
    assert record.ends == ((3, "<|endoftext|>", GENERATION), (5, "<|im_end|>", f"{GENERATION}, {CONFIG}, {TOKENIZER}, "
                                                                               f"{CHAT_TEMPLATE}"))  # fmt: skip


def identity(turn: Turn | None) -> dict[str, Any]:
    model = ModelRef(ArtifactRef("u", "s", "k", "r"), prompt_template="t", turn=turn.record if turn else None)
    return model.identity


def test_keys_of_models_that_nothing_else_ends_stay_and_all_others_change(write: Write) -> None:
    """What was computed before there were turns is right for the first of them, and found in the cache."""
    before = {"sha256": "s", "folder": ".", "prompt_template": "t", "pad_token": None, "max_length": None}
    assert identity(None) == before
    plain = {name for name in FAMILIES if identity(write(name)) == before}
    assert plain == {"smollm 2", "mistral"}
    assert identity(write("granite"))["turn"] == {"date": "2024-07-26"}
    assert identity(write("r1 distill"))["turn"] == {"opens": "<think>\n"}
    gemma = write("gemma 3")
    assert identity(gemma)["turn"] == {"ends": [1, 5], "closing": 5}


def test_the_embedded_worlds_and_the_tests_base_are_plain(base_model: Path, tmp_path: Path) -> None:
    from tasks.models.tokenizer import build_tokenizer

    build_tokenizer([" w", "{"], max_length=64).save_pretrained(tmp_path)
    for folder in (base_model, tmp_path):
        assert open_turn(folder).record.rule is None
        assert open_turn(folder, "Q: {question}\n").record.rule is None
