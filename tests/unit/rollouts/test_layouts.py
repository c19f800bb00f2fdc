"""Which column of somebody's rollouts is read as what: every named layout, its siblings, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.models.prompts import MARKS
from tasks.rollouts.files import marks_of, read_into, read_rollouts
from tasks.rollouts.layouts import FINISHED, LAYOUTS, Reading

Read = Callable[..., tuple[pl.DataFrame, dict[str, str]]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes rows as JSON lines and reads them: the frame, and what its columns were read as."""

    def written(*rows: object, **fields: str) -> tuple[pl.DataFrame, dict[str, str]]:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reading = Reading(fields)
        return read_into(reading, path), reading.summary()

    return written


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def rollouts(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("prompt", "completion", "answer", "reward", "finish_reason").rows()


# --- named layouts ---------------------------------------------------------------------------------------------------

OPENR1 = {
    "problem": "2 + 3?", "solution": "The reference says $5$.", "answer": "5", "uuid": "u",
    "generations": ["It is 5.", "It is 6."], "correctness_math_verify": [True, False], "correctness_llama": None,
    "is_reasoning_complete": [True, False], "finish_reasons": None,
    "messages": [user("2 + 3?"), assistant("It is 5.")],
}  # fmt: skip


def test_openr1_rollouts_are_its_generations_with_their_labels_never_the_reference_solution(read: Read) -> None:
    frame, said = read(OPENR1)
    assert rollouts(frame) == [
        ("2 + 3?", "It is 5.", "5", 1.0, "stop"),
        ("2 + 3?", "It is 6.", "5", 0.0, "length"),  # is_reasoning_complete is false: it was cut
    ]
    assert said == {
        "layout": "OpenR1-Math", "read_prompt": "problem", "read_completion": "generations",
        "read_reward": "correctness_math_verify", "read_answer": "answer",
        "not_read": "solution, uuid, correctness_llama, finish_reasons, messages", "not_read_inside": "nothing",
    }  # fmt: skip


def test_openr1_where_a_model_judged_and_where_an_engine_said_why_it_ended(read: Read) -> None:
    judged = {"correctness_math_verify": None, "correctness_llama": [False, True], "finish_reasons": ["length", "stop"]}
    frame, said = read({**OPENR1, **judged})
    assert [row[3:] for row in rollouts(frame)] == [(0.0, "length"), (1.0, "stop")]
    assert said["read_reward"] == "correctness_llama"


def test_openr1_without_labels_is_graded(read: Read) -> None:
    frame, said = read({**OPENR1, "correctness_math_verify": None})
    assert frame["reward"].to_list() == [None, None]
    assert (said["read_reward"], said["read_answer"]) == ("nothing", "answer")


def test_openr1_labels_of_another_length_are_refused(read: Read) -> None:
    with pytest.raises(InputError, match=r"field `correctness_math_verify`: expected 2 rewards, one a completion, got"):
        read({**OPENR1, "correctness_math_verify": [True]})


def test_a_user_may_want_the_reference_solution_and_is_not_given_the_labels_of_the_generations(read: Read) -> None:
    frame, said = read(OPENR1, completion="solution")
    assert rollouts(frame) == [("2 + 3?", "The reference says $5$.", "5", None, "stop")]
    assert "generations" in said["not_read"]


def test_openmathinstruct(read: Read) -> None:
    row = {"problem": "q", "generated_solution": "so 5", "expected_answer": "5", "solution": "other"}
    frame, said = read(row, {"question": "r", "generated_solution": "6", "expected_answer": 6, "is_correct": True})
    assert rollouts(frame) == [("q", "so 5", "5", None, "stop"), ("r", "6", "6", 1.0, "stop")]
    assert (said["read_prompt"], said["not_read"]) == ("problem, question", "solution")


def batch(*choices: dict[str, Any], **joined: Any) -> dict[str, Any]:
    body = {"choices": list(choices)}
    return {"id": "b", "custom_id": "r-0", "response": {"status_code": 200, "body": body}, "error": None, **joined}


def test_openai_batch_output_with_its_questions(read: Read) -> None:
    frame, said = read(
        batch({"index": 0, "message": assistant("It is 5."), "finish_reason": "stop"}, prompt="2 + 3?", answer="5"),
        batch({"message": assistant("a"), "finish_reason": "length"}, {"message": assistant("b")},
              body={"messages": [{"role": "system", "content": "Solve."}, user("q")]}, answer=7),
    )  # fmt: skip
    assert rollouts(frame) == [
        ("2 + 3?", "It is 5.", "5", None, "stop"),
        ("q", "a", "7", None, "length"),
        ("q", "b", "7", None, "stop"),
    ]
    assert (said["read_completion"], said["read_prompt"]) == (
        "response.body.choices, response.body.choices[].message", "prompt, body.messages"
    )  # fmt: skip
    assert said["not_read_inside"] == "system messages (1)"


def test_openai_batch_output_alone_has_no_question_and_says_how_it_gets_one(read: Read) -> None:
    with pytest.raises(
        InputError, match=r"field `prompt`: .* got nothing; .* joined with its questions by `custom_id`"
    ):
        read(batch({"message": assistant("It is 5."), "finish_reason": "stop"}))


def test_anthropic_batch_output(read: Read) -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "It is 5."}], "stop_reason": "max_tokens"}
    frame, _ = read({"custom_id": "a", "result": {"type": "succeeded", "message": message}, "prompt": "q", "gold": 5})
    assert rollouts(frame) == [("q", "It is 5.", "5", None, "length")]


