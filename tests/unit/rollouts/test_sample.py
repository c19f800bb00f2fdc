"""From problems to rollouts of a teacher of one's own: asked, resumed, and given to a base in its own tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.frames import COMPLETIONS, PROBLEMS, ROLLOUTS
from tasks.core.results import LocalBase
from tasks.core.sections import RolloutSpec
from tasks.engines.interface import Completion, seed_of
from tasks.engines.journal import read_lines
from tasks.grading import grade
from tasks.models.load import load_model, load_tokenizer
from tasks.models.prompts import prompt_ids
from tasks.models.tokenizer import tokenizer_digest
from tasks.models.turn import open_turn
from tasks.problems.synthetic import instruct
from tasks.rollouts.files import heldout_split
from tasks.rollouts.own import taught_rollouts
from tasks.rollouts.prompts import chosen_prompts, prompts_key, split_prompts
from tasks.rollouts.sample import (
    joined,
    sample_completions,
    sample_world,
    without_truncated_world,
    world_rollouts_key,
)
from tasks.rollouts.teacher import check_teacher, journal_file
from tasks.workers.devices import Slot
from tests.lab.openai_server import Say, Server, chat, echo, serving

SPEC = RolloutSpec(problems="-", teacher="-", k=3, max_new_tokens=12, temperature=0.8, seed=5)
NAMES = ("a", "b", "long")


def problems(folder: Path, *questions: str, split: str = "s") -> Path:
    rows = [(name, split, question, "4", None) for name, question in zip(NAMES, questions, strict=False)]
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(folder / "problems.parquet")
    return folder / "problems.parquet"


def sample(
    teacher: Path, tmp_path: Path, *questions: str, spec: RolloutSpec = SPEC, instruction: str | None = None
) -> tuple[dict[str, Any], Path]:
    out = tmp_path / "completions"
    out.mkdir(exist_ok=True)
    file = problems(tmp_path, *questions)
    return sample_completions(
        problems=file, teacher=teacher, spec=spec, journal=tmp_path / "j", out=out, instruction=instruction
    ), out


def same(a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Equal but for what another batch's padding does to the last bits of the log-probabilities."""
    assert a.drop("logprobs").equals(b.drop("logprobs"))
    assert a["logprobs"].explode().to_list() == pytest.approx(b["logprobs"].explode().to_list(), abs=1e-5)


def test_each_problem_is_asked_k_times_with_seeds_of_its_own(base_model: Path, tmp_path: Path) -> None:
    summary, out = sample(base_model, tmp_path, "1+1?", "2+2?", "x" * 60)
    found = pl.read_parquet(out / "completions.parquet")
    assert dict(found.schema) == COMPLETIONS
    assert found.select("problem_id", "rollout_id").rows() == [(name, i) for name in "ab" for i in range(3)]
    assert found["seed"].to_list() == [seed_of(5, name, i) for name in "ab" for i in range(3)]
    assert found["completion"].n_unique() == 6
    cut = found.filter(finish_reason="length").height
    assert summary == {
        "rows": 6, "problems": 2, "too_long_for_teacher": 1, "truncated": cut, "with_ids": 6, "with_logprobs": 6,
        "refused": 0, "refused_problems": "", "with_reasoning": 0, "reasoning": "drop",
    }  # fmt: skip
    model, tokenizer = load_model(base_model), load_tokenizer(base_model)
    for row in found.iter_rows(named=True):
        prompt = prompt_ids(tokenizer, row["prompt"])
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *row["completion_ids"]]])
            logits = model(input_ids=whole).logits[0, len(prompt) - 1 : -1].double()
        of_tokens = torch.log_softmax(logits / 0.8, -1).gather(1, torch.tensor(row["completion_ids"])[:, None])[:, 0]
        assert row["logprobs"] == pytest.approx(of_tokens.tolist(), abs=1e-4)


def test_a_row_does_not_depend_on_which_others_are_sampled(base_model: Path, tmp_path: Path) -> None:
    _, out = sample(base_model, tmp_path, "1+1?", "2+2?")
    both = pl.read_parquet(out / "completions.parquet").filter(pl.col("problem_id") == "a", pl.col("rollout_id") < 2)
    (tmp_path / "j").unlink()
    _, out = sample(base_model, tmp_path, "1+1?", spec=SPEC.model_copy(update={"k": 2}))
    same(pl.read_parquet(out / "completions.parquet"), both)


