"""Evaluation through vLLM: one pass on a random model, and a whole study whose adapters it trained itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import polars as pl
import pytest

from tasks.core.errors import StageError
from tasks.core.frames import ITEMS, PROBLEMS
from tasks.core.results import LocalBase, RunInfo
from tasks.core.sections import EvaluationSpec
from tasks.engines.vllm import VllmEngine
from tasks.evaluation.evaluate import Asked, collect, evaluate_models, rows_of
from tests.lab.study_runs import Lab
from tests.lab.vllm_models import make_adapter, make_base, needs_vllm

pytestmark = needs_vllm

N = 40
SAMPLED = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def asked(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    folders = {name: make_adapter(base, tmp_path_factory.mktemp(name), seed) for seed, name in enumerate("ab")}
    return [Asked(info("base")), *(Asked(info(name), folder) for name, folder in folders.items())]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(f"p{i}", "heldout", f" wa{'abcdefghij'[i % 10]}" * (1 + i // 10), str(i), " wab wac") for i in range(N)]
    path = tmp_path_factory.mktemp("problems") / "problems.parquet"
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(path)
    return path


def info(name: str) -> RunInfo:
    return RunInfo(name, name, 0, 0, 1e-3)


def evaluate(base: Path, problems: Path, out: Path, asked: list[Asked], engine: str) -> dict[str, pl.DataFrame]:
    partials = [out / one.info.run for one in asked]
    for partial in partials:
        partial.mkdir(parents=True, exist_ok=True)
    evaluate_models(
        base=LocalBase(base), asked=asked, partials=partials, problems=problems, share=(0, 1),
        spec=EvaluationSpec(engine=engine, max_new_tokens=32, samples=SAMPLED, temperature=0.9, batch_size=32),
    )  # fmt: skip
    known = pl.read_parquet(problems)
    return {one.info.run: collect(partial, known) for one, partial in zip(asked, partials, strict=True)}


def test_an_evaluation_out_of_vllm_is_transformers_one_and_goes_on_after_a_kill(
    base: Path, problems: Path, asked: list[Asked], tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers and losses are equal; samples are drawn otherwise, from the same distribution.

    The engine is killed after 100 of its 360 answers; those stay, and the second pass asks for the others only.
    """
    complete = VllmEngine.complete
    asked_for: list[int] = []

    def killed(self: VllmEngine, requests, sampling, deliver) -> None:  # type: ignore[no-untyped-def]
        count = 0

        def counting(request, completion) -> None:  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            deliver(request, completion)
            if count == 100:
                assert self.pid is not None
                os.kill(self.pid, signal.SIGKILL)

        complete(self, requests, sampling, counting)

    def counted(self: VllmEngine, requests, sampling, deliver) -> None:  # type: ignore[no-untyped-def]
        asked_for.append(len(requests))
        complete(self, requests, sampling, deliver)

    monkeypatch.setattr(VllmEngine, "complete", killed)
    with pytest.raises(StageError, match="SIGKILL"):
        evaluate(base, problems, tmp_path / "vllm", asked, "vllm")
    there = sum(1 for one in asked for _ in rows_of(tmp_path / "vllm" / one.info.run))
    assert 100 <= there < 3 * N
    monkeypatch.setattr(VllmEngine, "complete", counted)
    found = evaluate(base, problems, tmp_path / "vllm", asked, "vllm")
    assert asked_for == [3 * N - there, 3 * N * SAMPLED]

    expected = evaluate(base, problems, tmp_path / "transformers", asked, "transformers")
    for name, items in found.items():
        assert dict(items.schema) == ITEMS
        assert items.select("problem_id", "sample").equals(expected[name].select("problem_id", "sample"))
        mine, theirs = (frame.filter(pl.col("sample") == 0) for frame in (items, expected[name]))
        assert mine.drop("answer_nll").equals(theirs.drop("answer_nll"))
        assert mine["answer_nll"].to_list() == pytest.approx(theirs["answer_nll"].to_list(), rel=1e-5)
        drawn = {sample: items.filter(pl.col("sample") == sample)["completion"].to_list() for sample in (0, 1, 2)}
        assert len({tuple(texts) for texts in drawn.values()}) == 3
    assert len({tuple(items["completion"]) for items in found.values()}) == 3


@pytest.mark.slow
def test_a_study_gives_the_same_accuracies_with_either_engine(tmp_path: Path) -> None:
    """The smoke study with heads of 32 dimensions, once through each; training and all before it is done once."""
    lab = Lab(tmp_path / "home")
    words = ["smoke", "--set", "tiny.heads=2", "--set", "tiny.kv_heads=1", "--set", "methods=sft,dft", "--set"]
    first = lab.run(*words, "evaluation.engine=vllm", out="vllm")
    assert first.code == 0, first.stderr
    second = lab.run(*words, "evaluation.engine=transformers", out="transformers")
    assert second.code == 0, second.stderr
    ours, theirs = (
        pl.read_parquet(study.folder / "items.parquet").sort("run", "benchmark", "problem_id")
        for study in (first, second)
    )
    assert ours.select("run", "benchmark", "problem_id").equals(theirs.select("run", "benchmark", "problem_id"))
    assert (
        ours["run"].n_unique() == 6
    )  # base, base-instructed, teacher is a model of its own, sft, dft, sft's replicate
    same = (ours["completion"] == theirs["completion"]).mean()
    assert same >= 0.995, same  # a tie of two logits may fall either way
    assert (ours["correct"] == theirs["correct"]).mean() >= 0.995
    assert ours["answer_nll"].to_list() == pytest.approx(theirs["answer_nll"].to_list(), rel=1e-4)