def sample(**changes: Any) -> dict[str, Any]:
    return {
        "doc_id": 0, "doc": {"question": "2 + 3?", "answer": "work\n#### 5"}, "target": "5",
        "arguments": {"gen_args_0": {"arg_0": "Q: 1 + 1?\nA: 2\n\nQ: 2 + 3?\nA:"}},
        "resps": [["We work it out: 5."]], "filtered_resps": ["5"], "exact_match": 1.0, "filter": "strict-match",
        **changes,
    }  # fmt: skip


def test_lm_eval_samples_are_what_the_model_said_to_the_bare_question(read: Read) -> None:
    frame, said = read(sample(), sample(doc={"problem": "q"}, exact_match=0.0), sample(doc={"question": "r"}, acc=0))
    assert [row[:4] for row in rollouts(frame)] == [
        ("2 + 3?", "We work it out: 5.", "5", 1.0), ("q", "We work it out: 5.", "5", 0.0),
        ("r", "We work it out: 5.", "5", 1.0),
    ]  # fmt: skip
    assert (said["read_prompt"], said["read_reward"]) == ("doc.question, doc.problem", "exact_match")


def test_lm_eval_repeats_are_rows_of_one_problem_but_one_score_is_not_theirs(read: Read) -> None:
    several = sample(resps=[["5", "6"]], exact_match=None)
    assert [row[1] for row in rollouts(read(several)[0])] == ["5", "6"]
    with pytest.raises(InputError, match=r"field `exact_match`: expected 2 rewards, one a completion, got 1\.0"):
        read(sample(resps=[["5", "6"]]))
    frame, _ = read(sample(resps=[["5", "6"]]), reward="")  # an empty name: none has that role
    assert frame["reward"].to_list() == [None, None]


def test_lm_eval_rows_of_two_filters_are_the_same_completions_twice(read: Read) -> None:
    with pytest.raises(InputError, match=r"line 2, field `filter`: expected 'strict-match' as in the rows before, got"):
        read(sample(), sample(filter="flexible-extract", exact_match=0.0))


def test_verl_dumps(read: Read) -> None:
    dump = {"input": "2 + 3?", "output": "5", "gts": "5", "score": 1.0, "step": 3, "acc": True}
    frame, said = read(dump, {**dump, "input": "q", "score": 0.0})
    assert rollouts(frame) == [("2 + 3?", "5", "5", 1.0, "stop"), ("q", "5", "5", 0.0, "stop")]
    assert said["not_read"] == "step, acc"
    with pytest.raises(InputError, match=r"field `score`: expected 0, 1, .* got -1\.0; .*rollouts\.fields\.reward"):
        read({**dump, "score": -1.0})
    assert read({**dump, "score": -1.0}, reward="acc")[0]["reward"].to_list() == [1.0]


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"prompt": "q", "chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")]},
        {"chosen": [user("q"), assistant("good")], "rejected": [user("q"), assistant("bad")], "score_chosen": 9.5},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    ],
)
def test_a_preference_pair_is_two_rows_of_one_problem(read: Read, pair: dict[str, Any]) -> None:
    frame, said = read(pair)
    assert rollouts(frame) == [("q", "good", None, 1.0, "stop"), ("q", "bad", None, 0.0, "stop")]
    assert frame["problem_id"].n_unique() == 1
    assert frame["rollout_id"].to_list() == [0, 1]
    assert (said["layout"], said["read_reward"]) == ("preference pairs", "1 for chosen, 0 for rejected")


