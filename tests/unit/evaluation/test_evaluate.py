"""The evaluation engine on a random model of one layer: what it answers is nonsense, but always the same nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from tasks.core.errors import InputError, StageError
from tasks.core.frames import ITEMS, PROBLEMS
from tasks.core.results import LocalBase, RunInfo, no_progress
from tasks.core.sections import EvaluationSpec
from tasks.engines.journal import append_lines
from tasks.evaluation import evaluate as module
from tasks.evaluation.accuracy import mcnemar_table
from tasks.evaluation.evaluate import Asked, collect, evaluate_models, rows_of, seed_of
from tasks.evaluation.together import writer

N = 7
SPEC = EvaluationSpec(max_new_tokens=8, batch_size=16, samples=2, temperature=0.9)


@pytest.fixture(scope="module")
def adapters(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters with large random updates, so that all three models answer differently."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32), config)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if "lora_B" in key:
                    value.normal_()
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(f"p{i}", "heldout", f"What is {'1' * i}?", str(i), f"It is {i}") for i in range(N - 1)]
    rows += [("q", "other", "Why?", "no", None), ("r", "rollouts", "Not this one", "1", None)]
    path = tmp_path_factory.mktemp("problems") / "problems.parquet"
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(path)
    return path


def info(name: str) -> RunInfo:
    return RunInfo(name, name, 0, 0, 1e-3)


def evaluate(
    base: Path, problems: Path, out: Path, asked: list[Asked], share: tuple[int, int] = (0, 1), **changes: Any
) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    partials = [out / one.info.run for one in asked]
    for partial in partials:
        partial.mkdir(parents=True, exist_ok=True)
    summary = evaluate_models(
        base=LocalBase(base), asked=asked, partials=partials, problems=problems, spec=SPEC.model_copy(update=changes),
        share=share,
    )  # fmt: skip
    known = pl.read_parquet(problems)
    return summary, {one.info.run: collect(partial, known) for one, partial in zip(asked, partials, strict=True)}


@pytest.fixture(scope="module")
def asked(adapters: dict[str, Path]) -> list[Asked]:
    return [Asked(info("base")), *(Asked(info(name), folder) for name, folder in adapters.items())]


@pytest.fixture(scope="module")
def together(
    base_model: Path, problems: Path, asked: list[Asked], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pl.DataFrame]:
    return evaluate(base_model, problems, tmp_path_factory.mktemp("together"), asked)[1]


def test_every_model_answers_every_problem_but_trainings_greedily_and_sampled(
    together: dict[str, pl.DataFrame],
) -> None:
    for name, items in together.items():
        assert dict(items.schema) == ITEMS
        assert items["run"].unique().to_list() == [name]
        assert items.select("benchmark", "problem_id", "sample").rows() == [
            *(("heldout", f"p{i}", sample) for i in range(N - 1) for sample in range(3)),
            *(("other", "q", sample) for sample in range(3)),
        ]
        assert items.filter(pl.col("sample") > 0)["answer_nll"].null_count() == 2 * N
        assert items.filter(pl.col("sample") == 0)["answer_nll"].null_count() == 0
    answers = [tuple(items["completion"]) for items in together.values()]
    assert len(set(answers)) == 3  # adapters change what is said, and none leaks into another's rows


def test_one_mixed_pass_is_the_models_one_after_another(
    base_model: Path, problems: Path, asked: list[Asked], together: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    for one in asked:
        _, alone = evaluate(base_model, problems, tmp_path / "alone", [one], batch_size=3)
        expected, found = together[one.info.run], alone[one.info.run]
        assert found.drop("answer_nll").equals(expected.drop("answer_nll"))
        assert (found["answer_nll"] - expected["answer_nll"]).abs().max() < 1e-4  # type: ignore[operator]


def test_an_adapters_loss_is_that_of_the_merged_model(
    base_model: Path, adapters: dict[str, Path], together: dict[str, pl.DataFrame]
) -> None:
    from tasks.models.load import load_model
    from tasks.models.score import sequence_nll
    from tasks.models.turn import open_turn

    turn = open_turn(base_model)
    prompts = [turn.prompt(f"What is {'1' * i}?") for i in range(N - 1)]
    targets = [turn.answer(f"It is {i}") for i in range(N - 1)]
    for name, folder in adapters.items():
        merged = sequence_nll(load_model(base_model, adapter=folder), prompts, targets, pad_id=0, batch_size=2)
        first = together[name].filter(pl.col("sample") == 0, pl.col("benchmark") == "heldout")
        assert first["answer_nll"].to_list() == pytest.approx(merged, rel=1e-5)


def test_shares_of_the_problems_add_up_to_the_whole(
    base_model: Path, problems: Path, asked: list[Asked], together: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    evaluate(base_model, problems, tmp_path, asked, share=(0, 2))
    _, found = evaluate(base_model, problems, tmp_path, asked, share=(1, 2))
    for name, items in together.items():
        assert found[name].drop("answer_nll").equals(items.drop("answer_nll"))


def test_a_pass_that_was_killed_goes_on_where_it_was(
    base_model: Path, problems: Path, asked: list[Asked], tmp_path: Path
) -> None:
    _, whole = evaluate(base_model, problems, tmp_path, asked)
    file = tmp_path / "first" / "0-1.jsonl"
    lines = file.read_text().split("\n")[1:]
    kept = [json.loads(line) for line in lines[:5]]
    kept[0]["completion"] = "as it was"
    file.unlink()
    append_lines(file, [{name: value for name, value in row.items() if name != "sha256"} for row in kept])
    with file.open("a") as half:
        half.write(f"\n{lines[5][:20]}\n")  # the sixth was half written
    before = {name: sum(1 for _ in rows_of(tmp_path / name)) for name in ("base", "second")}
    _, again = evaluate(base_model, problems, tmp_path, asked)
    assert {name: sum(1 for _ in rows_of(tmp_path / name)) for name in before} == before  # nothing twice
    assert again["first"].height == whole["first"].height
    changed = again["first"].filter(pl.col("completion") != whole["first"]["completion"])
    assert changed["completion"].to_list() == ["as it was"]  # what was there was not asked again


def test_answers_are_kept_as_they_end_and_not_when_all_have(
    base_model: Path, problems: Path, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With KEPT = 3 a process that dies at its eighth answer has lost two of them."""
    _, whole = evaluate(base_model, problems, tmp_path / "whole", asked)
    add, told = module._Ended.add, 0

    def dying(self: Any, place: int, answer: Any) -> None:
        nonlocal told
        told += 1
        if told == 9:
            raise StageError("killed")
        add(self, place, answer)

    monkeypatch.setattr(module, "KEPT", 3)
    monkeypatch.setattr(module._Ended, "add", dying)
    with pytest.raises(StageError, match="killed"):
        evaluate(base_model, problems, tmp_path / "again", asked)
    assert sum(1 for one in asked for _ in rows_of(tmp_path / "again" / one.info.run)) == 6
    told = -(10**9)
    _, again = evaluate(base_model, problems, tmp_path / "again", asked)
    for name, frame in whole.items():
        assert (
            again[name]
            .select("problem_id", "sample", "completion")
            .equals(frame.select("problem_id", "sample", "completion"))
        )


