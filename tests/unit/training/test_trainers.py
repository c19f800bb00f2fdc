"""Our trainers against TRL's own and against definitions written out one sequence at a time."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
import torch

from tasks.core.sections import TrainSpec
from tasks.methods import Methods
from tasks.methods.common import Method, RowMethod
from tasks.methods.dft import Dft
from tasks.methods.dpo import Dpo
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.methods.rift import Rift
from tasks.methods.sft import Sft
from tasks.training.order import stream_order
from tasks.training.train import lora_a_digest
from tests.definitions.losses import preference_loss
from tests.lab.world import World, assert_near, logged, make_graded, read_adapter, token_logprobs
from tests.unit.training.conftest import RUN, first_batch, make_trainer, perturb


class WeightedSft(Sft):
    """SFT through our subclass instead of TRL's ``nll``."""

    trl_loss: ClassVar[str | None] = None


class WeightedDft(Dft):
    """DFT through our subclass instead of TRL's ``dft``."""

    trl_loss: ClassVar[str | None] = None


# --- one loss, two ways ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize(("ours", "trls"), [(WeightedSft(), Sft()), (WeightedDft(), Dft())], ids=["nll", "dft"])
def test_weight_one_through_our_subclass_is_trl_bit_for_bit(
    world: World, tmp_path: Path, ours: RowMethod, trls: RowMethod, micro: int | None
) -> None:
    train = TrainSpec(steps=6, batch_size=16, micro_batch_size=micro)
    world.train(tmp_path / "ours", ours, RUN, train)
    world.train(tmp_path / "trls", trls, RUN, train)
    left, right = read_adapter(tmp_path / "ours"), read_adapter(tmp_path / "trls")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    logs = [pl.read_parquet(tmp_path / side / "training.parquet") for side in ("ours", "trls")]
    columns = ["step", "metric", "value"]
    assert logs[0].select(columns).sort(columns).equals(logs[1].select(columns).sort(columns))


FORMS = [Rift(), Rift(form="stabilized"), Rift(form="as_printed")]
ROW_METHODS = [Sft(), Dft(), *FORMS, OfflineGrpo(), OfflineGrpo(scale="std", clip=0.2)]


@pytest.mark.parametrize("method", ROW_METHODS, ids=lambda method: repr(method)[:40])
def test_batch_loss_is_the_definition_over_single_sequences(world: World, tmp_path: Path, method: RowMethod) -> None:
    """sum over rows and tokens of `token_loss`, by the completion tokens, on a perturbed adapter."""
    graded = make_graded()
    trainer, collator = make_trainer(world, method, TrainSpec(steps=1, batch_size=16), tmp_path, graded)
    perturb(trainer.model)
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    weight = dict(method.select(graded).select("row", "weight").iter_rows())
    total, tokens = 0.0, 0
    for row in collator.seen:
        source = graded.row(row, named=True)
        logprobs_T = token_logprobs(trainer.model, source["prompt_ids"], source["completion_ids"])
        terms_BT = method.token_loss(
            logprobs_T[None],
            torch.ones(1, len(logprobs_T)),
            torch.tensor([weight[row]], dtype=torch.float64),
            torch.tensor([source["logprobs"]], dtype=torch.float64),
        )
        total, tokens = total + float(terms_BT.sum()), tokens + len(logprobs_T)
    assert len(collator.seen) == 16
    assert float(loss.detach()) == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_preference_loss_is_trls_dpo(world: World, tmp_path: Path, beta: float) -> None:
    """On a perturbed adapter: TRL's batch loss against eq. 7 on log-probabilities of single sequences."""
    graded = make_graded()
    method = Dpo(beta=beta)
    trainer, _ = make_trainer(world, method, TrainSpec(steps=1, batch_size=16), tmp_path, graded)
    perturb(trainer.model)
    model = trainer.model
    losses, margins = [], []
    for pair in trainer.train_dataset:
        prompt, chosen, rejected = pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"]
        right, wrong = (token_logprobs(model, prompt, ids).sum()[None] for ids in (chosen, rejected))
        ref_right, ref_wrong = (token_logprobs(model, prompt, ids, base=True).sum()[None] for ids in (chosen, rejected))
        losses.append(float(preference_loss(right, wrong, ref_right, ref_wrong, beta=beta)))
        margins.append(float(right - ref_right - wrong + ref_wrong))
    trls = float(trainer.compute_loss(model, first_batch(trainer)).detach())
    assert min(margins) < -0.5 < 0.5 < max(margins)  # far from log 2 on both sides
    assert trls == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("loss_type", ["hinge", "ipo", "robust", "exo_pair"])
