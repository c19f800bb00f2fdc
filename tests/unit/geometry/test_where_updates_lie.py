"""Where updates lie in the base: by hand, and what chance gives; entries that two of them change in bfloat16."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.base.energy import principal_energy, small_energy
from tasks.geometry.delta import Dense, Factors
from tasks.geometry.visible import NAME, visible_frame
from tests.lab.frames import WHOLE
from tests.lab.updates import Memory, dense, frame_of, infos, random_factors


def test_hand_worked_energies() -> None:
    """[[1, 2], [0, 2]] has 1 of its 9 on the first axes, where an update in any direction has a quarter."""
    update, first = np.array([[1.0, 2.0], [0.0, 2.0]]), np.eye(2)[:, :1]
    assert principal_energy(update, first, first) == pytest.approx(4 / 9)
    assert principal_energy(update, np.eye(2), np.eye(2)) == pytest.approx(1)
    # The smallest half of |weight| are 1 and 2, where the update has 2^2 + 0 of 9.
    weight = np.array([[4.0, -1.0], [2.0, -3.0]])
    assert small_energy(update, weight, 0.5) == pytest.approx(4 / 9 / 0.5)
    # Of three equal entries the fourth part of all is one third of each: (4 + 0 + 4) / 3 of 9, and 4 times that.
    assert small_energy(update, np.array([[4.0, 1.0], [1.0, 1.0]]), 0.25) == pytest.approx(8 / 3 / 9 * 4)


def test_an_update_in_any_direction_has_what_chance_gives() -> None:
    rng = np.random.default_rng(0)
    weight, left, right = rng.standard_normal((30, 20)), frame_of(rng, 30, 4), frame_of(rng, 20, 4)
    updates = [dense(random_factors(rng, 30, 20, 3)) for _ in range(600)]
    principal = [principal_energy(update, left, right) for update in updates]
    small = [small_energy(update, weight) for update in updates]
    for found in (principal, small):
        assert np.mean(found) == pytest.approx(1, abs=4 * np.std(found) / np.sqrt(600))


def test_a_zero_update_lies_nowhere() -> None:
    nothing = np.zeros((3, 3))
    assert math.isnan(principal_energy(nothing, np.eye(3), np.eye(3)))
    assert math.isnan(small_energy(nothing, np.eye(3)))


LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """Weights of which a fifth are a thousand times smaller."""
    rng = np.random.default_rng(1)
    small = rng.random((2, 40, 30)) < 0.2
    weights = np.where(small, 1e-3, 1.0) * rng.standard_normal((2, 40, 30))
    tensors = {f"{name}.weight": weights[i].astype(np.float32) for i, name in enumerate(LAYERS)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return Checkpoint(tmp_path)


def shown(base: Checkpoint, source: Memory, name: str) -> np.ndarray:
    """The definition: torch's bfloat16 of the merged weight is another number than that of the base."""
    weight, update = base.read_weight(name, source.shapes[name]), dense(source.read(name))
    before, after = (torch.from_numpy(w).to(torch.bfloat16) for w in (weight, weight + update))
    return (before != after).numpy()


def test_it_is_the_share_of_entries_that_torchs_bfloat16_shows_for_both(base: Checkpoint) -> None:
    rng = np.random.default_rng(2)
    a, b = (Memory({n: random_factors(rng, 40, 30, 2)._replace(scale=1e-3) for n in LAYERS}) for _ in range(2))
    frame = visible_frame([a, b], infos(2), base)
    masks = {name: (shown(base, a, name), shown(base, b, name)) for name in LAYERS}
    both = {name: np.sum(x & y) for name, (x, y) in masks.items()}
    either = {name: np.sum(x | y) for name, (x, y) in masks.items()}
    rows = {(row["module"], row["layer"], row["projection"]): row for row in frame.iter_rows(named=True)}
    assert len(rows) == 1 + 2 + 1 + 2
    assert set(frame["metric"]) == {NAME}
    for i, name in enumerate(LAYERS):
        assert rows[name, i, "q_proj"]["value"] == both[name] / either[name]
        assert rows["*", i, None]["value"] == both[name] / either[name]
    whole = rows["*", None, None]
    assert whole["value"] == sum(both.values()) / sum(either.values())
    assert 0 <= whole["low"] < whole["value"] < whole["high"] <= 1
    assert whole["percentile"] is whole["null_sd"] is None
    # Unrelated updates show on common entries, the small ones of the base, and no more than shuffled ones do.
    assert whole["value"] > 1.5 * independent(masks)
    assert whole["value"] == pytest.approx(whole["null"], abs=0.06)


def independent(masks: dict[str, tuple[np.ndarray, np.ndarray]]) -> float:
    """Jaccard's index of masks as dense as these that have nothing to do with each other, or with the base."""
    p, q = (np.mean([pair[i] for pair in masks.values()]) for i in (0, 1))
    return float(p * q / (p + q - p * q))


def test_an_update_and_itself_show_on_the_same_entries_and_shuffled_they_do_not(base: Checkpoint) -> None:
    rng = np.random.default_rng(3)
    a = Memory({n: random_factors(rng, 40, 30, 2)._replace(scale=1e-3) for n in LAYERS})
    whole = Memory({n: Dense(dense(f)) for n, f in a.modules.items()})
    turned = Memory({n: Factors(-f.B, f.A, f.scale) for n, f in a.modules.items() if isinstance(f, Factors)})
    frame = visible_frame([a, whole, turned], infos(3), base).filter(*WHOLE)
    assert frame["value"][0] == 1.0
    assert frame["value"][1] == frame["value"][2]
    assert (frame["null"] < 0.7).all()


def test_where_nothing_changes_there_is_no_value(base: Checkpoint) -> None:
    nothing = Memory({n: Factors(np.zeros((40, 1)), np.ones((1, 30)), 1.0) for n in LAYERS})
    assert visible_frame([nothing, nothing], infos(2), base)["value"].null_count() == 6