def test_a_pair_whose_question_nothing_says_is_refused(read: Read) -> None:
    with pytest.raises(InputError, match=r"field `prompt`: expected the question .* got nothing"):
        read({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    with pytest.raises(InputError, match=r"field `rejected`: expected the question of `chosen`, got another"):
        read({"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]})
    with pytest.raises(InputError, match=r"`prompt` and `chosen` differ and either could be the question"):
        read({"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]})
    several = [user("q"), assistant("a"), user("r"), assistant("b")]
    with pytest.raises(InputError, match=r"`chosen`: expected one question and one answer, got user, assistant, user"):
        read({"chosen": several, "rejected": several})


# --- conversations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("q"), assistant("a")]},
        {"prompt": [user("q")], "completion": [assistant("a")]},
        {"prompt": "q", "completion": assistant("a")},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversation": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, assistant("a")]},
        {"prompt": [user("q")], "completions": [[assistant("a")]]},
        {"problem": "q", "solution": "a", "messages": [user("q"), assistant("a")]},  # both say the same
    ],
)
def test_one_question_and_one_answer_are_read_out_of_messages(read: Read, row: dict[str, Any]) -> None:
    frame, _ = read({**row, "answer": "5"})
    assert rollouts(frame) == [("q", "a", "5", None, "stop")]


def test_messages_in_parquet(tmp_path: Path) -> None:
    rows = [{"messages": [user("q"), assistant("a")], "answer": 0.00001}]
    pl.DataFrame(rows).write_parquet(tmp_path / "m.parquet")
    assert rollouts(read_rollouts(tmp_path / "m.parquet")) == [("q", "a", "0.00001", None, "stop")]


def test_what_is_left_out_of_messages_is_counted(read: Read) -> None:
    system = {"role": "system", "content": "Solve."}
    thought = {**assistant("a"), "reasoning_content": "hm"}
    _, said = read(
        {"messages": [system, user("q"), thought], "answer": 1}, {"messages": [system, user("r"), thought], "answer": 1}
    )
    assert said["not_read_inside"] == "reasoning apart from the answer (2), system messages (2)"


@pytest.mark.parametrize(
    ("messages", "refusal"),
    [
        ([user("q")], "an answer in the conversation, got none"),
        ([user("q"), assistant("a"), user("r"), assistant("b")], "got user, assistant, user, assistant"),
        ([user("q"), {"role": "tool", "content": "5"}, assistant("a")], "got 'tool'"),
        ([user("q"), {"role": "assistant", "content": None}], "messages with text as content, got nothing"),
        ([user("q"), {"role": "assistant", "content": [{"type": "image"}]}], "messages with text as content"),
        ("q", "messages, objects with `role` and `content`, got 'q'"),
    ],
)
def test_other_conversations_are_refused(read: Read, messages: Any, refusal: str) -> None:
    with pytest.raises(InputError) as error:
        read({"messages": messages, "answer": "5"})
    assert "line 1, field `messages`: expected " in str(error.value)
    assert refusal in str(error.value)


# --- two columns for one role ----------------------------------------------------------------------------------------

ROW = {"prompt": "q", "completion": "c", "answer": "5"}


@pytest.mark.parametrize(
    ("row", "first", "second", "role"),
    [
        ({**ROW, "gold": "6"}, "answer", "gold", "answer"),
        ({**ROW, "ground_truth": "x\n#### 6"}, "answer", "ground_truth", "answer"),
        ({**ROW, "question": "r"}, "prompt", "question", "prompt"),
        ({**ROW, "response": "d"}, "completion", "response", "completion"),
        ({**ROW, "solution": "reference"}, "completion", "solution", "completion"),
        ({**ROW, "reward": 1, "score": 0.7}, "reward", "score", "reward"),
        ({**ROW, "messages": [user("q"), assistant("d")]}, "completion", "messages", "completion"),
        ({**ROW, "completions": ["c", "d"]}, "completion", "completions", "completion"),
        ({"prompt": "q", "responses": ["c"], "outputs": ["d"], "answer": 5}, "responses", "outputs", "completion"),
        (
            {"prompt": "q", "completions": ["c"], "rewards": [1], "is_correct": [0]},
            "rewards", "is_correct", "reward",
        ),
        (
            {"instruction": "Add.", "input": "2, 3", "output": "5", "answer": 5, "score": 1},
            "instruction", "input", "prompt",
        ),
        ({**OPENR1, "gold": "6"}, "answer", "gold", "answer"),
        ({"instruction": "Add.", "input": "2 and 3", "output": "5", "answer": 5}, "instruction", "input", "prompt"),
    ],
)  # fmt: skip
def test_two_columns_for_one_role_are_refused_with_both_and_the_setting_decides(
    read: Read, row: dict[str, Any], first: str, second: str, role: str
) -> None:
    with pytest.raises(InputError) as error:
        read(row)
    assert f"line 1: `{first}` and `{second}` differ and either could be the " in str(error.value)
    assert str(error.value).endswith(f"--set rollouts.fields.{role}={first}")
    if role != "prompt" or row.get("output") is None:
        _, said = read(row, **{role: first})
        assert first in said[f"read_{role}"]
        assert second in said["not_read"]


@pytest.mark.parametrize("gold", ["5", 5, "so it is\n#### 5", None, "x\nA: 5"])
def test_two_columns_that_say_the_same_are_no_question(read: Read, gold: Any) -> None:
    assert read({**ROW, "gold": gold})[0]["answer"].to_list() == ["5"]


def test_our_own_rollouts_have_a_reward_and_the_one_that_was_given(read: Read) -> None:
    own = {"problem_id": "a", "rollout_id": 0, **ROW, "reward": 1.0, "given_reward": 0.0, "response": "not ours"}
    frame, said = read(own)
    assert (frame["reward"].to_list(), said["layout"]) == ([1.0], "colinear")


# --- columns that the user names --------------------------------------------------------------------------------------


def test_any_columns_are_read_where_they_are_named(read: Read) -> None:
    row = {
        "frage": "q",
        "texte": ["a", "b"],
        "urteil": [1, 0],
        "loesung": {"wert": 5.0},
        "nr": 3,
        "ende": ["stop", "x"],
    }
    names = {"prompt": "frage", "completions": "texte", "reward": "urteil", "answer": "loesung.wert", "id": "nr"}
    frame, said = read(row, **names)
    assert frame.select("problem_id", "prompt", "completion", "answer", "reward").rows() == [
        ("3", "q", "a", "5.0", 1.0), ("3", "q", "b", "5.0", 0.0)
    ]  # fmt: skip
    assert said == {
        "layout": "rollouts.fields", "read_prompt": "frage", "read_completion": "texte", "read_reward": "urteil",
        "read_answer": "loesung.wert", "not_read": "ende", "not_read_inside": "nothing",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"field `ende\[1\]|finish_reason`: expected .* got 'x'"):
        read(row, **names, finish_reason="ende")


def test_a_named_column_may_hold_one_completion_a_list_or_messages(read: Read) -> None:
    for told in ("a", ["a"], [assistant("a")]):
        assert rollouts(read({"prompt": "q", "x": told, "answer": 5}, completion="x")[0])[0][:2] == ("q", "a")


def test_named_pairs_and_named_columns_of_objects(read: Read) -> None:
    frame, _ = read({"q": "q", "win": "a", "lose": "b"}, prompt="q", chosen="win", rejected="lose")
    assert frame["reward"].to_list() == [1.0, 0.0]
    objects = [{"text": "a", "ok": True, "reward": 0}, {"text": "b", "ok": False, "reward": 1}]
    assert read({"prompt": "q", "completions": objects}, reward="ok")[0]["reward"].to_list() == [1.0, 0.0]


def test_a_named_column_that_no_row_has_is_refused(read: Read) -> None:
    with pytest.raises(
        InputError, match=r"^rollouts\.fields\.reward: no row of .*jsonl has a value .* 'rewrd'; its col"
    ):
        read({**ROW, "reward": 1}, reward="rewrd")
    with pytest.raises(InputError, match=r"line 1, field `txt`: expected the completion .*\(columns: prompt, comp"):
        read(ROW, completion="txt")


def test_an_empty_name_leaves_a_role_to_nobody(read: Read) -> None:
    frame, said = read({**ROW, "score": 0.7}, reward="")
    assert (frame["reward"].to_list(), said["read_reward"], said["not_read"]) == ([None], "nothing", "score")


# --- finish reasons, numbers, log-probabilities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("eos_token", "stop"), ("STOP", "stop"), ("stop_sequence", "stop"), ("end_turn", "stop"), ("eos", "stop"),
        ("max_tokens", "length"), ("MAX_TOKENS", "length"), ("length", "length"), ("FINISH_REASON_STOP", "stop"),
        ({"type": "length", "length": 512}, "length"),
    ],
)  # fmt: skip
def test_what_others_call_the_end_of_a_completion(read: Read, given: Any, ours: str) -> None:
    assert read({**ROW, "finish_reason": given})[0]["finish_reason"].to_list() == [ours]


def test_no_finish_reason_means_two_things() -> None:
    assert not {*FINISHED["stop"]} & {*FINISHED["length"]}


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.00001, "0.00001"), (1e22, "1" + 22 * "0"), (2.5e-7, "0.00000025"), (120.0, "120.0"), (-1.5, "-1.5"), (7, "7"),
     (6.02e23, "602" + 21 * "0")],
)  # fmt: skip
def test_a_reference_answer_that_is_a_number_has_no_exponent(
    read: Read, tmp_path: Path, number: float, text: str
) -> None:
    from tasks.problems.files import read_problems

    assert read({**ROW, "answer": number})[0]["answer"].to_list() == [text]
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": number}))
    assert read_problems(file)["answer"].to_list() == [text]