def test_a_half_written_last_line_does_not_swallow_the_next(
    base_model: Path, problems: Path, asked: list[Asked], tmp_path: Path
) -> None:
    evaluate(base_model, problems, tmp_path, asked)
    file = tmp_path / "first" / "0-1.jsonl"
    lines = file.read_text().split("\n")[1:]
    file.write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])  # killed in the middle of a write: no end of line
    _, again = evaluate(base_model, problems, tmp_path, asked)
    assert again["first"].height == 3 * N


def test_sampled_answers_differ_by_sample_and_not_by_batch(together: dict[str, pl.DataFrame]) -> None:
    base = together["base"]
    drawn = {sample: base.filter(pl.col("sample") == sample)["completion"].to_list() for sample in range(3)}
    assert drawn[1] != drawn[2]
    assert drawn[0] != drawn[1]
    seeds = {seed_of(0, "heldout", f"p{i}", sample) for i in range(100) for sample in range(10)}
    assert len(seeds) == 1000
    assert seed_of(0, "a", "bc", 1) != seed_of(0, "ab", "c", 1)
    assert max(seeds) < 2**63


def test_problems_that_do_not_fit_are_counted_and_none_that_fits_is_refused(
    base_model: Path, problems: Path, tmp_path: Path
) -> None:
    summary, found = evaluate(base_model, problems, tmp_path / "some", [Asked(info("base"))], max_new_tokens=45)
    assert summary["too_long"] == [2]  # prompts are 16 + i tokens, the context 64: 4 and 5 ones do not fit
    assert found["base"]["problem_id"].n_unique() == N - 2
    with pytest.raises(InputError, match=r"evaluation\.max_new_tokens: no problem fits"):
        evaluate(base_model, problems, tmp_path / "none", [Asked(info("base"))], max_new_tokens=64)