def test_what_the_journal_has_is_not_asked_again(base_model: Path, tmp_path: Path) -> None:
    _, out = sample(base_model, tmp_path, "1+1?", "2+2?")
    whole = pl.read_parquet(out / "completions.parquet")
    lines = list(read_lines(tmp_path / "j"))
    assert len(lines) == 6
    lines[0]["text"] = "kept"  # told apart from what would be sampled anew
    (tmp_path / "j").write_text("".join(f"\n{json.dumps(line)}" for line in lines[:4]) + '\n{"id": "[\\"b')
    _, out = sample(base_model, tmp_path, "1+1?", "2+2?")
    again = pl.read_parquet(out / "completions.parquet")
    changed = again.filter(completion="kept")
    assert changed.height == 1
    same(again.drop("completion"), whole.drop("completion"))
    assert len(list(read_lines(tmp_path / "j"))) == 6


def test_no_problem_that_fits_is_refused(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^rollouts\.max_new_tokens: with 12 tokens for an answer none of the 1 "):
        sample(base_model, tmp_path, "x" * 60)


@pytest.fixture
def taught(base_model: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], pl.DataFrame]]:
    """What a base makes of the completions of `base_model`."""
    _, completions = sample(base_model, tmp_path, "1+1?", "2+2?")
    problems(tmp_path, "held?", split="heldout").rename(tmp_path / "heldout.parquet")

    def run(base: Path = base_model, **changes: Any) -> tuple[dict[str, Any], pl.DataFrame]:
        out = tmp_path / "rollouts"
        out.mkdir(exist_ok=True)
        of_base = {name: changes.pop(name) for name in [*changes] if name in LocalBase.__dataclass_fields__}
        summary = taught_rollouts(
            completions=completions, heldout=tmp_path / "heldout.parquet", base=LocalBase(base, **of_base), out=out,
            **changes,
        )  # fmt: skip
        assert pl.read_parquet(out / "heldout.parquet")["question"].to_list() == ["held?"]
        return summary, pl.read_parquet(out / "rollouts.parquet")

    return run


def test_one_tokenizer_keeps_the_teachers_ids_and_logprobs(taught: Any, tmp_path: Path, base_model: Path) -> None:
    said = pl.read_parquet(tmp_path / "completions" / "completions.parquet")
    summary, found = taught(prompt_template="Q: {question}\n")
    assert dict(found.schema) == ROLLOUTS
    assert found["completion_ids"].equals(said["completion_ids"])
    assert found["logprobs"].equals(said["logprobs"])
    prompts = [prompt_ids(load_tokenizer(base_model), prompt, "Q: {question}\n") for prompt in said["prompt"]]
    assert found["prompt_ids"].to_list() == prompts
    assert (summary["shared_tokenizer"], summary["exact_ids"], summary["with_logprobs"]) == (True, 6, 6)


def test_another_tokenizer_takes_the_texts(taught: Any, tmp_path: Path, base_model: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base_model, other)
    file = json.loads((other / "tokenizer.json").read_text())
    vocabulary = file["model"]["vocab"]
    vocabulary["4"], vocabulary["7"] = vocabulary["7"], vocabulary["4"]
    (other / "tokenizer.json").write_text(json.dumps(file))
    summary, found = taught(other)
    turn = open_turn(other)
    for text, ids, finish in found.select("completion", "completion_ids", "finish_reason").iter_rows():
        assert ids == turn.answer(text, closed=finish == "stop")
    assert found["logprobs"].null_count() == 6
    assert (summary["shared_tokenizer"], summary["exact_ids"], summary["with_logprobs"]) == (False, 0, 0)


def test_a_tokenizer_is_told_by_what_it_does_not_by_its_template(variant: Any, base_model: Path) -> None:
    same = variant("same", chat_template="{{ messages }}", padding_side="left")
    other = variant("other", eos_token="<unk>")
    digest = tokenizer_digest(load_tokenizer(base_model))
    assert tokenizer_digest(load_tokenizer(same)) == digest
    assert tokenizer_digest(load_tokenizer(other)) != digest  # answers would end otherwise


def test_truncated_completions_are_kept_or_dropped(taught: Any) -> None:
    kept, rows = taught()
    dropped = rows.filter(finish_reason="length").height
    assert kept["dropped_truncated"] == 0
    if dropped == rows.height:
        with pytest.raises(InputError, match=r"^rollouts\.truncated: all 6 completions were cut"):
            taught(truncated="drop")
    else:
        summary, rest = taught(truncated="drop")
        assert (summary["dropped_truncated"], rest.height) == (dropped, 6 - dropped)