def test_log_probabilities_as_openai_says_them(read: Read) -> None:
    content = [{"token": "a", "logprob": -0.25}, {"token": "b", "logprob": -1.0}]
    assert read({**ROW, "logprobs": {"content": content}})[0]["logprobs"].to_list() == [[-0.25, -1.0]]


# --- a template inside a template ------------------------------------------------------------------------------------

RENDERED = [
    "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>",
    "[INST] q [/INST]",
    "<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n",
    "<\uff5cUser\uff5c>q<\uff5cAssistant\uff5c>",
    "system\nYou are helpful.\nuser\nq\nassistant\n",  # decoded without special tokens, as verl dumps it
    "user\nq\nassistant\n<think>\n",
    "A conversation.\nUser: q\nAssistant:",
    "### Instruction:\nq\n\n### Response:\n",
]


@pytest.mark.parametrize("prompt", RENDERED)
def test_a_prompt_that_was_rendered_already_is_refused(read: Read, prompt: str) -> None:
    with pytest.raises(InputError) as error:
        read({**ROW, "answer": 5}, {**ROW, "prompt": prompt})
    text = str(error.value)
    assert "line 2, field `prompt`: expected the bare question, got a rendered chat template (with '" in text
    assert "rollouts.fields.prompt" in text
    assert "model.prompt_template={question}" in text
    assert "\n" not in text
    with pytest.raises(InputError, match="rendered chat template"):
        read({"messages": [user(prompt), assistant("a")], "answer": 5})