def test_what_a_model_is_asked_does_not_depend_on_its_company(base_model: Path, problems: Path, tmp_path: Path) -> None:
    """With max_new_tokens = 27 there is room for a prompt of 37 tokens; the instruction adds 19 to the 16 + i.

    So of the seven problems ("Why?" has 11 tokens) the base is asked all, and in the teacher's style all but the three
    of 3, 4 and 5 ones.
    """
    base, taught = Asked(info("base")), Asked(info("base-instructed"), instructed=True)
    _, alone = evaluate(base_model, problems, tmp_path / "alone", [base], max_new_tokens=27)
    summary, both = evaluate(base_model, problems, tmp_path / "both", [base, taught], max_new_tokens=27)
    assert summary["too_long"] == [0, 3]
    assert both["base"].drop("answer_nll").equals(alone["base"].drop("answer_nll"))
    assert both["base"]["problem_id"].unique(maintain_order=True).to_list() == [*(f"p{i}" for i in range(N - 1)), "q"]
    asked_too = both["base-instructed"]["problem_id"].unique(maintain_order=True).to_list()
    assert asked_too == ["p0", "p1", "p2", "q"]
    table = mcnemar_table(pl.concat(both.values()))  # pairs only the problems that both answered
    assert table.select("benchmark", "run_a", "run_b", "n").rows() == [
        ("heldout", "base", "base-instructed", 3),
        ("other", "base", "base-instructed", 1),
    ]
    with pytest.raises(InputError, match=r"evaluation\.max_new_tokens: no problem fits"):  # one model's, not nobody's
        evaluate(base_model, problems, tmp_path / "none", [base, taught], max_new_tokens=45)


def test_golds_that_cannot_be_read_are_counted_by_benchmark(base_model: Path, tmp_path: Path) -> None:
    rows = [("a", "one", "A?", "1", None), ("b", "one", "B?", "", None), ("c", "two", "C?", "2", None)]
    path = tmp_path / "problems.parquet"
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(path)
    summary, _ = evaluate(base_model, path, tmp_path, [Asked(info("base"))])
    assert summary == {"too_long": [0], "unparsed_golds": [{"one": 1, "two": 0}]}


def test_a_missing_answer_is_refused_before_the_partial_ones_are_forgotten(
    base_model: Path, problems: Path, tmp_path: Path
) -> None:
    evaluate(base_model, problems, tmp_path, [Asked(info("base"))])
    file = tmp_path / "base" / "0-1.jsonl"
    whole = file.read_text()
    file.write_text(whole.rpartition("\n")[0])
    write = writer(tmp_path / "base", problems, SPEC, 0, [{"heldout": 1}, {"heldout": 2, "other": 0}])
    with pytest.raises(StageError, match=r"20 answers are there, not the 21 that were asked for; run the study again"):
        write(tmp_path, no_progress)
    assert not (tmp_path / "items.parquet").exists()
    file.write_text(whole)
    summary = write(tmp_path, no_progress)
    assert {name: summary[name] for name in ("n", "too_long", "boxed_references")} == {
        "n": N, "too_long": 0, "boxed_references": 1,
    }  # fmt: skip
    assert (summary["heldout.unparsed_golds"], summary["other.unparsed_golds"]) == (3, 0)
    assert pl.read_parquet(tmp_path / "items.parquet").height == 3 * N
    assert not file.parent.exists()


def test_an_adapter_of_another_base_is_named(
    base_model: Path, problems: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "adapter_config.json").write_text((adapters["first"] / "adapter_config.json").read_text())
    tensors = load_file(adapters["first"] / "adapter_model.safetensors")
    save_file({name: value[:, :1].contiguous() for name, value in tensors.items()}, wrong / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"adapter wrong \(.*\) does not fit the base"):
        evaluate(base_model, problems, tmp_path / "out", [Asked(info("wrong"), wrong)])
