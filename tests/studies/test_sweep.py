"""A sweep through the command line: killed, resumed, run again, extended; a method that diverges is a result."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.cli.main import main
from tasks.storage.store import Store
from tests.lab.study_runs import Lab, Study, kill_after

# SFT diverges at .9 (its loss rises above its start); RFT, at a hundredth of that rate, learns.
SMALL = """
preset = "smoke"
methods = ["sft", "rft"]
data_seed = 0
replicates = []
[train]
steps = 8
scheduler = "constant"
warmup = 0.0
stop_above_start = 4
[evaluation]
n = 16
hard_n = 0
[rollouts]
prompts = 48
[geometry]
base_measures = false
[paths]
n = 0
[functions]
n = 0
[sweep]
cells = [{"train.lr" = 0.01}, {"train.lr" = 0.9, "rft.lr_ratio" = 0.01}]
path_problems = 8
"""


def cells(study: Study) -> dict[str, dict[str, Any]]:
    return {cell["cell"]: cell for cell in json.loads((study.folder / "sweep.json").read_text())["cells"]}


def counts(study: Study) -> dict[str, int]:
    found: dict[str, int] = json.loads((study.folder / "sweep.json").read_text())["counts"]
    return found


def shown(what: str, stdout: str) -> list[str]:
    """Names of the stages that a terminal shows as ``what``."""
    lines = [line.strip() for line in stdout.splitlines()]
    return [line.removeprefix(what).rsplit("  ", 1)[0].strip() for line in lines if line.startswith(f"{what} ")]


def computed(stdout: str) -> list[str]:
    """Those that it did not find in the cache."""
    return shown("done", stdout)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("sweep") / "home")
    (lab.home.parent / "small.toml").write_text(SMALL)
    return lab


def words(lab: Lab, seeds: str) -> tuple[str, ...]:
    """The sweep's command line."""
    return (str(lab.home.parent / "small.toml"), "--seeds", seeds)


@pytest.fixture(scope="module")
def killed(lab: Lab) -> list[str]:
    """What was done when the driver was killed: after the first training."""
    process = lab.start(*words(lab, "0,1"), out="sweep", command="sweep")
    seen = kill_after(process, "done    train", signal.SIGKILL)
    process.wait(timeout=30)  # not communicate: Prefect's orphaned server still holds the pipe
    os.killpg(process.pid, signal.SIGKILL)
    return seen


@pytest.fixture(scope="module")
def resumed(lab: Lab, killed: list[str]) -> Study:
    study = lab.run(*words(lab, "0,1"), out="sweep", command="sweep")
    assert study.code == 0, study.stderr
    return study


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_sweep_goes_on_where_it_was(lab: Lab, killed: list[str], resumed: Study) -> None:
    before, after = computed("\n".join(killed)), computed(resumed.stdout)
    assert {name.split()[0] for name in before} >= {"pretrain", "problems", "rollouts", "grade", "train"}
    assert not set(before) & set(after)
    # Every training at most once: SFT at one rate, RFT at two, each at two seeds. One may have been recorded just
    # before the kill without having been shown.
    trained = [name for name in [*before, *after] if name.startswith("train ")]
    assert len(trained) == len(set(trained))
    found = {name for name in shown("cached", resumed.stdout) if name.startswith("train ")}
    assert len(found | set(trained)) == 2 * 3
    store = Store(f"sqlite:///{lab.home / 'mlflow.db'}")
    sweeps = store._runs("tags.kind = 'sweep'")
    assert [run.info.status for run in sweeps] == ["FINISHED", "KILLED"]


@pytest.mark.slow
@pytest.mark.long
def test_a_diverged_method_is_a_row_and_the_rest_of_its_cell_goes_on(lab: Lab, resumed: Study) -> None:
    found = cells(resumed)
    assert [(cell, one["status"], len(one["diverged"])) for cell, one in found.items()] == [
        ("lr=0.01 seed=0", "done", 0), ("lr=0.01 seed=1", "done", 0),
        ("lr=0.9 lr_ratio=0.01 seed=0", "done", 1), ("lr=0.9 lr_ratio=0.01 seed=1", "done", 1),
    ]  # fmt: skip
    [lost] = found["lr=0.9 lr_ratio=0.01 seed=1"]["diverged"]
    assert (lost["method"], lost["seed"], lost["lr"]) == ("sft", 1, 0.9)
    assert lost["reason"].startswith("training diverged: the loss of the last 4 steps is ")
    assert [run["run"] for run in found["lr=0.9 lr_ratio=0.01 seed=1"]["trained"]] == ["rft"]
    text = (resumed.folder / "report.md").read_text()
    assert "2 trainings diverged and are in no average: sft at lr 9e-1 (seed 0), sft at lr 9e-1 (seed 1)." in text
    assert "Which trainings diverge?" in text
    own = json.loads((resumed.folder / "cells" / "lr=0.9,lr_ratio=0.01,seed=1" / "study.json").read_text())
    assert [one["run"] for one in own["diverged"]] == ["sft"]
    assert own["warnings"][0].startswith("1 training diverged and is not in this report: sft (the loss of the last 4 ")
    assert counts(resumed)["diverged_runs"] == 2


