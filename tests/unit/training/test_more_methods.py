"""IPO, SimPO, KTO and ASFT as they are trained, against their definitions on single sequences without padding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.asft import Asft, divergence
from tasks.methods.ipo import Ipo
from tasks.methods.kto import Kto
from tasks.methods.pairs import PairMethod
from tasks.methods.simpo import Simpo
from tests.definitions.losses import identity_loss, margin_loss, prospect_loss
from tests.lab.world import World, logged, make_graded, token_logprobs
from tests.unit.training.conftest import RUN, first_batch, make_trainer, perturb

STEP = TrainSpec(steps=1, batch_size=16)


def ipo(model: Any, prompt: list[int], chosen: list[int], rejected: list[int]) -> float:
    ratios = [
        (token_logprobs(model, prompt, ids) - token_logprobs(model, prompt, ids, base=True)).mean()[None]
        for ids in (chosen, rejected)
    ]
    return float(identity_loss(*ratios, beta=0.3))


def simpo(model: Any, prompt: list[int], chosen: list[int], rejected: list[int]) -> float:
    means = [token_logprobs(model, prompt, ids).mean()[None] for ids in (chosen, rejected)]
    return float(margin_loss(*means, beta=2.5, gamma=1.5))


@pytest.mark.parametrize(
    ("method", "definition"), [(Ipo(beta=0.3), ipo), (Simpo(beta=2.5, gamma=1.5), simpo)], ids=["ipo", "simpo"]
)
def test_trls_loss_of_a_batch_of_pairs_is_the_definition(
    world: World, tmp_path: Path, method: PairMethod, definition: Callable[..., float]
) -> None:
    """TRL's DPOTrainer on a perturbed adapter."""
    trainer, _ = make_trainer(world, method, STEP, tmp_path)
    perturb(trainer.model)
    losses = [
        definition(trainer.model, pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"])
        for pair in trainer.train_dataset
    ]
    trls = float(trainer.compute_loss(trainer.model, first_batch(trainer)).detach())
    assert max(losses) > 2 * min(losses)  # pairs differ, so a mean of anything else would show
    assert trls == pytest.approx(sum(losses) / 16, rel=1e-5)


def test_simpo_runs_no_reference_model(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = make_trainer(world, Simpo(), STEP, tmp_path)
    perturb(trainer.model)
    batch = first_batch(trainer)
    before = float(trainer.compute_loss(trainer.model, dict(batch)).detach())
    calls: list[int] = []
    plain = trainer.model.get_base_model().forward
    monkeypatch.setattr(
        trainer.model.get_base_model(), "forward", lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    )
    assert float(trainer.compute_loss(trainer.model, dict(batch)).detach()) == before
    assert calls == [1]  # DPO and IPO without stored log-probabilities need two


@pytest.mark.parametrize("kl_sign", [1, -1], ids=["kl", "kl-below-zero"])
def test_trls_kto_loss_of_a_batch_is_the_definition(world: World, tmp_path: Path, kl_sign: int) -> None:
    """TRL's KTOTrainer on a perturbed adapter. Of two perturbations one estimates a KL above 0, one below."""
    graded = make_graded()
    method = Kto(beta=0.4, desirable_weight=1.0, undesirable_weight=1.5)
    trainer, collator = make_trainer(world, method, STEP, tmp_path)
    model = trainer.model
    perturb(model, 0.3 * kl_sign)
    batch = first_batch(trainer)
    rows = [graded.row(row, named=True) for row in collator.seen]

    def ratio(prompt: list[int], ids: list[int]) -> float:
        return float((token_logprobs(model, prompt, ids) - token_logprobs(model, prompt, ids, base=True)).sum())

    previous = [rows[-1], *rows[:-1]]
    estimate = sum(
        ratio(row["prompt_ids"], other["completion_ids"]) for row, other in zip(rows, previous, strict=True)
    ) / len(rows)
    losses_B = prospect_loss(
        torch.tensor([ratio(row["prompt_ids"], row["completion_ids"]) for row in rows]),
        torch.tensor([row["reward"] == 1.0 for row in rows]),
        max(0.0, estimate),
        0.4,
        1.0,
        1.5,
    )
    trainer.current_gradient_accumulation_steps = 1  # as `train` sets it
    trls = float(trainer.training_step(model, dict(batch)))
    assert trainer._metrics["train"]["kl"] == pytest.approx([max(0.0, estimate)], rel=1e-4)
    assert trls == pytest.approx(float(losses_B.mean()), rel=1e-5)
    assert estimate * kl_sign > 0.1


def token_logits(model: Any, prompt: list[int], completion: list[int], *, base: bool = False) -> torch.Tensor:
    """(T, V) logits that predict one completion's tokens."""
    with torch.no_grad(), model.disable_adapter() if base else nullcontext():
        return model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].double()


@pytest.mark.parametrize("packing", ["off", "on"])
def test_asft_loss_of_a_batch_is_the_definition(world: World, tmp_path: Path, packing: str) -> None:
    graded = make_graded()
    method = Asft(anchor=0.7)
    train = STEP.model_copy(update={"packing": packing})
    trainer, collator = make_trainer(world, method, train, tmp_path)
    perturb(trainer.model)
    loss = float(trainer.compute_loss(trainer.model, first_batch(trainer)).detach())
    terms, kl, tokens = 0.0, 0.0, 0
    for row in collator.seen:
        source = graded.row(row, named=True)
        texts = source["prompt_ids"], source["completion_ids"]
        logprobs_T = token_logprobs(trainer.model, *texts)
        terms -= float((logprobs_T.exp() * logprobs_T).sum())
        policy_TV, base_TV = (token_logits(trainer.model, *texts, base=base) for base in (False, True))
        kl += float(divergence(policy_TV, base_TV).sum())
        tokens += len(logprobs_T)
    assert kl / tokens > 0.05
    assert loss == pytest.approx((terms + 0.7 * kl) / tokens, rel=1e-5)


def test_a_stronger_anchor_keeps_nearer_to_the_base(world: World, tmp_path: Path) -> None:
    """The last logged KL of the same training: 20 steps, anchors .01 and 10."""
    train = TrainSpec(lr=1e-2, steps=20, batch_size=8, scheduler="constant")
    last = {}
    for anchor in (0.01, 10.0):
        world.train(tmp_path / str(anchor), Asft(anchor=anchor), RUN, train)
        first, *_, last[anchor] = logged(tmp_path / str(anchor), "anchor_kl")
        assert first < 1e-6  # a fresh adapter is the base
    assert last[10.0] < last[0.01] / 5


def test_a_model_that_reshapes_its_logits_cannot_be_anchored(world: World, tmp_path: Path) -> None:
    base = shutil.copytree(world.base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "logits_scaling": 8.0}))
    with pytest.raises(InputError, match=r"^methods: asft cannot anchor qwen3, whose config sets logits_scaling$"):
        make_trainer(World(base, world.rollouts), Asft(), STEP, tmp_path / "out")
