"""Which cells a sweep has, and what is refused before any of them does anything."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tasks.settings.study import StudySpec, build
from tasks.settings.sweep_presets import SWEEPS, sweep_preset
from tasks.settings.sweeps import build_sweep, cells
from tests.lab.refusals import refusal

STUDY = build({"name": "s", "replicates": [], "init_replicates": []})


def labels(spec: StudySpec = STUDY, **sweep: Any) -> list[str]:
    return [cell.label for cell in cells(spec, build_sweep(sweep))]


def refused(**sweep: Any) -> str:
    return refusal(lambda: cells(STUDY, build_sweep(sweep)))


def test_a_grid_is_the_product_the_last_axis_fastest() -> None:
    found = cells(STUDY, build_sweep({"seeds": [0, 1], "lrs": [1e-4, 1e-3], "grid": {"dpo.beta": [0.1, 0.5]}}))
    expected = list(product((0, 1), (1e-4, 1e-3), (0.1, 0.5)))
    assert [(cell.spec.seed, cell.spec.train.lr, cell.spec.dpo.beta) for cell in found] == expected
    assert found[1].label == "seed=0 lr=0.0001 beta=0.5"
    assert found[1].folder == "seed=0,lr=0.0001,beta=0.5"
    assert found[1].spec.name == "s lr=0.0001 beta=0.5"  # Prefect and MLflow put the seed beside it themselves


def test_a_list_of_cells_is_turned_over_the_seeds() -> None:
    listed = [{"train.lr": 1e-3, "train.steps": 40}, {"train.lr": 1e-4, "train.steps": 80}]
    found = cells(STUDY, build_sweep({"cells": listed, "seeds": [0, 3]}))
    assert [(cell.spec.train.lr, cell.spec.train.steps, cell.spec.seed) for cell in found] == [
        (1e-3, 40, 0), (1e-3, 40, 3), (1e-4, 80, 0), (1e-4, 80, 3),
    ]  # fmt: skip


def test_all_that_is_not_listed_is_the_studys() -> None:
    spec = build({"name": "s", "methods": ["sft", "dpo"], "data_seed": 7, "lora": {"r": 4}})
    for cell in cells(spec, build_sweep({"seeds": [1, 2]})):
        assert cell.spec.model_copy(update={"seed": 0, "name": "s"}) == spec


def test_a_number_reads_alike_however_it_was_written() -> None:
    assert labels(lrs=["1e-3", "0.01"]) == labels(lrs=[0.001, 1e-2]) == ["lr=0.001", "lr=0.01"]


def test_texts_and_lists_are_values_too_and_make_folders() -> None:
    found = cells(
        STUDY, build_sweep({"grid": {"methods": ["[sft,dpo]", ["sft"]], "train.scheduler": ["cosine", "linear"]}})
    )
    assert [cell.spec.methods for cell in found] == [("sft", "dpo"), ("sft", "dpo"), ("sft",), ("sft",)]
    assert found[0].folder == "methods=sft-dpo,scheduler=cosine"
    assert len({cell.folder for cell in found}) == 4


def test_keys_of_one_last_part_keep_their_sections() -> None:
    grid = {"dpo.lr_ratio": [0.1, 1], "sft.lr_ratio": [0.5]}
    assert labels(grid=grid)[0] == "dpo.lr_ratio=0.1 sft.lr_ratio=0.5"


def test_what_is_refused_names_the_cell_or_the_field() -> None:
    for sweep, says in (
        ({"seeds": [0]}, "sweep.seeds: one cell only"),
        ({}, "sweep.seeds: one cell only"),
        ({"seeds": [0, 0]}, "sweep.seeds: 0 is listed twice"),
        ({"seeds": ["x", 1]}, "sweep.seeds: "),
        ({"seeds": [0, -1]}, "cell seed=-1: seed: "),
        ({"lrs": [1e-3, "0.001"]}, "sweep.lrs: 0.001 is listed twice"),
        ({"lrs": [1e-3, 2.0]}, "cell lr=2: train.lr: Input should be less than 1"),
        ({"lr": [1e-3]}, "sweep.lr: unknown setting; did you mean 'lrs'?"),
        ({"grid": {"dpo.beta": []}}, "sweep.grid: dpo.beta has no values"),
        ({"grid": {"dpo.beta": [0.1, "0.10"]}}, "cell beta=0.1 #2: the same study as cell beta=0.1"),
        ({"grid": {"dpo.betta": [0.1, 0.2]}}, "sweep.grid: dpo.betta: unknown setting 'betta'; did you mean 'beta'?"),
        ({"grid": {"dp.beta": [0.1, 0.2]}}, "sweep.grid: dp.beta: no section 'dp'"),
        ({"grid": {"train.lr": [0.1, 0.2]}, "lrs": [0.1]}, "sweep.grid: train.lr is given twice"),
        ({"cells": [{"seed": 1}, {"seed": 2}], "seeds": [3]}, "sweep.cells: seed is given twice"),
        ({"grid": {"rollouts.k": [2, 4]}}, "sweep.grid: rollouts.k: all cells share one base and one set of rollouts"),
        ({"grid": {"tiny.seed": [2, 4]}}, "sweep.grid: tiny.seed: all cells share"),
        ({"grid": {"methods": ["sft", "sfft"]}}, "cell methods=sfft: methods: unknown method 'sfft'"),
        ({"grid": {"train.micro_batch_size": [3, 64]}}, "cell micro_batch_size=3: train.micro_batch_size: 3 does not"),
        ({"seeds": range(15), "lrs": [i / 100 for i in range(1, 15)]}, "sweep.most_cells: 210 cells, more than 200"),
    ):
        assert refused(**sweep).startswith(says), refused(**sweep)  # type: ignore[arg-type]


def test_more_cells_run_where_they_are_asked_for() -> None:
    assert len(labels(seeds=range(201), most_cells=201)) == 201


@pytest.mark.parametrize("name", SWEEPS)
def test_every_preset_builds(name: str) -> None:
    study, sweep = sweep_preset(name)
    assert len(cells(build(study), build_sweep(sweep))) >= 2


def test_tiny_sweep_has_each_training_once_and_shares_those_of_the_default_study() -> None:
    study, sweep = sweep_preset("tiny-sweep")
    spec, default = build(study), build(sweep_preset("tiny")[0])
    chosen = cells(spec, build_sweep(sweep))
    assert len(chosen) == 6
    runs = {(i.method, i.seed, i.data_seed, i.lr) for cell in chosen for i in cell.spec.runs()}
    # Of a seed: five methods and SFT's replicate at three rates, DPO at four (a tenth of each, and the highest itself).
    assert len(runs) == 2 * (3 * 6 + 4)
    assert len([i for cell in chosen for i in cell.spec.runs()]) == 6 * 8
    assert runs >= {(i.method, i.seed, i.data_seed, i.lr) for i in default.runs()}
    for section in ("model", "tiny", "rollouts", "lora", "train", *default.methods):
        assert getattr(spec, section) == getattr(default, section)
    dpo = {(i.run, i.lr) for i in chosen[1].spec.runs() if i.method == "dpo"}
    assert dpo == {("dpo", 1e-4), ("dpo-lr1e-3", 1e-3)}
