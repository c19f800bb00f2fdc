"""Trainings on rollouts that leave a method little or nothing: what the loss is, what is refused, what is a result."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from flows.notes.rollouts import few_examples
from tasks.core.errors import InputError
from tasks.core.results import ArtifactRef, RunInfo, StageResult
from tasks.core.sections import TrainSpec
from tasks.methods import Method, Methods
from tasks.methods.dpo import Dpo
from tasks.methods.offline_grpo import MOST_NATS, OfflineGrpo
from tasks.settings.study import StudySpec
from tasks.training.log import Diverged, _refuse_divergence, refuse_infinite
from tests.lab.world import EOS, World, make_graded, read_adapter, token_logprobs, write_base

METHODS = Methods()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("numbers") / "base")


def train(
    base: Path, folder: Path, method: Method, graded: pl.DataFrame, **settings: Any
) -> tuple[dict[str, Any], dict[str, Any], pl.DataFrame]:
    """(summary, adapter, losses) of one short training at 1e-2."""
    rollouts = folder / "rollouts.parquet"
    graded.write_parquet(rollouts)
    run = RunInfo("run", "run", seed=3, data_seed=7, lr=settings.pop("lr", 1e-2))
    spec = TrainSpec(**{"steps": 2, "batch_size": 4, "warmup": 0.0, "scheduler": "constant", **settings})
    summary = World(base, rollouts).train(folder / "out", method, run, spec)
    log = pl.read_parquet(folder / "out" / "training.parquet").filter(metric="loss")
    return summary, read_adapter(folder / "out"), log


def completions(graded: pl.DataFrame, ids: list[int]) -> pl.DataFrame:
    """Every completion replaced."""
    return graded.with_columns(
        completion_ids=pl.lit(ids, dtype=pl.List(pl.Int64)),
        logprobs=pl.lit([-0.5] * len(ids), dtype=pl.List(pl.Float64)),
    )


def moved(adapter: dict[str, Any]) -> float:
    """Largest entry of any lora_B, which begins at zero."""
    return max(float(tensor.abs().max()) for name, tensor in adapter.items() if "lora_B" in name)


@pytest.mark.parametrize("name", ["rift", "kto"])
def test_a_completion_of_its_end_alone_is_trained_on(name: str, base: Path, tmp_path: Path) -> None:
    _, adapter, log = train(base, tmp_path, getattr(METHODS, name), completions(make_graded(), [EOS]))
    assert log["value"].is_finite().all()
    assert moved(adapter) > 0


def test_one_completion_labelled_right_and_wrong_is_no_pair() -> None:
    """Its gradient is rounding (3e-8 was seen), which Adam makes a whole step of; DPO moved as far as SFT by it."""
    graded = completions(make_graded(), [EOS])
    with pytest.raises(InputError, match=r"^methods: dpo needs a problem with both a correct and a wrong rollout"):
        Dpo().select(graded)
    other = graded.with_row_index("i").with_columns(
        completion_ids=pl.when(pl.col("i") % 4 == 0).then(pl.lit([3, EOS])).otherwise("completion_ids")
    )
    pairs = Dpo().select(other)
    assert (pairs["chosen_ids"] != pairs["rejected_ids"]).all()
    assert pairs.height > 0


def test_dft_on_one_token_is_p_times_its_own_loss(base: Path, tmp_path: Path) -> None:
    """-p log p, the mean over the batch's four tokens, computed from the base's own logits."""
    from tasks.models.load import load_model

    graded = completions(make_graded(), [EOS])
    _, _, log = train(base, tmp_path, METHODS.dft, graded, steps=1)
    seen = pl.read_parquet(tmp_path / "out" / "stream.parquet")["row"].to_list()
    model = load_model(base, "float32")
    terms = []
    for row in seen:
        (logp,) = token_logprobs(model, graded["prompt_ids"][row].to_list(), [EOS])
        terms.append(float(-logp.exp() * logp))
    assert log["value"].item() == pytest.approx(sum(terms) / 4, rel=1e-4)


def test_a_batch_without_any_token_is_a_loss_of_zero_and_not_of_nan(base: Path, tmp_path: Path) -> None:
    """TRL divides by max(tokens, 1). Such rows are dropped before training; were one left, it would do nothing."""
    summary, adapter, log = train(base, tmp_path, METHODS.sft, completions(make_graded(), []))
    assert log["value"].to_list() == [0.0, 0.0]
    assert moved(adapter) == 0
    assert summary["last_loss"] == 0


def test_groups_of_equal_rewards_have_the_bias_for_advantage_whatever_the_scale() -> None:
    graded = pl.DataFrame({"problem_id": [*"aabbc"], "reward": [1.0, 1.0, 0.0, 0.0, 1.0]})
    for scale in ("none", "std"):  # by the standard deviation: 0 / (0 + 1e-4)
        assert graded.select(OfflineGrpo(scale=scale).advantage()).to_series().to_list() == [0.1] * 5
        assert graded.select(OfflineGrpo(scale=scale, bias="none").advantage()).to_series().to_list() == [0.0] * 5
        # One completion a problem (K = 1) is such a group; so is "c" here.
        correct = graded.select(OfflineGrpo(scale=scale, bias="all_correct").advantage()).to_series().to_list()
        assert correct == [0.1, 0.1, 0.0, 0.0, 0.1]


def test_advantages_of_zero_leave_the_base_as_it_is(base: Path, tmp_path: Path) -> None:
    graded = make_graded().with_columns(reward=pl.lit(0.0))
    _, adapter, log = train(base, tmp_path, OfflineGrpo(bias="none"), graded)
    assert log["value"].to_list() == [0.0, 0.0]
    assert moved(adapter) == 0


def test_an_impossible_behaviour_log_probability_gives_no_infinite_ratio() -> None:
    """log rho = 1e18 counts as 20: clipped at 1.2 for a positive advantage, finite for a negative one, 0 for none."""
    logprobs, mask = torch.tensor([[-5.0], [-5.0], [-5.0]], requires_grad=True), torch.ones(3, 1)
    weight, behaviour = torch.tensor([1.0, -1.0, 0.0]), torch.full((3, 1), -1e18)
    terms = OfflineGrpo(clip=0.2).token_loss(logprobs, mask, weight, behaviour)
    assert terms.flatten().tolist() == [pytest.approx(-1.2), pytest.approx(math.exp(MOST_NATS), rel=1e-6), 0.0]
    terms.sum().backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.isfinite().all()


def test_rejected_alone_only_moves_away(base: Path, tmp_path: Path) -> None:
    """RIFT on wrong rollouts: minus a fifth of their log-likelihood, which falls without bound."""
    graded = make_graded().with_columns(reward=pl.lit(0.0))
    _, adapter, log = train(base, tmp_path, METHODS.rift, graded, steps=3, batch_size=48)
    losses = log["value"].to_list()
    assert losses[0] < 0
    assert losses[-1] < losses[0]
    assert moved(adapter) > 0


def test_one_row_fills_a_batch_that_is_larger(base: Path, tmp_path: Path) -> None:
    summary, adapter, log = train(base, tmp_path, METHODS.rft, make_graded()[:1], steps=1)
    assert summary["examples"] == 1
    assert pl.read_parquet(tmp_path / "out" / "stream.parquet")["row"].to_list() == [0, 0, 0, 0]
    assert log.height == 1
    assert moved(adapter) > 0


def trained(name: str, examples: int) -> StageResult:
    return StageResult("train", f"train {name}", ArtifactRef("", "", "train", ""), 0.0, summary={"examples": examples})


def study(batch_size: int) -> StudySpec:
    """With a method that samples its own answers: its few prompts are no few examples."""
    methods = {"methods": ("sft", "rft", "online_grpo"), "online_grpo": {"samples": 8}}
    return StudySpec(**methods, train=TrainSpec(batch_size=batch_size))


def test_trainings_of_fewer_examples_than_a_batch_are_named() -> None:
    found = [trained("sft seed=0 lr=1e-3", 64), trained("rft seed=0 lr=1e-3", 1), trained("online_grpo seed=0", 8)]
    assert few_examples(found, study(64)) == [
        "Fewer examples than train.batch_size (64), so that every step holds some more than once and the order of the "
        "data hardly matters: rft seed=0 lr=1e-3: 1."
    ]
    assert few_examples([found[0], found[2]], study(16)) == []


def test_a_thousand_completions_of_one_problem_pair_in_no_time() -> None:
    """All 250,000 pairs of 500 right and 500 wrong ones with their tokens would fill 2 GB."""
    rows = 1000
    graded = pl.DataFrame(
        {"problem_id": ["many"] * rows, "reward": [float(i % 2) for i in range(rows)]},
    ).with_columns(
        prompt_ids=pl.lit([1], dtype=pl.List(pl.Int64)),
        completion_ids=pl.int_ranges(0, 500 + pl.int_range(pl.len()) % 7),
    )
    began = time.process_time()
    pairs = Dpo().select(graded)
    assert time.process_time() - began < 2
    # Correct rows are 1, 3, 5, ..., wrong ones 0, 2, 4, ...: the first of either, then the second, ...
    assert pairs.select("row", "rejected_row").rows() == [(1, 0), (3, 2), (5, 4), (7, 6)]
    assert pairs["chosen_ids"].list.len().to_list() == [501, 503, 505, 500]


def test_loss_and_gradient_that_are_no_number_end_a_training_with_what_to_do() -> None:
    _refuse_divergence({"loss": 1e30, "grad_norm": 1e30}, 1)  # enormous, but a number: the gradient is clipped
    for values, said in (
        ({"loss": math.nan}, "loss is nan at step 5; lower train.lr"),
        ({"loss": 1.0, "grad_norm": math.inf}, "grad_norm is inf at step 5; lower train.lr"),
    ):
        with pytest.raises(Diverged, match=f"^training diverged: {said}$"):
            _refuse_divergence(values, 5)
    with pytest.raises(
        Diverged, match=r"loss is -inf at step 1, before any update: look for NaN in the base's weights"
    ):
        _refuse_divergence({"loss": -math.inf}, 1)


def test_a_last_update_that_overflows_is_no_adapter(base: Path, tmp_path: Path) -> None:
    """Each step multiplies weights by 1 - lr x decay: beyond float32's range they are infinite; no loss follows."""
    with pytest.raises(Diverged, match=r"^training diverged: \S*lora_\S* is not finite after step 1, the last; lower"):
        train(base, tmp_path, METHODS.sft, make_graded(), steps=1, lr=1e3, weight_decay=1e37)
    assert not (tmp_path / "out" / "adapter").exists()
    frozen = torch.nn.Parameter(torch.tensor([math.nan]), requires_grad=False)
    refuse_infinite([("frozen", frozen), ("fine", torch.nn.Parameter(torch.ones(2)))], 1)
