"""Gradients before the first step: against autograd on the dense weights in float64, and against training itself."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from tasks.core.frames import GRADED
from tasks.core.results import RunInfo
from tasks.core.sections import TrainSpec
from tasks.geometry import load_delta
from tasks.methods import Methods
from tasks.methods.common import RowMethod
from tasks.training.alignment import PARTS
from tasks.training.gradients import (
    DIRECTIONS,
    GRADIENTS_FILE,
    ON_POLICY_FILE,
    drawn_rows,
    measure_gradients,
    method_gradients,
)
from tests.definitions.losses import preference_loss
from tests.lab.world import LORA, World, logged, make_graded, token_logprobs
from tests.unit.training.conftest import OFFLINE, RUN, make_trainer

SEED = 3
ROWS = 40  # of 48: ten of the twelve problems
PRECISE = TrainSpec(precision="float32", batch_size=8)
TAKEN = ("sft", "rft", "dft", "rift", "offline_grpo", "dpo")


def measured(world: World, out: Path, names: tuple[str, ...] = TAKEN, **changes: Any) -> pl.DataFrame:
    out.mkdir()
    given: dict[str, Any] = {
        "methods": {name: getattr(Methods(), name) for name in names}, "train": PRECISE, "lora": LORA, "seed": SEED,
        "rows": ROWS, "pad_token": None, **changes,
    }  # fmt: skip
    summary = measure_gradients(base=world.base, rollouts=world.rollouts, out=out, **given)
    assert summary["rows"] == given["rows"]
    directions = {DIRECTIONS} if changes.get("directions") else set()
    assert {path.name for path in out.iterdir()} == {GRADIENTS_FILE, ON_POLICY_FILE} | directions
    return pl.read_parquet(out / GRADIENTS_FILE)


@pytest.fixture(scope="module")
def frame(world: World, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return measured(world, tmp_path_factory.mktemp("gradients") / "out")


# --- the slow definition --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora_a(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Module -> lora_A (r, in) as every training of this seed begins."""
    assert RUN.seed == SEED
    trainer, _ = make_trainer(world, Methods().sft, TrainSpec(steps=1, batch_size=8), tmp_path_factory.mktemp("start"))
    ends = (".lora_A.default.weight", "base_model.model.")
    return {
        name.removeprefix(ends[1]).removesuffix(ends[0]): weight.detach().double()
        for name, weight in trainer.model.named_parameters()
        if name.endswith(ends[0])
    }


def loss_of(name: str, model: Any, graded: pl.DataFrame, problems: set[str]) -> torch.Tensor:
    """The method's loss on the examples of ``problems``, as its paper's formula, one sequence at a time."""
    method = getattr(Methods(), name)
    rows, texts = graded.rows(named=True), graded.select("prompt_ids", "completion_ids").rows()
    selected = [one for one in method.select(graded).rows(named=True) if rows[one["row"]]["problem_id"] in problems]
    if not isinstance(method, RowMethod):
        losses = []
        for one in selected:
            right, wrong = (
                token_logprobs(model, *texts[one[side]], grad=True).sum()[None] for side in ("row", "rejected_row")
            )
            losses.append(preference_loss(right, wrong, right.detach(), wrong.detach(), method.beta))
        return torch.cat(losses).mean()
    total, tokens = torch.zeros(()), 0
    for one in selected:
        own = token_logprobs(model, *texts[one["row"]], grad=True)
        weight = torch.tensor([one["weight"]], dtype=torch.float64)
        total = total + method.token_loss(own[None], torch.ones(1, len(own)), weight, None).sum()
        tokens += len(own)
    return total / tokens