def test_the_embedded_world_asks_in_the_teachers_style_and_keeps_the_plain_prompt(
    base_model: Path, tmp_path: Path
) -> None:
    spec = RolloutSpec(k=2, max_new_tokens=4)
    file = problems(tmp_path, "1+1?", split="rollouts")
    monkey = prompt_ids(load_tokenizer(base_model), instruct("1+1?"))
    sample_world(teacher=base_model, student=base_model, problems=file, spec=spec, journal=tmp_path / "j", out=tmp_path)
    found = pl.read_parquet(tmp_path / "rollouts.parquet")
    assert found["prompt_ids"].to_list() == [prompt_ids(load_tokenizer(base_model), "1+1?")] * 2
    model = load_model(base_model)
    first = found["completion_ids"][0][0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([monkey])).logits[0, -1].double()
    assert found["logprobs"][0][0] == pytest.approx(float(torch.log_softmax(logits, -1)[first]), abs=1e-4)


# --- an endpoint ------------------------------------------------------------------------------------------------------

MANY = 40


def asked_of(server: Server, tmp_path: Path, n: int = MANY, **settings: Any) -> tuple[dict[str, Any], pl.DataFrame]:
    """The completions of n problems' ``k`` requests to a server."""
    rows = [(f"p{i}", "s", f"question {i}", "4", None) for i in range(n)]
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(tmp_path / "problems.parquet")
    spec = RolloutSpec(engine="openai", endpoint=server.url, teacher="m", key_env=None, problems="-", **settings)
    summary = sample_completions(
        problems=tmp_path / "problems.parquet", teacher=None, spec=spec, journal=journal_file(spec, None), out=tmp_path
    )
    return summary, pl.read_parquet(tmp_path / "completions.parquet")


@pytest.mark.usefixtures("state")
def test_refused_requests_are_left_out_and_named(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script = [Say(400, '{"error": {"message": "flagged"}}')] * 2
        summary, found = asked_of(server, tmp_path, k=1, concurrency=1)
        assert (summary["refused"], summary["refused_problems"], summary["rows"]) == (2, "p0, p1", MANY - 2)
        assert found["problem_id"].to_list() == [f"p{i}" for i in range(2, MANY)]
        asked = len(server.asked)
        again, _ = asked_of(server, tmp_path, k=1)  # they may be answered now; the others are not asked again
        assert (again["refused"], again["rows"], len(server.asked)) == (0, MANY, asked + 2)


@pytest.mark.usefixtures("state")
def test_too_many_refusals_end_it_at_once(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.script = [Say(422, '{"error": {"message": "no such field"}}')] * MANY
        with pytest.raises(InputError) as error:
            asked_of(server, tmp_path, k=1, concurrency=1)
        assert str(error.value) == (
            "rollouts.problems: the endpoint refused 3 of 40 requests, the first, of problem p0, with HTTP 422 "
            "(no such field); leave such problems out, or check rollouts.extra and the sampling settings"
        )
        assert len(server.asked) < 6


@pytest.mark.usefixtures("state")
def test_more_completions_and_other_problems_cost_only_what_is_new(tmp_path: Path) -> None:
    with serving(echo) as server:
        _, first = asked_of(server, tmp_path, 3, k=2)
        assert len(server.asked) == 6
        _, more = asked_of(server, tmp_path, 5, k=4)
        assert len(server.asked) == 20
        assert more.join(first, on=["problem_id", "rollout_id"], how="semi").equals(first)
        asked_of(server, tmp_path, 5, k=3, reasoning="join", prompts=7)
        assert len(server.asked) == 20
        asked_of(server, tmp_path, 1, k=1, temperature=0.5)  # another distribution
        assert len(server.asked) == 21


@pytest.mark.usefixtures("state")
def test_one_id_of_two_questions_is_two_requests(tmp_path: Path) -> None:
    with serving(echo) as server:
        spec = RolloutSpec(engine="openai", endpoint=server.url, teacher="m", key_env=None, problems="-", k=1)
        for question in ("1+1?", "2+2?"):
            sample_completions(
                problems=problems(tmp_path, question), teacher=None, spec=spec, journal=tmp_path / "j", out=tmp_path
            )
            found = pl.read_parquet(tmp_path / "completions.parquet")["completion"].to_list()
            assert found == [f"said {question}"]


def thinking(body: dict[str, Any]) -> dict[str, Any]:
    answer = chat("It is 4.")
    answer["choices"][0]["message"]["reasoning_content"] = "2 and 2\n"
    return answer


@pytest.mark.usefixtures("state")
def test_reasoning_is_dropped_and_counted_or_joined_at_no_further_cost(tmp_path: Path) -> None:
    with serving(thinking) as server:
        summary, found = asked_of(server, tmp_path, 2, k=1)
        assert found["completion"].to_list() == ["It is 4."] * 2
        assert (summary["with_reasoning"], summary["reasoning"]) == (2, "drop")
        summary, found = asked_of(server, tmp_path, 2, k=1, reasoning="join")
        assert found["completion"].to_list() == ["<think>\n2 and 2\n</think>\n\nIt is 4."] * 2
        assert (summary["with_reasoning"], summary["reasoning"]) == (2, "join")
        assert len(server.asked) == 2


def test_thinking_that_was_cut_is_not_closed() -> None:
    assert joined(Completion("", None, None, "length", "so")) == "<think>\nso"
    assert joined(Completion("x", None, None, "length", "so")) == "<think>\nso\n</think>\n\nx"
    assert joined(Completion("x", None, None, "stop")) == "x"


@pytest.mark.slow
@pytest.mark.usefixtures("state")
def test_logprobs_are_asked_for_only_with_tokens(base_model: Path, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"text": "4", "finish_reason": "stop", "token_ids": [1],
                             "logprobs": {"token_logprobs": [-0.5]}}]}  # fmt: skip

    with serving(echo) as server:
        asked_of(server, tmp_path, 2, k=1)
        assert not [body for body in server.asked if "logprobs" in body]
    with serving(answer) as server:
        _, found = asked_of(server, tmp_path, 2, k=1, teacher_tokenizer=str(base_model))
        assert [body["logprobs"] for body in server.asked] == [0, 0]
        assert found["logprobs"].to_list() == [[-0.5], [-0.5]]


