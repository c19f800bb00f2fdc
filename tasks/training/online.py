"""Online GRPO's trainer: the student answers, our grader rewards, TRL's loss. Imports torch and TRL: for workers.

A step's completions are sampled at once and the batch is cut afterwards, like every other method's (`micro`); an
out-of-memory error while sampling is not answered. Seeded: the same settings on the same device give the same bytes,
unless the grader ran out of time on a formula. A training that goes on from a checkpoint samples what it would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl import GRPOTrainer

from tasks.grading.grade import grade_many
from tasks.training.checkpoints import Resumable
from tasks.training.micro import MicroBatches
from tasks.training.trainers import Noted, Scheduled


def grade_reward(completions: list[str], answer: list[str], **others: Any) -> list[float]:
    """TRL's reward function: 1 where math-verify takes the completion's answer for the gold one, else 0."""
    return [grade.reward for grade in grade_many(completions, answer)]


class OnlineTrainer(Scheduled, MicroBatches, Resumable, GRPOTrainer):
    """`GRPOTrainer` on prompts that are token ids already; it notes what it sampled in ``collator``."""

    why_padded = "online_grpo samples in padded batches"

    def __init__(self, *args: Any, collator: Noted, end_ids: Sequence[int], **kwargs: Any) -> None:
        """``end_ids``: what ends an answer, in place of TRL's own choice of them."""
        super().__init__(*args, reward_funcs=[grade_reward], **kwargs)
        self.collator = collator
        self.eos_token_ids = list(end_ids)
        self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = list(end_ids)

    def longest(self, example: dict[str, Any]) -> int:
        """Most tokens of an example's pass by itself."""
        return len(example["prompt"]) + int(self.args.max_completion_length)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sample and grade a step's completions, then `MicroBatches`."""
        batch = self._generate_and_score_completions(inputs)
        self.collator.seen.extend(example["row"] for example in inputs)
        self.collator.tokens_by_batch.append(sum(length for (length,) in self.widths(batch)))
        loss: torch.Tensor = super().training_step(model, batch, num_items_in_batch)
        return loss

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.accelerator.autocast():  # TRL samples without: a bfloat16 base does not go with float32 adapters
            return super()._generate_single_turn(*args, **kwargs)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As it is: sampled, graded and on the device."""
        return generation_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without the step's seconds, which have no place in an artifact."""
        self._metrics["train"].pop("step_time", None)
        super().log(logs, start_time)

    def widths(self, inputs: dict[str, Any]) -> list[list[int]]:
        """Tokens of each prompt with its completion."""
        lengths = inputs["prompt_mask"].sum(1) + inputs["completion_mask"].sum(1)
        return [[int(length)] for length in lengths]

    def take(self, inputs: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
        """The sequences at ``places``; prompts are padded on the left, completions on the right."""
        rows = torch.tensor(places, device=inputs["prompt_ids"].device)
        taken = {name: value[rows] if value.ndim else value for name, value in inputs.items()}
        prompt = int(taken["prompt_mask"].sum(1).max())
        completion = int(taken["completion_mask"].sum(1).max())
        for name, value in taken.items():
            if name.startswith("prompt_"):
                taken[name] = value[:, value.shape[1] - prompt :]
            elif value.ndim == 2:
                taken[name] = value[:, :completion]
        # DAPO's loss is divided by the whole batch's tokens; `compute_loss` counts it by the share of sequences again.
        taken["num_items_in_batch"] = inputs["num_items_in_batch"] * len(places) / len(inputs["prompt_ids"])
        return taken
