"""Online GRPO (2402.03300): the student answers each prompt K times, and A_i = (r_i - mean_g r) / std_g r weighs them.

The on-policy point of the geometry paper's section 3.4 (600 steps, 8 samples, lr 5e-6). It sees the rollouts' prompts
and gold answers, never their completions; the reward is our math-verify grade. TRL's GRPOTrainer does the training, and
transformers the sampling. TRL 1.16's defaults are pinned here where they decide the result: no KL term (``beta`` 0; the
GRPO paper has .04), advantages divided by the group's standard deviation (n - 1, plus 1e-4), clipping at 1 +- .2, which
never binds because every batch of answers makes one step, temperature 1 without top-k or top-p. TRL's default loss is
DAPO's; ours is GRPO's (mean over a completion's tokens, then over completions). The geometry paper says none of these.

``batch_size`` of the common settings counts completions: batch_size / samples prompts a step. ``steps`` is a limit, so
a study of fewer steps trains as long as its other methods. What is not the same for it as for the others: the order of
the prompts is drawn by the data seed, the student's answers by the seed; ``train.stop_above_start`` does not apply
(this loss is about 0 throughout); batches are padded.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from tasks.core.errors import InputError
from tasks.core.sections import TrainSpec
from tasks.methods.common import Kind, Method, prompt_examples


class OnlineGrpo(Method):
    """Group-relative policy optimisation on the student's own answers."""

    kind: ClassVar[Kind] = "prompts"
    on_rollouts: ClassVar[bool] = False
    steps: int = Field(600, title="Most optimiser steps", description="train.steps where that is fewer.", ge=1)
    samples: int = Field(8, title="Samples a prompt", ge=2, le=1024)
    beta: float = Field(0.0, title="Weight of the KL divergence from the base", ge=0, le=10)
    epsilon: float = Field(0.2, title="Clipping range of the ratio", gt=0, lt=1)
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = Field("grpo", title="TRL loss type")
    scale: Literal["group", "batch", "none"] = Field("group", title="Standard deviation that advantages are divided by")
    temperature: float = Field(1.0, title="Temperature of the samples", gt=0, le=10)
    max_new_tokens: int | None = Field(
        None, title="Longest sample (tokens)", description="Default: the longest recorded completion.", ge=1
    )

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """PROMPT_EXAMPLES: each problem that has a gold answer, once. Raises `InputError` where none has."""
        known = prompt_examples(graded, self.max_new_tokens, pl.col("answer").is_not_null())
        if known.is_empty():
            raise InputError(
                "methods: online_grpo grades the student's own answers and no rollout has a gold `answer`; leave it "
                "out: --set methods=... without online_grpo"
            )
        return known

    def recipe(self, train: TrainSpec) -> TrainSpec:
        """At most `steps`, never stopped for its loss."""
        if train.batch_size % self.samples:
            raise ValueError(
                f"online_grpo.samples: {self.samples} samples a prompt do not divide train.batch_size "
                f"{train.batch_size}"
            )
        changes: dict[str, Any] = {"stop_above_start": None}
        if self.steps < train.steps:
            changes |= {"steps": self.steps, "schedule_steps": None}
        return train.model_copy(update=changes)

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's GRPOConfig: everything that decides what is sampled and what is learnt from it."""
        return {
            "num_generations": self.samples,
            "beta": self.beta,
            "epsilon": self.epsilon,
            "loss_type": self.loss_type,
            "scale_rewards": self.scale,
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "num_iterations": 1,
            "importance_sampling_level": "token",
            "shuffle_dataset": False,  # the data set is the stream already
            "use_vllm": False,
        }
