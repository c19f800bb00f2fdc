"""A training's checkpoints as a path: against dense matrices, by hand, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from polars.testing import assert_frame_equal
from safetensors.numpy import load_file, save_file

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.geometry.delta import Factors
from tasks.geometry.trajectory import (
    LOCKED,
    cosines_to,
    find_checkpoints,
    read_trajectory,
    trajectory,
    trajectory_frame,
)
from tests.lab.foreign_adapters import tiny_base
from tests.lab.refusals import refusal as refused
from tests.lab.updates import Memory, dense, grid, random_factors
from tests.unit.geometry.test_merged import lora, train

refusal = partial(refused, read_trajectory)

PLACES = list(grid(2))
STEPS = (5, 10, 100, 1000)


def saved(folder: Path, modules: dict[str, Factors]) -> Path:
    """A LoRA directory as PEFT saves it, of scale 1."""
    folder.mkdir(parents=True)
    rank = next(iter(modules.values())).A.shape[0]
    key = "base_model.model.{}.lora_{}.weight"
    tensors = {key.format(name, side): getattr(f, side) for name, f in modules.items() for side in "AB"}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def path() -> list[dict[str, Factors]]:
    """Four checkpoints that walk from one random update to another."""
    rng = np.random.default_rng(0)
    first, step = ({name: random_factors(rng, 20, 14, 4)._replace(scale=1.0) for name in PLACES} for _ in range(2))
    return [
        {name: Factors(a.B + t * step[name].B, a.A + 0.1 * t * step[name].A, 1.0) for name, a in first.items()}
        for t in (0.0, 0.5, 2.0, 2.5)
    ]


@pytest.fixture
def run(path: list[dict[str, Factors]], tmp_path: Path) -> Path:
    """As a Trainer leaves it: checkpoints whose names sort otherwise than their steps, the last adapter, logs."""
    for step, modules in zip(STEPS, path, strict=True):
        saved(tmp_path / "run" / f"checkpoint-{step}", modules)
    (tmp_path / "run" / "runs").mkdir()
    (tmp_path / "run" / "checkpoint-x").mkdir()
    shutil.copytree(tmp_path / "run" / "checkpoint-1000", tmp_path / "run", dirs_exist_ok=True)
    return tmp_path / "run"


def test_every_measure_is_its_definition_on_dense_matrices(run: Path, path: list[dict[str, Factors]]) -> None:
    found = read_trajectory(run, (1, 3, 10))
    assert found.frame["step"].to_list() == list(STEPS)
    assert found.ks == (1, 3, 4)  # no adapter has ten directions
    formed = [{name: dense(f) for name, f in modules.items()} for modules in path]
    flat = [np.concatenate([one.ravel() for one in modules.values()]) for modules in formed]
    bases = [{name: np.linalg.svd(one) for name, one in modules.items()} for modules in formed]
    for place, row in enumerate(found.frame.iter_rows(named=True)):
        size = np.linalg.norm(flat[place])
        assert row["norm"] == pytest.approx(size, rel=1e-13)
        first = sum(svd[1][0] ** 2 for svd in bases[place].values())
        assert row["rank1_share"] == pytest.approx(first / size**2, rel=1e-12)
        last = flat[place] @ flat[-1] / size / np.linalg.norm(flat[-1])
        assert row["cosine_to_last"] == pytest.approx(last, abs=1e-13)
        if place:
            cosine = flat[place] @ flat[place - 1] / size / np.linalg.norm(flat[place - 1])
            assert row["cosine_to_previous"] == pytest.approx(cosine, abs=1e-13)
            assert row["turn"] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-9)
        else:
            assert row["cosine_to_previous"] is None
            assert row["turn"] is None
        for k in (1, 3, 4):
            pairs = [(bases[place][name][0][:, :k], bases[-1][name][0][:, :k]) for name in PLACES]
            overlap = np.mean([np.sum((a.T @ b) ** 2) / k for a, b in pairs])
            assert row[f"overlap_{k}"] == pytest.approx(overlap, abs=1e-12)
    assert [lock.null for lock in found.locks] == [pytest.approx(k / 20) for k in (1, 3, 4)]
    assert not found.frame["overlap_3"].is_close(1.0)[:-1].any()


def test_a_run_s_way_is_its_definition_on_dense_matrices(path: list[dict[str, Factors]]) -> None:
    """Held against an update of the same modules; the chance of an overlap of two directions among 20 is 1 in 20."""
    rng = np.random.default_rng(1)
    towards = {name: random_factors(rng, 20, 14, 2) for name in PLACES}
    sources = [Memory(modules, f"at {place}") for place, modules in enumerate(path)]
    info = RunInfo("sft-order1", "sft", 0, 1, 1e-3)
    found = trajectory_frame(info, sources, STEPS, Memory(towards, "gradient"))
    plain = trajectory(sources, STEPS, (1,)).frame
    shared = ["step", "norm", "rank1_share", "turn", "cosine_to_last"]
    assert_frame_equal(found.select(*shared, overlap_1="overlap"), plain.select(*shared, "overlap_1"))
    flat = [np.concatenate([dense(one).ravel() for one in modules.values()]) for modules in [*path, towards]]
    slow = [flat[-1] @ one / np.linalg.norm(flat[-1]) / np.linalg.norm(one) for one in flat[:-1]]
    assert found["cosine_to_gradient"].to_list() == pytest.approx(slow, abs=1e-13)
    assert found.row(0)[:5] == ("sft-order1", "sft", 0, 1, 1e-3)
    assert found["chance"].unique().to_list() == [0.05]
    assert found.select("benchmark", "accuracy").null_count().row(0) == (4, 4)


def test_the_step_down_a_gradient_by_hand_and_of_a_zero_update() -> None:
    """At 60 degrees from the one direction, at 30 from the other; a zero update has no direction."""
    down, *ways = turned(0, 60, 30)
    nothing = Memory({"layers.0.q_proj": Factors(np.zeros((2, 1)), np.ones((1, 3)), 1.0)}, "nothing")
    assert cosines_to(down, [*ways, nothing]) == [pytest.approx(0.5), pytest.approx(math.sqrt(0.75)), None]
    assert trajectory_frame(RunInfo("a", "a", 0, 0, 0.1), ways, (1, 2))["cosine_to_gradient"].to_list() == [None, None]


def turned(*degrees: float) -> list[Memory]:
    """Updates of rank 1 whose output direction stands at these angles, in one module of (2, 3)."""
    start = np.array([[1.0, 0.0, 0.0]])
    angles = [math.radians(one) for one in degrees]
    return [
        Memory({"layers.0.q_proj": Factors(np.array([[math.cos(a)], [math.sin(a)]]), start, 2.0)}, f"at {a}")
        for a in angles
    ]


@pytest.mark.parametrize(
    ("degrees", "step"),
    [
        ((90, 40, 10, 0), 3),  # cos^2 10 = .97
        ((90, 18, 30, 0), None),  # cos^2 18 = .90 at step 2, and away again: cos^2 30 = .75
        ((18, 30, 18, 0), 3),
        ((5, 5, 5, 5), 1),
        ((90, 60, 45, 0), None),
    ],
)
def test_a_subspace_locks_where_it_stays_and_not_where_it_passes(degrees: tuple[float, ...], step: int | None) -> None:
    found = trajectory(turned(*degrees), (1, 2, 3, 4), (1,))
    assert [row["overlap_1"] for row in found.frame.to_dicts()] == pytest.approx(
        [math.cos(math.radians(one - degrees[-1])) ** 2 for one in degrees]
    )
    (lock,) = found.locks
    assert (lock.k, lock.threshold, lock.null) == (1, LOCKED, 0.5)
    assert lock.step == step
    turns = found.frame["turn"].to_list()
    assert turns[1:] == pytest.approx([abs(b - a) for a, b in pairwise(degrees)], abs=1e-6)


def test_a_zero_update_has_a_norm_and_no_direction() -> None:
    sources = turned(0, 10, 0)
    zero = sources[0].modules["layers.0.q_proj"]
    assert isinstance(zero, Factors)
    sources[0].modules["layers.0.q_proj"] = zero._replace(B=np.zeros_like(zero.B))
    rows = trajectory(sources, (0, 1, 2), (1,)).frame.to_dicts()
    assert rows[0] == {"step": 0, "norm": 0.0} | dict.fromkeys(
        ("rank1_share", "cosine_to_previous", "turn", "cosine_to_last", "overlap_1")
    )
    assert rows[1]["turn"] is None  # nothing to turn from
    assert rows[2]["turn"] == pytest.approx(10)


def test_dora_checkpoints_with_their_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for step in (1, 2):
        train(base, tmp_path / "run" / f"checkpoint-{step}", lora(use_dora=True), seed=step)
    rows = read_trajectory(tmp_path / "run", (1,), base).frame.to_dicts()
    from tasks.geometry.adapters.checkpoint import Checkpoint
    from tasks.geometry.adapters.dora import DoraSource, Weights

    sources = [DoraSource(tmp_path / "run" / f"checkpoint-{step}", Weights(Checkpoint(base))) for step in (1, 2)]
    a, b = (np.concatenate([dense(one.read(name)).ravel() for name in one.shapes]) for one in sources)
    assert rows[0]["norm"] == pytest.approx(np.linalg.norm(a), rel=1e-12)
    assert rows[0]["cosine_to_last"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)
    with pytest.raises(InputError, match=r"checkpoint-1: its update is not scale \* B A \(DoRA.*--base MODEL"):
        read_trajectory(tmp_path / "run")


# --- refused --------------------------------------------------------------------------------------------------------


def test_too_few_checkpoints_are_refused(run: Path, tmp_path: Path) -> None:
    for step in STEPS[:-1]:
        shutil.rmtree(run / f"checkpoint-{step}")
    assert "only checkpoint-1000 in it; a trajectory takes two checkpoints or more" in refusal(run)
    assert "no checkpoint-N folder in it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_checkpoint_without_its_files_is_named(run: Path, name: str) -> None:
    (run / "checkpoint-10" / name).unlink()
    said = refusal(run)
    assert str(run / "checkpoint-10") in said
    assert f"{name} is missing" in said


def test_whole_models_are_refused(run: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / "checkpoint-5" / name).unlink()
    (run / "checkpoint-5" / "config.json").write_text("{}")
    assert "checkpoint-5: a whole model; a trajectory is read from adapters" in refusal(run)


def test_checkpoints_of_two_trainings_are_refused(run: Path) -> None:
    file = run / "checkpoint-100" / "adapter_model.safetensors"
    save_file({key: one for key, one in load_file(file).items() if PLACES[0] not in key}, file)
    assert f"checkpoint-100 has other modules than {run / 'checkpoint-5'}: not one training's" in refusal(run)


def test_a_diverged_checkpoint_is_named(run: Path) -> None:
    file = run / "checkpoint-100" / "adapter_model.safetensors"
    save_file({key: np.full_like(one, np.nan) for key, one in load_file(file).items()}, file)
    assert f"{run / 'checkpoint-100'}: module model.layers.0.self_attn.k_proj: 80 of 80 entries" in refusal(run)


def test_folders_of_other_names_are_no_checkpoints(run: Path) -> None:
    assert [step for step, _ in find_checkpoints(run)] == list(STEPS)