def test_every_offered_loss_type_is_one_that_trl_runs(world: World, tmp_path: Path, loss_type: str) -> None:
    smoothing = 0.1 if loss_type in ("robust", "exo_pair") else 0.0
    method = Dpo.model_validate({"loss_type": loss_type, "label_smoothing": smoothing})
    trainer, _ = make_trainer(world, method, TrainSpec(steps=1, batch_size=4), tmp_path)
    loss = float(trainer.compute_loss(trainer.model, first_batch(trainer)).detach())
    # At zero margin: hinge 1; ipo (0 - 1 / (2 * 0.1))^2 = 25; robust (0.9 - 0.1) log 2 / (1 - 0.2) = log 2;
    # exo_pair KL((.5, .5) || (.9, .1)) = -log 2 - (log .9 + log .1) / 2
    zero = {"hinge": 1.0, "ipo": 25.0, "robust": log(2), "exo_pair": -log(2) - (log(0.9) + log(0.1)) / 2}
    assert loss == pytest.approx(zero[loss_type], rel=1e-5)


def test_clipped_ratio_is_one_where_the_behaviour_is_the_policy(world: World, tmp_path: Path) -> None:
    """With the base's own log-probabilities stored, step 1 has rho = 1 at every token: the loss is -sum A_i T_i / T."""
    graded = make_graded()
    method = OfflineGrpo(clip=0.1)
    train = TrainSpec(steps=1, batch_size=48)
    model = make_trainer(world, method, train, tmp_path, graded)[0].model
    own = [
        token_logprobs(model, prompt, completion).tolist()
        for prompt, completion in graded.select("prompt_ids", "completion_ids").iter_rows()
    ]
    graded = graded.with_columns(logprobs=pl.Series(own, dtype=pl.List(pl.Float64)))
    trainer, _ = make_trainer(world, method, train, tmp_path, graded)
    loss = trainer.compute_loss(trainer.model, first_batch(trainer))
    lengths = graded["completion_ids"].list.len()
    expected = -float((method.select(graded)["weight"] * lengths).sum()) / float(lengths.sum())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_evaluation_losses_are_refused(world: World, tmp_path: Path) -> None:
    trainer, _ = make_trainer(world, Rift(), TrainSpec(steps=1, batch_size=4), tmp_path)
    with pytest.raises(ValueError, match="training losses only"):
        trainer.compute_loss(trainer.model, first_batch(trainer), return_outputs=True)


# --- accumulation ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [Rift(), OfflineGrpo(), Sft(), Dpo()], ids=["rift", "grpo", "sft", "dpo"])
def test_four_micro_batches_are_one_batch(world: World, tmp_path: Path, method: Method) -> None:
    """Equal but for the order of float32 sums (seen: 2e-7 in the log, 7e-6 in the adapters).

    Micro-batches hold unequal numbers of tokens, so a mean of their means would be off by per cents for rows.
    """
    for micro in (16, 4):
        world.train(tmp_path / str(micro), method, RUN, TrainSpec(steps=4, batch_size=16, micro_batch_size=micro))
    for metric in ("loss", "grad_norm"):
        assert logged(tmp_path / "4", metric) == pytest.approx(logged(tmp_path / "16", metric), rel=1e-5), metric
    assert_near(read_adapter(tmp_path / "4"), read_adapter(tmp_path / "16"))


# --- initialisation and order ---------------------------------------------------------------------------------------


def lora(model: Any, part: str) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if f"lora_{part}" in name}


def test_fresh_adapters_are_bit_identical_over_methods_and_start_at_the_base(world: World, tmp_path: Path) -> None:
    graded, train = make_graded(), TrainSpec(steps=1, batch_size=4)
    models = {
        name: make_trainer(world, getattr(Methods(), name), train, tmp_path, graded)[0].model
        for name in ("sft", "rift", "dpo")
    }
    first = lora(models["sft"], "A")
    assert len(first) == 8
    for model in models.values():
        found = lora(model, "A")
        assert all(torch.equal(found[name], first[name]) for name in first)
        assert not any(value.any() for value in lora(model, "B").values())
        assert lora_a_digest(model) == lora_a_digest(models["sft"])
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert trained == set(found) | set(lora(model, "B"))
    with torch.no_grad():
        name = next(iter(first))
        models["rift"].get_parameter(name).view(-1)[0] += 1e-7
    assert lora_a_digest(models["rift"]) != lora_a_digest(models["sft"])


@pytest.mark.parametrize("micro", [None, 2])
def test_the_loss_sees_the_rows_in_stream_order(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int | None
) -> None:
    """What reaches `compute_loss` step by step, read back from the token ids and not from the collator's own notes."""
    graded = make_graded()
    train = TrainSpec(steps=5, batch_size=4, micro_batch_size=micro)
    trainer, collator = make_trainer(world, Rift(), train, tmp_path, graded)
    seen: list[list[int]] = []
    plain = trainer.compute_loss

    def record(model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        masks = inputs["attention_mask"].bool()
        seen.extend(ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], masks, strict=True))
        return plain(model, inputs, **kwargs)

    monkeypatch.setattr(trainer, "compute_loss", record)
    trainer.train()
    order = stream_order(graded.with_row_index("row")["row"].to_numpy(), graded.height, 20, RUN.data_seed)
    rows = [graded.row(int(row), named=True) for row in order]
    assert seen == [row["prompt_ids"] + row["completion_ids"] for row in rows]
    assert collator.seen == order.tolist()
