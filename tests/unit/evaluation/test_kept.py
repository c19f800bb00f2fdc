"""Accuracies of adapters on the way, joined to what was measured of their updates."""

from __future__ import annotations

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import TRAJECTORIES
from tasks.core.results import Kept, RunInfo
from tasks.evaluation.intervals import wilson
from tasks.evaluation.kept import with_accuracy
from tests.unit.evaluation.test_truncation import answers

SFT, DPO = RunInfo("sft", "sft", 5, 7, 1e-3), RunInfo("dpo", "dpo", 5, 7, 1e-4)
RIGHT = {"base": "1100000000", "sft": "1111110000", "sft-step-5": "1110000001", "sft-step-20": "1111111000",
         "dpo": "1100000001", "dpo-step-5": "1000000000"}  # fmt: skip


def paths() -> pl.DataFrame:
    rows = [(info, step) for info, steps in ((SFT, (5, 20, 40)), (DPO, (5, 20))) for step in steps]
    identities = [{"run": one.run, "method": one.method, "seed": 5, "data_seed": 7, "lr": one.lr} for one, _ in rows]
    found = [{**dict.fromkeys(TRAJECTORIES), **own, "step": step, "norm": float(step)}
             for own, (_, step) in zip(identities, rows, strict=True)]  # fmt: skip
    return pl.DataFrame(found, schema=TRAJECTORIES)


def test_every_step_has_its_own_answers_and_the_last_the_run_s() -> None:
    found = with_accuracy(paths(), answers(RIGHT))
    assert [Kept(SFT, 5).info.run, Kept(SFT, 5).info.method] == ["sft-step-5", "sft"]
    assert found.select("run", "step", "norm", "correct").rows() == [
        ("sft", 5, 5.0, 4), ("sft", 20, 20.0, 7), ("sft", 40, 40.0, 6), ("dpo", 5, 5.0, 1), ("dpo", 20, 20.0, 3),
    ]  # fmt: skip
    assert found["n"].to_list() == [10] * 5  # greedy answers alone
    assert found.select("low", "high").row(1) == pytest.approx(wilson(7, 10))
    assert found["loss"].to_list() == [1.0, 1.5, 0.5, 2.5, 2.0]  # the place of the run, by 2 nats and 4 tokens


def test_a_row_for_each_benchmark_and_none_without_answers() -> None:
    both = pl.concat([answers(RIGHT), answers(RIGHT).with_columns(benchmark=pl.lit("hard"))])
    found = with_accuracy(paths(), both)
    assert found.group_by("benchmark").len().sort("benchmark").rows() == [("hard", 5), ("heldout", 5)]
    with pytest.raises(InputError, match="no answer of dpo-step-5; evaluate it too"):
        with_accuracy(paths(), answers(RIGHT).filter(pl.col("run") != "dpo-step-5"))
