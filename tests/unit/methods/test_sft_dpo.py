"""SFT -> DPO: how the steps and the rates are split, what either phase is, what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.dpo import Dpo
from tasks.methods.sft import Sft
from tasks.methods.sft_dpo import SftDpo
from tasks.settings.study import StudySpec, build
from tests.lab.groups import graded


@pytest.mark.parametrize(
    ("share", "steps", "expected"), [(0.5, 72, (36, 36)), (0.3, 72, (22, 50)), (0.01, 72, (1, 71)), (0.99, 4, (3, 1))]
)
def test_the_steps_are_split_and_none_is_lost(share: float, steps: int, expected: tuple[int, int]) -> None:
    # .3 of 72 is 21.6; of either at least one
    train = TrainSpec(steps=steps, schedule_steps=2 * steps)
    sft, dpo = SftDpo(sft_share=share).phases(train)
    assert (sft.train.steps, dpo.train.steps) == expected
    assert (sft.train.schedule_steps, dpo.train.schedule_steps) == (None, None)


def test_each_phase_is_the_method_with_its_own_rate() -> None:
    sft, dpo = SftDpo(beta=0.3, max_pairs=2, pairs="zip", dpo_lr_ratio=0.2).phases(TrainSpec())
    assert (sft.method, sft.rate) == (Sft(), 1.0)
    assert (dpo.method, dpo.rate) == (Dpo(beta=0.3, max_pairs=2, pairs="zip"), 0.2)
    (run, *_) = build({"methods": ["sft_dpo"], "train": {"lr": 1e-3}, "sft_dpo": {"lr_ratio": 0.5}}).runs()
    assert run.lr == 5e-4  # SFT's; DPO's is a tenth of it


def test_its_pairs_are_not_the_bases() -> None:
    """What the reference says of a pair is not the base's, so no stored log-probabilities of the base may serve."""
    assert not SftDpo().against_base


def test_rollouts_without_a_mixed_group_are_refused_by_its_name() -> None:
    with pytest.raises(InputError, match=r"^methods: sft_dpo needs a problem with both .* without sft_dpo$"):
        SftDpo().select(graded(("p1", 1.0), ("p2", 0.0)))


def test_one_step_and_shares_without_a_phase_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"train\.steps: sft_dpo needs at least 2"):
        StudySpec.model_validate({"methods": ["sft_dpo"], "train": {"steps": 1}})
    for share in (0.0, 1.0):
        with pytest.raises(ValidationError, match="sft_share"):
            SftDpo(sft_share=share)
