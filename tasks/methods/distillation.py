"""On-policy distillation: at every token of its own answers the student moves towards the teacher's distribution.

The loss is mean_t D(student, teacher at token t) over the tokens that the student sampled, D the generalised
Jensen-Shannon divergence of GKD (2306.13649, eq. 1, lambda = 1: on-policy alone). ``beta = 1``, the default, is the
reverse KL(student || teacher) that MiniLLM (2306.08543) argues for: the whole vocabulary's expectation, no estimate
from the sampled token; ``beta = 0`` is the forward KL. No gradient flows through the sampling. TRL's
DistillationTrainer does the training, its kernel holds no whole logits, and transformers samples.

It sees the rollouts' prompts, never a completion of theirs or a reward, and of the teacher what no rollout holds: so it
is outside the identical rollouts of the other methods. The teacher is asked as it was for the rollouts: in the
synthetic task in its own style, the student with the plain prompt; else both read the student's prompt.

Each prompt is answered once, ``batch_size`` prompts a step, in an order drawn by the data seed; the answers are drawn
by the seed at temperature 1. ``train.mask_truncated`` does not apply: at a token of a completion that was cut the
teacher's distribution is as good. Batches are padded.
"""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from tasks.methods.common import Kind, Method, prompt_examples


class Distillation(Method):
    """On-policy distillation from the teacher's distribution over tokens."""

    kind: ClassVar[Kind] = "prompts"
    on_rollouts: ClassVar[bool] = False
    from_teacher: ClassVar[bool] = True
    teacher: str | None = Field(
        None,
        title="Teacher",
        description="Hugging Face directory or Hub id of a model with the base's own tokenizer, for a model.base of "
        "one's own; the synthetic task has its teacher.",
    )
    beta: float = Field(
        1.0,
        title="Divergence",
        description="1: KL(student || teacher), 0: KL(teacher || student), between them the generalised Jensen-Shannon "
        "divergence.",
        ge=0,
        le=1,
    )
    max_new_tokens: int | None = Field(
        None, title="Longest sample (tokens)", description="Default: the longest recorded completion.", ge=1
    )

    def select(self, graded: pl.DataFrame) -> pl.DataFrame:
        """PROMPT_EXAMPLES: each problem once."""
        return prompt_examples(graded, self.max_new_tokens)

    def trl_arguments(self) -> dict[str, Any]:
        """For TRL's DistillationConfig: everything that decides what is sampled and what is learnt from it."""
        return {
            "beta": self.beta,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "disable_dropout": False,
            "shuffle_dataset": False,  # the data set is the stream already
            "use_vllm": False,
        }