@pytest.mark.slow
@pytest.mark.long
def test_a_study_goes_on_without_a_method_that_diverges_as_well(lab: Lab, resumed: Study) -> None:
    text = (lab.home.parent / "small.toml").read_text().partition("[sweep]")[0]
    (lab.home.parent / "study.toml").write_text(
        text.replace("""methods = ["sft", "rft"]""", """methods = ["sft", "rft", "rift"]""")
    )
    words = [str(lab.home.parent / "study.toml"), "--set", "seed=7", "--set", "train.lr=0.9"]
    words += ["--set", "rft.lr_ratio=0.01", "--set", "rift.lr_ratio=0.01"]
    found = lab.run(*words, out="alone")
    assert found.code == 0, found.stderr
    [warning] = [one for one in found.record["warnings"] if "diverged" in one]
    assert warning.startswith("1 training diverged and is not in this report: sft (the loss of the last 4 steps is ")
    assert warning in " ".join(found.stdout.split())
    assert "1 training diverged and is not in this report: sft" in (found.folder / "report.md").read_text()
    assert [run["run"] for run in found.record["runs"]] == ["rft", "rift"]
    stages = [stage["name"] for stage in found.record["stages"]]
    assert sorted(stages) == sorted(set(stages))
    measured = {"geometry rft~rift", "spectrum rft", "spectrum rift", "evaluate rft seed=7 data_seed=0 lr=9e-3"}
    assert found.names(hit=False) >= measured  # also what was measured before the divergence was known
    again = lab.run(*words, out="alone again")
    assert (again.code, again.names(hit=False)) == (0, set()), again.stderr


@pytest.mark.slow
@pytest.mark.long
def test_the_page_has_both_seeds_floors_and_the_paths_between_them(resumed: Study) -> None:
    midpoints = pl.read_parquet(resumed.folder / "midpoints.parquet")
    assert sorted(midpoints.select("method", "differs").rows()) == [
        ("rft", "initialisation"), ("rft", "initialisation"), ("sft", "initialisation"),
    ]  # fmt: skip
    assert midpoints["midpoint"].null_count() == 0
    across = pl.read_parquet(resumed.folder / "across.parquet").filter(pl.col("differs") == "initialisation")
    assert sorted(across["method"]) == ["rft", "rft", "sft"]
    assert across["cosine"].is_between(-1, 1).all()
    text = (resumed.folder / "report.md").read_text()
    assert "Same method, other initialisation?" in text
    assert "Half-way to itself, other initialisation?" in text


@pytest.mark.slow
@pytest.mark.long
def test_the_studies_are_children_of_the_sweep_in_mlflow_and_runs_of_its_own_in_prefect(
    lab: Lab, resumed: Study
) -> None:
    store = Store(f"sqlite:///{lab.home / 'mlflow.db'}")
    sweep = json.loads((resumed.folder / "sweep.json").read_text())["mlflow"]
    studies = store._runs(f"tags.kind = 'study' and tags.`mlflow.parentRunId` = '{sweep}'")
    assert {run.info.status for run in studies} == {"FINISHED"}
    assert {run.info.run_id for run in studies} == {cell["mlflow"] for cell in cells(resumed).values()}
    assert {"report.html", "sweep.json", "many.json"} <= set(store.names(sweep))
    assert store.run(sweep).data.metrics["sweep_done"] == 4
    flows = dict(lab.prefect("select name, state_type from flow_run order by start_time"))
    assert flows["sweep smoke"] == "COMPLETED"
    assert flows["study smoke lr=0.9 lr_ratio=0.01 seed=1"] == "COMPLETED"
    assert flows["paths between seeds"] == "COMPLETED"


