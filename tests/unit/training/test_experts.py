"""A base with experts: every method trains on its own loss alone, whoever computes it and however a batch is cut."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from flows.record import router_notes
from tasks.core.results import ArtifactRef, LocalTeacher, StageResult
from tasks.core.sections import TrainSpec
from tasks.methods import METHOD_NAMES, Methods
from tasks.methods.common import RowMethod
from tasks.methods.dft import Dft
from tasks.methods.sft import Sft
from tasks.models.tokenizer import build_tokenizer
from tests.lab.world import BOS, EOS, PAD, WORDS, World, logged, make_graded, token_logprobs
from tests.unit.training.conftest import RUN, first_batch, make_trainer
from tests.unit.training.test_trainers import WeightedDft, WeightedSft

COEFFICIENT = 0.5
"""A thousand times what is usual: the loss of the router of four experts, at least 1 a layer, would be seen."""


def write_base(folder: Path, kind: str) -> Path:
    """Two layers of four experts, two of which see each token; the config asks for the router's loss."""
    tokenizer = build_tokenizer(WORDS, max_length=64)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64, "max_position_embeddings": 64,
        "initializer_range": 0.15, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": COEFFICIENT,
    }  # fmt: skip
    torch.manual_seed(5)
    if kind == "mixtral":
        model: Any = MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=4))
    else:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, num_experts=4, moe_intermediate_size=16))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral"])
def experts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param)
    make_graded().write_parquet(folder / "rollouts.parquet")
    return World(write_base(folder / "base", request.param), folder / "rollouts.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("micro", [16, 4])
@pytest.mark.parametrize(
    "method", [Sft(), WeightedSft(), Dft(), WeightedDft()], ids=["nll", "our nll", "dft", "our dft"]
)
def test_the_loss_is_the_definition_through_trl_and_through_ours(
    experts: World, tmp_path: Path, method: RowMethod, micro: int
) -> None:
    """sum over rows and tokens of -log p (DFT: times p), by the tokens; each sequence by itself, from full logits."""
    train = TrainSpec(steps=1, batch_size=16, micro_batch_size=micro)
    trainer, collator = make_trainer(experts, method, train, tmp_path / "alone")
    first_batch(trainer)
    total, tokens = 0.0, 0
    for row in collator.seen:
        source = make_graded().row(row, named=True)
        logprobs_T = token_logprobs(trainer.model, source["prompt_ids"], source["completion_ids"])
        weight_T = logprobs_T.exp() if isinstance(method, Dft) else torch.ones_like(logprobs_T)
        total, tokens = total - float((weight_T * logprobs_T).sum()), tokens + len(logprobs_T)
    assert len(collator.seen) == 16
    summary = experts.train(tmp_path / "run", method, RUN, train)
    assert logged(tmp_path / "run", "loss")[0] == pytest.approx(total / tokens, rel=1e-5)
    assert summary["router_loss_dropped"] == COEFFICIENT


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_no_method_has_the_routers_loss(experts: World, tmp_path: Path, name: str) -> None:
    method = getattr(Methods(), name)
    if method.kind == "prompts":
        method = method.model_copy(update={"max_new_tokens": 4})
    teacher = LocalTeacher(experts.base, in_style=False) if method.from_teacher else None
    steps = len(method.phases(TrainSpec()))
    summary = experts.train(
        tmp_path / name, method, RUN, TrainSpec(steps=steps, batch_size=8, micro_batch_size=4), teacher=teacher
    )
    frame = pl.read_parquet(tmp_path / name / "training.parquet")
    assert "aux_loss" not in frame["metric"].to_list()
    if name == "dpo":  # before the first step policy and base are one: -log sigmoid(0)
        assert logged(tmp_path / name, "loss")[0] == pytest.approx(log(2), rel=1e-6)
    if name == "kto":  # 1 - sigmoid(0)
        assert logged(tmp_path / name, "loss")[0] == pytest.approx(0.5, rel=1e-6)
    assert summary["router_loss_dropped"] == COEFFICIENT


def test_the_report_says_so_once_and_only_of_experts(world: World, tmp_path: Path) -> None:
    dense = world.train(tmp_path / "dense", Sft(), RUN, TrainSpec(steps=1, batch_size=4))
    assert "router_loss_dropped" not in dense
    of = [
        StageResult("train", "train sft", ArtifactRef("", "", "train", ""), 1.0, summary=dict(summary))
        for summary in (dense, {"router_loss_dropped": 0.001}, {"router_loss_dropped": 0.001})
    ]
    assert router_notes(of[:1]) == []
    (said,) = router_notes(of)
    assert "router_aux_loss_coef 0.001" in said
