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

from tasks.contracts import COMPLETIONS, PROBLEMS, ROLLOUTS, InputError
from tasks.engines.interface import seed_of
from tasks.engines.journal import read_lines
from tasks.models.load import load_model, load_tokenizer
from tasks.models.prompts import completion_ids, prompt_ids
from tasks.problems.synthetic import instruct
from tasks.rollouts.files import heldout_split
from tasks.rollouts.own import taught_rollouts
from tasks.rollouts.prompts import chosen_prompts, split_prompts
from tasks.rollouts.sample import sample_completions, sample_world
from tasks.rollouts.teacher import check_teacher, tokenizer_digest
from tasks.specs import RolloutSpec

SPEC = RolloutSpec(problems="-", teacher="-", k=3, max_new_tokens=12, temperature=0.8, seed=5)
NAMES = ("a", "b", "long")


def problems(folder: Path, *questions: str, split: str = "s") -> Path:
    rows = [(name, split, question, "4", None) for name, question in zip(NAMES, questions, strict=False)]
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(folder / "problems.parquet")
    return folder / "problems.parquet"


def sample(teacher: Path, tmp_path: Path, *questions: str, spec: RolloutSpec = SPEC) -> tuple[dict[str, Any], Path]:
    out = tmp_path / "completions"
    out.mkdir(exist_ok=True)
    file = problems(tmp_path, *questions)
    return sample_completions(problems=file, teacher=teacher, spec=spec, journal=tmp_path / "j", out=out), out


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
        "rows": 6, "problems": 2, "too_long_for_teacher": 1, "truncated": cut, "with_ids": 6, "with_logprobs": 6
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
        arguments = {"prompt_template": None, "pad_token": None, "max_length": None, **changes}
        summary = taught_rollouts(
            completions=completions, heldout=tmp_path / "heldout.parquet", base=base, out=out, **arguments
        )
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
    tokenizer = load_tokenizer(other)
    for text, ids, finish in found.select("completion", "completion_ids", "finish_reason").iter_rows():
        assert ids == completion_ids(tokenizer, text, closed=finish == "stop")
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