def test_a_rendered_prompt_beside_its_bare_question_names_that_column(read: Read) -> None:
    row = {**ROW, "prompt": RENDERED[0], "question": "q"}
    with pytest.raises(InputError, match=r"field `prompt`: .*<\|im_start\|>.*\(rollouts\.fields\.prompt=question\)"):
        read(row)
    assert read(row, prompt="question")[0]["prompt"].to_list() == ["q"]


def test_rendered_prompts_are_taken_where_nothing_is_rendered(tmp_path: Path) -> None:
    assert marks_of("{question}") == ()
    assert {*MARKS} <= {*marks_of(None)} == {*marks_of("Q: {question}")}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({**ROW, "prompt": RENDERED[0]}))
    assert read_rollouts(file, control=marks_of("{question}"))["prompt"].to_list() == [RENDERED[0]]


@pytest.mark.parametrize(
    "prompt",
    ["Is |x|<1 or |x|>1?", "A user\nasks an assistant\nwhat 2 + 3 is.", "Let <x, y> be [I, N, S, T].", "a<b>c"],
)
def test_questions_that_only_look_a_little_like_it_are_not_refused(read: Read, prompt: str) -> None:
    assert read({**ROW, "prompt": prompt})[0]["prompt"].to_list() == [prompt]


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_document_has_every_layout_as_it_is_in_the_code() -> None:
    said = (Path(__file__).parents[3] / "docs" / "own-data.md").read_text(encoding="utf-8")
    for layout in LAYOUTS:
        assert table_row(layout) in said, f"docs/own-data.md lacks:\n{table_row(layout)}"
    for ours, names in FINISHED.items():
        assert f"| `{ours}` | {', '.join(f'`{name}`' for name in names)} |" in said


def table_row(layout: Any) -> str:
    """A line of the table in docs/own-data.md."""
    marks = ", ".join(f"`{name}`" for name in layout.marks) or "none: whatever is not one of the above"
    roles = "; ".join(
        f"{role.replace('_', ' ')}: {', '.join(f'`{name}`' for name in names)}"
        + (" (the first that has a value)" if role in layout.ordered and len(names) > 1 else "")
        for role, names in layout.roles.items()
        if names
    )
    return f"| {layout.name} | {marks} | {roles} | {layout.about} |"