Dense = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def slow(world: World, lora_a: dict[str, torch.Tensor]) -> dict[str, list[Dense]]:
    """Method -> dense gradients (out, in) of its loss on all drawn rows, and on either half, in float64."""
    from transformers import AutoModelForCausalLM

    drawn, parts = drawn_rows(make_graded(), ROWS, SEED)
    of = dict(zip(drawn["problem_id"], parts, strict=True))
    halves = [{one for one, part in of.items() if (part < PARTS // 2) == first} for first in (True, False)]
    model = AutoModelForCausalLM.from_pretrained(world.base, dtype=torch.float64)

    def gradient(name: str, problems: set[str]) -> Dense:
        model.zero_grad()
        loss_of(name, model, drawn, problems).backward()
        return {module: model.get_submodule(module).weight.grad.clone() for module in lora_a}

    return {name: [gradient(name, problems) for problems in (set(of), *halves)] for name in TAKEN}


def cosine(a: Dense, b: Dense, kept: str = "") -> float:
    x, y = (torch.cat([one[name].flatten() for name in one if kept in name]) for one in (a, b))
    return float(x @ y / x.norm() / y.norm())


def project(gradient: Dense, lora_a: Dense) -> Dense:
    """What lora_B sees: (out, r) = dL/dW lora_A^T."""
    return {name: one @ lora_a[name].T for name, one in gradient.items()}


def row(frame: pl.DataFrame, a: str, b: str, layer: int | None = None, projection: str | None = None) -> dict[str, Any]:
    kept = pl.col("layer").eq_missing(layer), pl.col("projection").eq_missing(projection)
    return frame.filter(pl.col("module") == "*", *kept, method_a=a, method_b=b).row(0, named=True)


def test_a_direction_is_the_step_down_the_gradient_from_lora_a(
    world: World, slow: dict[str, list[Dense]], lora_a: Dense, tmp_path: Path
) -> None:
    """As an adapter: alpha / r B A = -(alpha / r)^2 G A^T A, for B is down lora_B's gradient, alpha / r G A^T."""
    found = measured(world, tmp_path / "out", ("sft", "dpo"), directions=True)
    scale = LORA.alpha / LORA.r
    for name in ("sft", "dpo"):
        delta = load_delta(tmp_path / "out" / DIRECTIONS / name)
        assert set(delta.modules) == set(lora_a)
        for module, update in delta.modules.items():
            down = -(scale**2) * slow[name][0][module] @ lora_a[module].T @ lora_a[module]
            np.testing.assert_allclose(update.scale * update.B @ update.A, down, atol=2e-6 * float(down.abs().max()))
    one, other = (load_delta(tmp_path / "out" / DIRECTIONS / name) for name in ("sft", "dpo"))
    inner = sum(float(np.vdot(one.modules[m].B, other.modules[m].B)) for m in one.modules)
    sizes = [sum(float(np.vdot(f.B, f.B)) for f in delta.modules.values()) ** 0.5 for delta in (one, other)]
    assert inner / sizes[0] / sizes[1] == pytest.approx(row(found, "sft", "dpo")["projected"], abs=1e-6)


@pytest.mark.parametrize(("a", "b"), combinations(TAKEN, 2))
def test_cosines_are_those_of_autograd_on_the_dense_weights(
    frame: pl.DataFrame, slow: dict[str, list[Dense]], lora_a: Dense, a: str, b: str
) -> None:
    found, layer = row(frame, a, b), row(frame, a, b, layer=1)
    assert found["cosine"] == pytest.approx(cosine(slow[a][0], slow[b][0]), abs=2e-6)
    small = {name: [project(one, lora_a) for one in slow[name]] for name in (a, b)}
    assert found["projected"] == pytest.approx(cosine(small[a][0], small[b][0]), abs=2e-6)
    assert layer["cosine"] == pytest.approx(cosine(slow[a][0], slow[b][0], "layers.1."), abs=2e-6)
    assert layer["projected"] == pytest.approx(cosine(small[a][0], small[b][0], "layers.1."), abs=2e-6)
    keys = row(frame, a, b, projection="k_proj")["projected"]
    assert keys == pytest.approx(cosine(small[a][0], small[b][0], "k_proj"), abs=2e-6)
    # Halves of the rows, each by its own number of tokens or pairs: a cosine does not see the scale.
    assert found["half_a"] == pytest.approx(cosine(small[a][1], small[a][2]), abs=2e-6)
    assert found["half_b"] == pytest.approx(cosine(small[b][1], small[b][2]), abs=2e-6)
    assert found["low"] <= found["projected"] <= found["high"]


def test_lora_b_s_gradient_is_the_dense_one_times_lora_a(
    world: World, slow: dict[str, list[Dense]], lora_a: Dense, tmp_path: Path
) -> None:
    """At lora_B = 0: d/dB of L(W + alpha / r B A) = alpha / r dL/dW A^T, to the number."""
    drawn, parts = drawn_rows(make_graded(), ROWS, SEED)
    method, info = Methods().dft, RunInfo("dft", "dft", SEED, SEED, 1e-2)
    found, _ = method_gradients(
        world.base, drawn, parts, method.select(drawn), method, PRECISE, LORA, info, None, tmp_path, 0
    )
    for name, dense in slow["dft"][0].items():
        expected = LORA.alpha / LORA.r * dense @ lora_a[name].T
        np.testing.assert_allclose(found.projected[name].sum(0), expected.flatten(), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(found.dense[name], dense.flatten(), rtol=1e-3, atol=1e-6)


# --- the loss that is trained -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFLINE)
def test_it_is_the_gradient_of_the_first_step(world: World, tmp_path: Path, name: str) -> None:
    """A training of one step whose batch is all examples logs its gradient's norm: lora_A's is 0, lora_B's ours."""
    method, graded = getattr(Methods(), name), make_graded()
    selected = method.select(graded)
    info = RunInfo(name, name, SEED, 7, 1e-2)
    train = PRECISE.model_copy(update={"steps": 1, "batch_size": selected.height})
    world.train(tmp_path / "trained", method, info, train)
    (norm,) = logged(tmp_path / "trained", "grad_norm")
    drawn, parts = drawn_rows(graded, graded.height, SEED)
    assert drawn.equals(graded)
    found, _ = method_gradients(world.base, drawn, parts, selected, method, PRECISE, LORA, info, None, tmp_path, 0)
    own = np.concatenate([one.sum(0) for one in found.projected.values()])
    assert float(np.linalg.norm(own)) == pytest.approx(norm, rel=1e-5)
    assert found.examples == selected.height


@pytest.mark.slow
def test_passes_and_order_of_the_methods_change_nothing(world: World, frame: pl.DataFrame, tmp_path: Path) -> None:
    names = ("rft", "offline_grpo", "dpo")
    frame = frame.filter(pl.col("method_a").is_in(names), pl.col("method_b").is_in(names))
    assert measured(world, tmp_path / "again", names).equals(frame)
    halved = PRECISE.model_copy(update={"micro_batch_size": 2})
    other = measured(world, tmp_path / "other", tuple(reversed(names)), train=halved)
    turned = {"method_a": "method_b", "method_b": "method_a", "half_a": "half_b", "half_b": "half_a"}
    turned |= {"examples_a": "examples_b", "examples_b": "examples_a"}
    keys = ["method_a", "method_b", "module", "layer", "projection"]
    left, right = (one.select(frame.columns).sort(keys) for one in (frame, other.rename(turned)))
    for column in frame.columns:
        if frame.schema[column] != pl.Float64:
            assert left[column].equals(right[column])
        else:
            assert float((left[column] - right[column]).abs().max() or 0.0) < 2e-4, column


@pytest.mark.parametrize(("precision", "within"), [("float32", 2e-6), ("bfloat16", 0.02)])
def test_without_padding_and_in_bfloat16_as_on_a_gpu(
    world: World, frame: pl.DataFrame, tmp_path: Path, precision: str, within: float
) -> None:
    """Seen in bfloat16: .010. Weights that are not in float32 have no gradient of their own here."""
    changes = {"precision": precision, "packing": "on", "micro_batch_tokens": 60}
    names = ("sft", "dft", "dpo")
    found = measured(world, tmp_path / "out", names, train=PRECISE.model_copy(update=changes))
    both = found.join(frame, on=["method_a", "method_b", "module", "layer", "projection"], nulls_equal=True)
    assert both.height == found.height
    assert float((both["projected"] - both["projected_right"]).abs().max() or 0.0) < within
    assert (found["cosine"].null_count() == found.height) == (precision == "bfloat16")


def test_methods_without_a_gradient_on_these_rows_are_left_out(world: World, tmp_path: Path) -> None:
    """Online GRPO answers itself; the first problem's rewards are all right, so of it alone DPO has no pair."""
    graded = make_graded().head(4)
    graded.write_parquet(tmp_path / "rollouts.parquet")
    names = ("sft", "dft", "dpo", "online_grpo")
    summary = measure_gradients(
        base=world.base, rollouts=tmp_path / "rollouts.parquet", out=tmp_path, seed=SEED, rows=4, pad_token=None,
        methods={name: getattr(Methods(), name) for name in names}, train=PRECISE, lora=LORA,
    )  # fmt: skip
    assert summary["left_out"] == "dpo, online_grpo"
    found = pl.read_parquet(tmp_path / GRADIENTS_FILE)
    assert found.select("method_a", "method_b").unique().rows() == [("sft", "dft")]
    # One problem is one part: there is no other half, and nothing to judge its noise by.
    assert found["half_a"].null_count() == found["corrected"].null_count() == found.height
    assert found["projected"].null_count() == 0


# --- the rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def many() -> pl.DataFrame:
    """100 problems of 3 rollouts."""
    ids = [f"p{i % 100}" for i in range(300)]
    return pl.DataFrame({"problem_id": ids}, schema={"problem_id": GRADED["problem_id"]})


def test_rows_are_whole_problems_in_equal_parts(many: pl.DataFrame) -> None:
    drawn, parts = drawn_rows(many, 64, 0)
    assert drawn.height == 66  # 22 problems: the first number of them with at least 64 rows
    of = drawn.with_columns(part=pl.Series(parts)).group_by("problem_id").agg(pl.len(), pl.col("part").n_unique())
    assert set(of.select("len", "part").rows()) == {(3, 1)}
    assert sorted(np.bincount(parts, minlength=PARTS) // 3) == [2, 2, 3, 3, 3, 3, 3, 3]
    assert drawn["problem_id"].to_list() == [one for one in many["problem_id"] if one in set(drawn["problem_id"])]
    assert not drawn_rows(many, 64, 1)[0].equals(drawn)
    assert drawn_rows(many, 1000, 0)[0].height == 300