# --- what decides a stage ---------------------------------------------------------------------------------------------


def test_the_worlds_rollouts_know_their_device_and_engine_and_not_what_becomes_of_cut_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def digest(**settings: Any) -> str:
        return world_rollouts_key(RolloutSpec(**settings), "w", "p").digest

    first = digest()
    assert digest(truncated="drop") == first
    monkeypatch.setattr("tasks.rollouts.sample.slots", lambda: [Slot("gpu", "0", 1)])
    assert digest() != first
    monkeypatch.setattr("tasks.rollouts.sample.engine_identity", lambda engine: f"{engine} 0.30.0")
    old = digest(engine="vllm")
    monkeypatch.setattr("tasks.rollouts.sample.engine_identity", lambda engine: f"{engine} 0.31.0")
    assert digest(engine="vllm") != old


def test_the_worlds_cut_rollouts_are_left_out_of_what_was_sampled(base_model: Path, tmp_path: Path) -> None:
    spec = RolloutSpec(k=8, max_new_tokens=20)
    file = problems(tmp_path, "1+1?", split="rollouts")
    sample_world(teacher=base_model, student=base_model, problems=file, spec=spec, journal=tmp_path / "j", out=tmp_path)
    whole = pl.read_parquet(tmp_path / "rollouts.parquet")
    if whole["finish_reason"].n_unique() == 1:
        whole = whole.with_columns(finish_reason=pl.Series(["stop", "length"] * 4))
        whole.write_parquet(tmp_path / "rollouts.parquet")
    (tmp_path / "rest").mkdir()
    summary = without_truncated_world(rollouts=tmp_path / "rollouts.parquet", out=tmp_path / "rest")
    rest = pl.read_parquet(tmp_path / "rest" / "rollouts.parquet")
    assert rest.equals(whole.filter(finish_reason="stop"))
    assert summary["dropped_truncated"] == 8 - rest.height > 0


def test_prompts_are_of_the_grader_that_read_their_golds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = pl.read_parquet(problems(tmp_path, "1+1?"))
    before = prompts_key(chosen, 0.0).digest
    assert prompts_key(chosen, 0.0).digest == before
    monkeypatch.setattr(grade, "GRADER", "another", raising=False)
    assert prompts_key(chosen, 0.0).digest != before


# --- which problems ---------------------------------------------------------------------------------------------------


def prompts(tmp_path: Path, n: int, holdout: float, *rows: dict[str, Any], **settings: Any) -> dict[str, Any]:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded, chosen = chosen_prompts(RolloutSpec(problems=str(file), prompts=n, **settings))
    return split_prompts(loaded=loaded, chosen=chosen, holdout=holdout, out=tmp_path)


