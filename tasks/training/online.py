"""Trainers of methods whose student answers the prompts itself: online GRPO and on-policy distillation, TRL's losses.

A step's completions are sampled at once and the batch is cut afterwards, like every other method's (`micro`); an
out-of-memory error while sampling is not answered. Seeded: the same settings on the same device give the same bytes,
unless GRPO's grader ran out of time on a formula. A training that goes on from a checkpoint samples what it would have.
Imports torch and TRL: for worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from trl import DistillationTrainer, GRPOTrainer
from trl.trainer.utils import pad

from tasks.grading.grade import grade_many
from tasks.training.checkpoints import Resumable
from tasks.training.micro import MicroBatches
from tasks.training.trainers import Noted, Scheduled


def grade_reward(completions: list[str], answer: list[str], **others: Any) -> list[float]:
    """TRL's reward function: 1 where math-verify takes the completion's answer for the gold one, else 0."""
    return [grade.reward for grade in grade_many(completions, answer)]


class Sampling(Scheduled, MicroBatches, Resumable):
    """Put before a TRL trainer that samples: prompts are token ids already; what it sampled is noted in ``collator``.

    A batch has ``prompt_ids``, padded on the left, ``completion_ids``, padded on the right, and a mask of either.
    """

    PROMPTS: tuple[str, ...] = ("prompt",)
    """The left-padded parts of a batch."""

    def noted_in(self: Any, collator: Noted, end_ids: Sequence[int]) -> None:
        """``end_ids``: what ends an answer, in place of TRL's own choice of them."""
        self.collator = collator
        self.eos_token_ids = list(end_ids)
        self.generation_kwargs["eos_token_id"] = self.generation_config.eos_token_id = list(end_ids)

    def longest(self: Any, example: dict[str, Any]) -> int:
        """Most tokens of an example's pass by itself."""
        return len(example["prompt"]) + int(self.args.max_completion_length)

    def training_step(self: Any, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Sample a step's completions, then `MicroBatches`."""
        batch = self._generate_and_score_completions(inputs)
        self.collator.seen.extend(example["row"] for example in inputs)
        self.collator.tokens_by_batch.append(sum(length for (length,) in self.widths(batch)))
        loss: torch.Tensor = super().training_step(model, batch, num_items_in_batch)
        return loss

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.accelerator.autocast():  # TRL samples without: a bfloat16 base does not go with float32 adapters
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """As it is: sampled, scored and on the device."""
        return generation_batch

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Without the step's seconds, which have no place in an artifact."""
        self._metrics["train"].pop("step_time", None)
        super().log(logs, start_time)  # type: ignore[misc]

    def widths(self, inputs: dict[str, Any]) -> list[list[int]]:
        """Tokens of each prompt with its completion."""
        lengths = inputs["prompt_mask"].sum(1) + inputs["completion_mask"].sum(1)
        return [[int(length)] for length in lengths]

    def take(self, inputs: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
        """The sequences at ``places``, each part as wide as its longest among them."""
        rows = torch.tensor(places, device=inputs["prompt_ids"].device)
        taken = {name: value[rows] if value.ndim else value for name, value in inputs.items()}
        wide = {part: int(taken[f"{part}_mask"].sum(1).max()) for part in (*self.PROMPTS, "completion")}
        for name, value in taken.items():
            part = name.partition("_")[0]
            if part in self.PROMPTS:
                taken[name] = value[:, value.shape[1] - wide[part] :]
            elif value.ndim == 2:
                taken[name] = value[:, : wide["completion"]]
        # A loss that is divided by the whole batch's tokens: `compute_loss` counts it by the share of sequences again.
        taken["num_items_in_batch"] = inputs["num_items_in_batch"] * len(places) / len(inputs["prompt_ids"])
        return taken


class OnlineTrainer(Sampling, GRPOTrainer):
    """`GRPOTrainer` with our grader's reward."""

    why_padded = "online_grpo samples in padded batches"

    def __init__(self, *args: Any, collator: Noted, end_ids: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, reward_funcs=[grade_reward], **kwargs)
        self.noted_in(collator, end_ids)


class DistilledTrainer(Sampling, DistillationTrainer):
    """`DistillationTrainer` whose teacher reads a prompt of its own, the examples' ``asked``, before the completion."""

    why_padded = "distillation samples in padded batches"
    PROMPTS = ("prompt", "asked")

    def __init__(self, *args: Any, collator: Noted, end_ids: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.noted_in(collator, end_ids)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        ids = [torch.tensor(example["asked"], device=batch["prompt_ids"].device) for example in inputs]
        batch["asked_ids"] = pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side="left")
        batch["asked_mask"] = pad([torch.ones_like(one) for one in ids], padding_value=0, padding_side="left")
        return batch

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's, of one micro-batch."""
        self._asked = inputs["asked_ids"], inputs["asked_mask"]
        with self.accelerator.autocast():  # TRL calls both backbones by themselves, past what would cast for them
            return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_last_hidden_state(
        self, unwrapped_model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **others: Any
    ) -> Any:
        if not isinstance(unwrapped_model, PeftModel):  # the teacher
            input_ids, attention_mask = (
                torch.cat([asked, value[:, -logits_to_keep:]], dim=1)
                for asked, value in zip(self._asked, (input_ids, attention_mask), strict=True)
            )
        return super()._get_last_hidden_state(unwrapped_model, input_ids, attention_mask, logits_to_keep, **others)