@pytest.mark.slow
@pytest.mark.long
def test_the_same_again_computes_nothing_and_one_seed_more_only_its_own(lab: Lab, resumed: Study) -> None:
    again = lab.run(*words(lab, "0,1"), out="sweep", command="sweep")
    assert again.code == 0, again.stderr
    assert counts(again)["computed"] == 0
    assert "of paths between seeds 0 and" in again.stdout
    assert {name.split()[0] for name in computed(again.stdout)} == {"report", "cell", "page"}
    longer = lab.run(*words(lab, "0,1,2"), out="sweep", command="sweep")
    assert longer.code == 0, longer.stderr
    numbers = {name: cell["computed"] for name, cell in cells(longer).items()}
    assert [name for name, number in numbers.items() if number] == ["lr=0.01 seed=2", "lr=0.9 lr_ratio=0.01 seed=2"]
    trained = [name for name in computed(longer.stdout) if name.startswith("train ")]
    assert all("seed=2" in name for name in trained)
    # Seed 2 has four trainings; whether SFT at .9 ends above its start is its luck. Of seeds 0 and 1 both do.
    assert len(trained) + counts(longer)["diverged_runs"] - 2 == 4


def test_bad_input_is_one_line_and_code_2_before_any_work(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.toml"
    for given, says in (
        (("smoke",), "sweep.seeds: one cell only"),
        (("smoke", "--seeds", ""), "--seeds: no values; give some, such as --seeds 0,1"),
        (("smoke", "--seeds", "0,x"), "sweep.seeds: "),
        (("smoke", "--lrs", "1e-3,0.001"), "sweep.lrs: 0.001 is listed twice"),
        (("smoke", "--lrs", "1e-3,5"), "cell lr=5: train.lr: "),
        (("smoke", "--grid", "dpo.beta"), "--grid dpo.beta: expected section.key=value,value"),
        (("smoke", "--grid", "dpo.beta="), "sweep.grid: dpo.beta has no values"),
        (("smoke", "--grid", "dpo.beta=.1,.2", "--grid", "dpo.beta=.3"), "--grid dpo.beta: given twice"),
        (("smoke", "--seeds", "0,1", "--methods", "sft,ppo"), "methods: unknown method 'ppo'"),
        (("smoke", "--seeds", "0,1", "--set", "sweep.sedes=1"), "sweep.sedes: unknown setting; did you mean 'seeds'?"),
        (("smoke", "--seeds", "0,1", "--set", "lora.rr=1"), "--set lora.rr: unknown setting 'rr'"),
        (("tiny-swepe",), "preset 'tiny-swepe': unknown; did you mean 'tiny-sweep'?"),
        ((str(file),), "no such file"),
        (("smoke", "--grid", "lora.targets=[q_proj],[x_proj]"), "cell targets=x-proj: lora.targets: the base has no"),
        (("smoke", "--seeds", "0,1", "--out", "/proc/x"), "--out: /proc cannot be written to"),
    ):
        assert main(["sweep", *given]) == 2, given
        told = capsys.readouterr().err
        assert told.startswith("colinear: ")
        assert says in told
        assert told.count("\n") == 1
    assert not (state / "mlflow.db").exists()


def test_a_file_has_the_study_and_the_sweep_in_it(tmp_path: Path) -> None:
    from flows.cli.sweep import asked

    file = tmp_path / "mine.toml"
    file.write_text(
        'preset = "smoke"\nmethods = ["sft", "dpo"]\n[dpo]\nbeta = 0.3\n'
        '[sweep]\nseeds = [0, 1]\ngrid = {"train.steps" = [5, 7]}\ncells = [{"train.lr" = 1e-3}, {"train.lr" = 1e-2}]\n'
    )
    spec, sweep = asked(str(file), ["sweep.path_problems=0"], seeds="3,4")
    assert (spec.name, spec.methods, spec.dpo.beta) == ("smoke", ("sft", "dpo"), 0.3)
    assert (sweep.seeds, sweep.grid, sweep.path_problems) == ((3, 4), {"train.steps": (5, 7)}, 0)
    assert sweep.cells == ({"train.lr": 1e-3}, {"train.lr": 1e-2})
    default, cells_of = asked(None, [])
    assert (default.name, cells_of.seeds, cells_of.lrs) == ("tiny-sweep", (0, 1), (1e-4, 1e-3, 1e-2))
