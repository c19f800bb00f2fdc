"""KTO (2402.01306, eq. 7): lambda (1 - v), v = sigmoid(beta [r - z]) for a right and sigmoid(beta [z - r]) for a wrong
completion; r = log pi - log pi_ref, z an estimate of KL(pi || pi_ref), never below 0, through which no gradient flows.

TRL's KTOTrainer does the training; the tests pin it to the definition. It needs no pairs, so it
sees every rollout of the common stream, right or wrong, as SFT does. z is TRL's: the batch's mean log-ratio of each
prompt followed by the completion of the example before it. Our deviation: where a batch is cut for memory, z is still
that of the whole batch, so the cut does not change the loss. Defaults: beta .1 and lambdas 1, which are TRL's; the
learning rate as in `tasks.methods.pairs`.
"""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.common import Kind, Method, examples


class Kto(Method):
    """Kahneman-Tversky optimisation on every rollout."""

    kind: ClassVar[Kind] = "unpaired"
    lr_ratio: float = Field(
        0.1, title="Learning rate relative to train.lr", description="1.0 is the matched learning rate.", gt=0, le=100
    )
    beta: float = Field(0.1, title="beta", gt=0, le=10)
    desirable_weight: float = Field(1.0, title="Weight of a correct rollout (lambda_D)", gt=0, le=100)
    undesirable_weight: float = Field(1.0, title="Weight of a wrong rollout (lambda_U)", gt=0, le=100)

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """All rows, weight 1 where correct and -1 where wrong. Raises `InputError` where either has none."""
        correct = graded["reward"] == 1.0
        if correct.all() or not correct.any():
            missing = "wrong" if correct.any() else "correct"
            raise InputError(
                f"methods: kto needs correct and wrong rollouts and none is {missing}; leave it out: "
                "--set methods=... without kto"
            )
        return examples(graded, pl.when(pl.col("reward") == 1.0).then(1.0).otherwise(-1.0))

    def recipe(self, train: TrainSpec) -> TrainSpec:
        """As it is; its estimate of the KL needs another completion in the batch."""
        if train.batch_size < 2:
            raise ValueError("train.batch_size: kto needs at least 2 sequences a step")
        return train
