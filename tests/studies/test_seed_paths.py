"""Which trainings of a sweep a path is read between: one thing apart, one step at a time, each training once."""

from __future__ import annotations

from collections.abc import Sequence

from flows.seed_paths import Trained, distinct, neighbours
from flows.study_flow import StudyOutcome
from flows.sweep_record import CellOutcome
from tasks.core.results import ArtifactRef, ModelRef, RunInfo, StageResult
from tasks.core.sections import EvaluationSpec
from tasks.settings.study import StudySpec, build
from tasks.settings.sweeps import Cell, build_sweep, cells

BASE = ModelRef(ArtifactRef("base", "base", "model", ""))
STUDY = build({"methods": ["sft", "dpo"], "data_seed": 0, "matched": ["dpo"], "init_replicates": []})


def result(name: str) -> StageResult:
    return StageResult("train", name, ArtifactRef(name, name, "train", name), 1.0)


def outcome(cell: Cell) -> CellOutcome:
    """A finished cell whose adapters are told apart as the store does it: by all that decides them."""
    trained = tuple((info, result(f"{_decides(cell.spec)} {info.label}")) for info in cell.spec.runs())
    study = StudyOutcome("page", "study", "flow", 1, 2, 3.0, BASE, result("problems"), trained, ())
    return CellOutcome(cell, "done", study)


def _decides(spec: StudySpec) -> str:
    return f"{spec.dpo.beta} {spec.train.steps}"


def outcomes(spec: StudySpec = STUDY, **sweep: object) -> list[CellOutcome]:
    return [outcome(cell) for cell in cells(spec, build_sweep(sweep))]


def one(seed: int, data_seed: int, condition: str = "") -> Trained:
    info = RunInfo(f"{seed}.{data_seed}{condition}", "sft", seed, data_seed, 1e-3)
    return Trained(info, result(info.run), BASE, result("problems"), EvaluationSpec(), condition)


def pairs(trainings: Sequence[Trained]) -> set[tuple[str, str]]:
    return {(a.info.run, b.info.run) for a, b in neighbours(trainings)}


def test_each_seed_is_joined_to_the_next_of_the_same_order_and_the_other_way_round() -> None:
    found = pairs([one(0, 0), one(2, 0), one(1, 0), one(0, 1), one(1, 1)])
    assert found == {("0.0", "1.0"), ("1.0", "2.0"), ("0.1", "1.1"), ("0.0", "0.1"), ("1.0", "1.1")}


def test_where_both_seeds_differ_they_are_joined_as_they_come() -> None:
    assert pairs([one(0, 0), one(1, 1), one(2, 2)]) == {("0.0", "1.1"), ("1.1", "2.2")}


def test_trainings_that_differ_in_more_than_seeds_have_no_path() -> None:
    assert pairs([one(0, 0, "x"), one(1, 0, "y")]) == set()
    assert pairs([one(0, 0, "x")]) == set()


def test_a_training_that_two_cells_share_counts_once_and_each_has_one_name() -> None:
    found = distinct(outcomes(seeds=[0, 1], lrs=[1e-3, 1e-2]))
    names = [one.info.run for one in found]
    assert len(set(names)) == len(names)
    # Of a seed: SFT and its replicate at two rates, DPO at 1e-4, 1e-3 (in both cells) and 1e-2.
    assert len(found) == 2 * (2 * 2 + 3)
    joined = pairs(found)
    assert ("dpo seed=0 data_seed=0 lr=1e-3", "dpo seed=1 data_seed=0 lr=1e-3") not in joined  # 0 is its own order
    assert ("dpo seed=0 lr=1e-3", "dpo seed=1 data_seed=0 lr=1e-3") in joined
    # SFT and its replicate: two seeds x two orders a rate are 4 paths; DPO: one for each of three rates.
    assert len(joined) == 2 * 4 + 3


def test_another_setting_of_the_method_is_another_training_with_another_name() -> None:
    found = distinct(outcomes(seeds=[0, 1], grid={"dpo.beta": [0.1, 0.5]}))
    dpo = [one.info.run for one in found if one.info.method == "dpo" and one.info.seed == 0]
    assert dpo == [
        "dpo seed=0 lr=1e-4 dpo.beta=0.1", "dpo seed=0 lr=1e-3 dpo.beta=0.1",
        "dpo seed=0 lr=1e-4 dpo.beta=0.5", "dpo seed=0 lr=1e-3 dpo.beta=0.5",
    ]  # fmt: skip
    for a, b in neighbours([one for one in found if one.info.method == "dpo"]):
        assert a.info.run.partition(" dpo.beta=")[2] == b.info.run.partition(" dpo.beta=")[2]


def test_failed_and_diverged_cells_have_no_trainings() -> None:
    [first, second] = outcomes(seeds=[0, 1])
    lost = CellOutcome(second.cell, "failed", error="x")
    assert {one.info.seed for one in distinct([first, lost])} == {0}