def test_prompts_are_chosen_split_and_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    rows = [{"q": f"question {i}?", "answer": str(i)} for i in range(20)]
    extra = [{"q": "no gold", "answer": None}, rows[3], {"q": "odd gold", "answer": "{"}]
    summary = prompts(tmp_path, 100, 0.25, *rows, *extra, fields={"question": "q"})
    asked, held = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("asked", "heldout"))
    ids = [*asked["problem_id"], *held["problem_id"]]
    assert set(held["problem_id"]) == heldout_split(ids, 0.25)
    assert held["split"].unique().to_list() == ["heldout"]
    assert {*asked["question"], *held["question"]} == {row["q"] for row in rows}
    assert summary == {
        "source": "mine.jsonl", "template": "{question}", "asked": 15, "heldout": 5, "unparsed_golds": 1,
        "without_gold": 1, "repeated": 1,
    }  # fmt: skip
    few = prompts(tmp_path, 6, 0.0, *rows[::-1], fields={"question": "q"})
    assert (few["asked"], few["heldout"]) == (6, 0)
    assert pl.read_parquet(tmp_path / "heldout.parquet").is_empty()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsm8k", "rollouts.problems: 'gsm8k' is there to be judged by; train on one of gsm8k-train, deepscaler"),
        ("deepscalr", "rollouts.problems: no benchmark 'deepscalr'; did you mean 'deepscaler'?"),
        ("none.jsonl", "none.jsonl: no such file"),
    ],
)
def test_a_set_that_cannot_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        chosen_prompts(RolloutSpec(problems=name))
    assert str(error.value).startswith(message)


def test_a_missing_column_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name its column in rollouts\.fields$"):
        prompts(tmp_path, 5, 0.0, {"q": "a?", "answer": "1"})


# --- who is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"chat_template": None}, {}, "rollouts.teacher_template: "),
        ({"eos_token": None}, {}, "rollouts.teacher: the tokenizer of "),
        ({}, {"teacher_template": "none"}, "rollouts.teacher_template: expected {question} exactly once, got 'none'"),
        ({}, {"max_new_tokens": 64}, "rollouts.max_new_tokens: 64 tokens leave no room for a prompt in the teacher's "),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_refused(
    variant: Any, base_model: Path, changes: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    teacher = variant("teacher", **changes)
    with pytest.raises(InputError) as error:
        check_teacher(spec=SPEC.model_copy(update=settings), folder=teacher, base=base_model, pad_token=None)
    assert str(error.value).startswith(message)


def test_a_teacher_needs_no_pad_token_and_a_damaged_one_is_named(
    variant: Any, base_model: Path, tmp_path: Path
) -> None:
    plain = variant("plain", pad_token=None)
    assert check_teacher(spec=SPEC, folder=plain, base=base_model, pad_token=None) == {"tokens": True}
    spec = SPEC.model_copy(update={"engine": "openai", "endpoint": "http://h/v1"})
    assert check_teacher(spec=spec, folder=None, base=base_model, pad_token=None) == {"tokens": False}
    missing = spec.model_copy(update={"teacher_tokenizer": str(tmp_path / "none")})
    with pytest.raises(InputError, match=r"^rollouts\.teacher_tokenizer: no tokenizer is to be had from "):
        check_teacher(spec=missing, folder=None, base=base_model, pad_token=None)


def test_a_teacher_is_asked_with_the_instruction_and_the_question_stays_bare(base_model: Path, tmp_path: Path) -> None:
    from tasks.models.turn import open_turn
    from tasks.rollouts.teacher import completions_key

    _, out = sample(base_model, tmp_path, "1+1?", instruction="Be brief.")
    assert pl.read_parquet(out / "completions.parquet")["prompt"].unique().to_list() == ["1+1?"]
    (tmp_path / "other").mkdir()
    _, plain = sample(base_model, tmp_path / "other", "1+1?\nBe brief.")
    asked, said = (pl.read_parquet(folder / "completions.parquet")["completion"] for folder in (plain, out))
    assert said.equals(asked)  # one prompt and one seed each
    assert len(open_turn(base_model).prompt("1+1?\nBe brief.")) == len(open_turn(base_model).prompt("1+1?")) + 10
    keys = [completions_key(SPEC, "p", None, one).digest for one in (None, "Be brief.", "Be long.")]
    assert len({*keys, completions_key(SPEC, "p", None).digest}) == 3
