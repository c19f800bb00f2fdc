"""An evaluation by an engine that loads and fails on its own: what was scored and answered before is not done again.

The engine is transformers' here, which has vLLM's interface; with vLLM itself: tests/unit/engines/test_vllm_study.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.core.errors import StageError
from tasks.core.frames import PROBLEMS
from tasks.core.results import LocalBase, RunInfo
from tasks.core.sections import EvaluationSpec
from tasks.engines.transformers import TransformersEngine
from tasks.evaluation import through_vllm
from tasks.evaluation.evaluate import Asked, collect, evaluate_models

N = 7
NEW = 5


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [(f"p{i}", "heldout", f"{i}+{i}?" + "x" * i, str(2 * i), f"it is {2 * i}") for i in range(N)]
    pl.DataFrame(rows, schema=PROBLEMS, orient="row").write_parquet(tmp_path / "problems.parquet")
    return tmp_path / "problems.parquet"


def evaluate(base: Path, problems: Path, folder: Path, engine: str) -> pl.DataFrame:
    folder.mkdir(exist_ok=True)
    evaluate_models(
        base=LocalBase(base), asked=[Asked(RunInfo("base", "base", 0, 0, 0.0))], partials=[folder], problems=problems,
        share=(0, 1), spec=EvaluationSpec(engine=engine, max_new_tokens=NEW, samples=1, batch_size=4),
    )  # fmt: skip
    return collect(folder, pl.read_parquet(problems), 2 * N)


def test_losses_are_scored_once_whatever_becomes_of_the_engine(
    base_model: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    usual = through_vllm.scored
    longest: list[int] = []
    fails = True

    def counted(model: Any, asked: Any, wanted: Any, **settings: Any) -> list[float]:
        if len(scored) == 2:  # killed while it scores the third part
            scored.append(0)
            raise StageError("killed")
        scored.append(len(wanted))
        return usual(model, asked, wanted, **settings)

    def engine(base: LocalBase, asked: Any, spec: EvaluationSpec, room: int) -> TransformersEngine:
        longest.append(room)
        if fails:
            raise StageError("no memory")
        return TransformersEngine(base.folder, batch_size=4)

    monkeypatch.setattr(through_vllm, "KEPT", 3)
    monkeypatch.setattr(through_vllm, "scored", counted)
    monkeypatch.setattr(through_vllm, "_engine", engine)
    with pytest.raises(StageError, match="killed"):
        evaluate(base_model, problems, tmp_path / "a", "vllm")
    assert scored == [3, 3, 0]
    with pytest.raises(StageError, match="no memory"):
        evaluate(base_model, problems, tmp_path / "a", "vllm")
    assert scored == [3, 3, 0, 1]
    fails = False
    found = evaluate(base_model, problems, tmp_path / "a", "vllm")
    assert scored == [3, 3, 0, 1]
    assert longest == [len("U: 6+6?xxxxxx\nA: ") + NEW] * 2  # a token a character

    expected = evaluate(base_model, problems, tmp_path / "b", "transformers")
    assert found.drop("answer_nll").equals(expected.drop("answer_nll"))
    ours, theirs = (frame.filter(pl.col("sample") == 0)["answer_nll"].to_list() for frame in (found, expected))
    assert ours == pytest.approx(theirs, rel=1e-5)
