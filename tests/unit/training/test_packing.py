"""Runs without padding, with gradient checkpointing and without full logits: the same numbers as the plain way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods import Method
from tasks.methods.asft import Asft
from tasks.methods.dft import Dft
from tasks.methods.dpo import Dpo
from tasks.methods.kto import Kto
from tasks.methods.offline_grpo import OfflineGrpo
from tasks.methods.rift import Rift
from tasks.methods.sft import Sft
from tasks.training.packing import run_without_padding, why_padded
from tests.lab.models import small_model
from tests.lab.world import EOS, PAD, World, assert_near
from tests.unit.training.conftest import Found, first_batch, four_steps, make_trainer

LENGTHS = (20, 7, 13, 3)
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def make_model(**changes: Any) -> Any:
    model = small_model(**changes)
    model.set_attn_implementation("sdpa")
    return model.train()


def make_batch() -> dict[str, torch.Tensor]:
    """Four right-padded sequences of `LENGTHS` tokens; the first two tokens of each carry no loss."""
    generator = torch.Generator().manual_seed(1)
    width = torch.arange(max(LENGTHS))
    mask_BT = (width < torch.tensor(LENGTHS)[:, None]).long()
    ids_BT = torch.randint(3, 50, mask_BT.shape, generator=generator) * mask_BT
    labels_BT = ids_BT.masked_fill((mask_BT == 0) | (width < 2), -100)
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


def fused(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    return model(**batch, use_cache=False, fused_lm_head=True)


@pytest.fixture
def models() -> tuple[Any, Any]:
    """The same weights, padded and packed."""
    padded = make_model()
    packed = copy.deepcopy(padded)
    for model in (padded, packed):
        add_fused_lm_head(model, outputs=OUTPUTS)
    run_without_padding(packed)
    return padded, packed


def test_packed_outputs_and_gradients_are_the_padded_ones(models: tuple[Any, Any]) -> None:
    """Equal but for the order of float32 sums (seen: 1.4e-6 in the outputs, 5e-7 in the gradients)."""
    found, gradients = [], []
    for model in models:
        outputs = fused(model, make_batch())
        outputs.log_probs.square().sum().backward()
        found.append(outputs)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name in (*OUTPUTS, "label_mask", "loss"):
        left, right = (getattr(outputs, name) for outputs in found)
        assert left.shape == right.shape, name
        assert torch.allclose(left.float(), right.float(), atol=1e-5, rtol=1e-5), name
    assert_near(gradients[1], gradients[0], within=1e-5)


def test_a_packed_sequence_is_blind_to_its_neighbours(models: tuple[Any, Any]) -> None:
    """Other tokens in the second sequence, or its loss alone: not a bit changes for the others."""
    _, packed = models
    batch = make_batch()
    before = fused(packed, batch).log_probs
    batch["input_ids"][1, :7] = (batch["input_ids"][1, :7] + 5) % 50
    after = fused(packed, batch).log_probs
    others = [0, 2, 3]
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[1], after[1])
    embeddings = packed.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    packed.get_input_embeddings().register_forward_hook(lambda *_: embeddings_of(embeddings, batch))
    fused(packed, batch).log_probs[1].sum().backward()
    assert embeddings.grad is not None
    assert not embeddings.grad[others].any()
    assert embeddings.grad[1].any()


def embeddings_of(embeddings: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return embeddings[batch["attention_mask"].bool()][None]


def test_packed_is_each_sequence_alone(models: tuple[Any, Any]) -> None:
    plain, packed = make_model(), models[1]
    batch = make_batch()
    found_BT = fused(packed, batch).log_probs
    for row, length in enumerate(LENGTHS):
        ids = batch["input_ids"][row, :length]
        logprobs_TV = plain(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        expected_T = logprobs_TV.gather(1, ids[1:, None])[:, 0]
        assert torch.allclose(found_BT[row, 1 : length - 1], expected_T[1:], atol=1e-5)
        assert found_BT[row, 0] == 0  # the second token carries no loss
        assert not found_BT[row, length - 1 :].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_transformers_own_packing_by_position_ids_is_exact_too(models: tuple[Any, Any], attention: str) -> None:
    plain = make_model()
    plain.set_attn_implementation(attention)
    add_fused_lm_head(plain)
    batch = make_batch()
    real = batch["attention_mask"].bool()
    labels_S = batch["labels"][real]
    logprobs_S = plain(
        input_ids=batch["input_ids"][real][None],
        position_ids=torch.cat([torch.arange(length) for length in LENGTHS])[None],
        labels=labels_S[None],
        fused_lm_head=True,
    ).log_probs[0]
    found_BT = fused(models[1], batch).log_probs
    assert torch.allclose(logprobs_S[logprobs_S != 0], found_BT[found_BT != 0], atol=1e-5)


def test_calls_with_logits_are_unchanged(models: tuple[Any, Any]) -> None:
    batch = make_batch()
    del batch["labels"]
    left, right = (model(**batch).logits for model in models)
    assert torch.equal(left, right)


def test_models_whose_attention_is_not_full_and_causal_are_padded() -> None:
    assert why_padded(make_model()) is None
    sliding = make_model(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert why_padded(sliding) == "qwen3 has layers that are not full attention"


# --- whole trainings -------------------------------------------------------------------------------------------------

METHODS = [Sft(), Rift(), Dft(), OfflineGrpo(scale="std", clip=0.2), Dpo(), Kto(), Asft(anchor=5.0)]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_packed_training_is_the_padded_one(plain: Callable[[Method, str], Found], method: Method) -> None:
    """Seen: 2e-7 in the losses, 1e-5 in the adapters (Adam divides by small gradients)."""
    padded, packed = plain(method, "off"), plain(method, "on")
    assert packed.losses == pytest.approx(padded.losses, rel=1e-5)
    assert_near(packed.adapter, padded.adapter)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["off", "on"])
@pytest.mark.parametrize("method", [Rift(), Dpo()], ids=["rift", "dpo"])
def test_gradient_checkpointing_changes_no_bit(
    world: World, tmp_path: Path, plain: Callable[[Method, str], Found], method: Method, packing: str
) -> None:
    kept = plain(method, packing)
    redone = four_steps(world, tmp_path / "redone", method, packing=packing, gradient_checkpointing="on")
    assert kept.losses == redone.losses
    assert all(torch.equal(redone.adapter[name], value) for name, value in kept.adapter.items())


def test_a_gpu_run_begins_from_the_same_lora_a(world: World, tmp_path: Path) -> None:
    """Neither packing, checkpointing nor micro-batches draw random numbers before the adapter does, or after."""
    plain = TrainSpec(steps=1, batch_size=8)
    other = TrainSpec(steps=1, batch_size=8, packing="on", gradient_checkpointing="on", micro_batch_tokens=32)
    left, right = (make_trainer(world, Rift(), train, tmp_path)[0].model.state_dict() for train in (plain, other))
    names = [name for name in left if "lora_A" in name]
    assert len(names) == 8
    assert all(torch.equal(left[name], right[name]) for name in names)


def test_lora_layers_under_autocast_without_pefts_casts_give_the_same_bits(world: World, tmp_path: Path) -> None:
    """We leave out PEFT's copy of a LoRA layer's input in float32, which autocast rounds to bfloat16 again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    trainer, _ = make_trainer(world, Rift(), TrainSpec(steps=1, batch_size=8, precision="bfloat16"), tmp_path)
    batch = first_batch(trainer)
    layers = [module for module in trainer.model.modules() if isinstance(module, BaseTunerLayer)]
    assert len(layers) == 8
    assert not any(layer.cast_input_dtype_enabled for layer in layers)
    found = []
    for cast in (False, True):
        for layer in layers:
            layer.cast_input_dtype_enabled = cast
        trainer.model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = trainer.training_step(trainer.model, dict(batch), batch["labels"].ne(-100).sum())
        gradients = [parameter.grad for parameter in trainer.model.parameters() if parameter.requires_grad]
        found.append((loss, gradients))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(left, right) for left, right in zip(found[0][1], found[1][1], strict=True))
    assert any(gradient.any() for gradient in found[0][1])


def test_packing_that_cannot_be_is_refused(world: World, tmp_path: Path) -> None:
    base = tmp_path / "sliding"
    sliding = Qwen3ForCausalLM.from_pretrained(world.base)
    sliding.config.layer_types = ["full_attention", "sliding_attention"]
    sliding.config.use_sliding_window, sliding.config.sliding_window = True, 4
    sliding.save_pretrained(base)
    for path in world.base.glob("tokenizer*"):
        (base / path.name).write_bytes(path.read_bytes())
    train = TrainSpec(steps=1, batch_size=4, packing="on")
    with pytest.raises(InputError, match=r"^train\.packing: qwen3 has layers that are not full attention, so"):
        make_trainer(World(base, world.rollouts), Sft(), train, tmp_path / "out")


@pytest.mark.parametrize("packing", ["off", "on"])
@pytest.mark.parametrize(
    "method", [Sft(), Rift(), Dft(), OfflineGrpo(), Dpo(), Asft()], ids=lambda method: type(method).__name__
)
def test_no_method_keeps_or_makes_a_tensor_of_all_logits(
    world: World, tmp_path: Path, method: Method, packing: str
) -> None:
    """Over a vocabulary of 40,000: nothing that outlives the LM head's call is as large as tokens x vocabulary.

    The tiles of TRL's head are 32,768 wide, so the full tensor would be noticed at its own size.
    """
    vocabulary = 40_000
    base = tmp_path / "base"
    small_model(vocab_size=vocabulary, pad_token_id=PAD, eos_token_id=EOS).save_pretrained(base)
    for path in world.base.glob("tokenizer*"):
        (base / path.name).write_bytes(path.read_bytes())
    train = TrainSpec.model_validate({"steps": 1, "batch_size": 8, "packing": packing})
    trainer, _ = make_trainer(World(base, world.rollouts), method, train, tmp_path / "out")
    batch = first_batch(trainer)
    tokens = int(batch["attention_mask"].sum())
    largest = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() != trainer.model.get_output_embeddings().weight.data_ptr():
            largest.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model, dict(batch))
    assert loss.requires_grad
    assert max(largest) < tokens * vocabulary / 50
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.model(input_ids=batch["input_ids"], labels=batch["input_ids"])
    assert max(largest) >= tokens * vocabulary  # the plain loss does: the measure can tell
