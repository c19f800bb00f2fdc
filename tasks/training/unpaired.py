"""KTO's trainer: single completions labelled right or wrong. Imports torch and TRL: for worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft.tuners.tuners_utils import BaseTunerLayer
from trl import KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from tasks.training.checkpoints import Resumable
from tasks.training.micro import MicroBatches, split
from tasks.training.trainers import Noted, Scheduled

KL = "KL_"
"""How TRL names the columns of the mismatched sequences."""


class UnpairedCollator(Noted):
    """TRL's collator; each prompt also comes with the completion of the example before it, for the KL estimate."""

    def __init__(self, pad_id: int) -> None:
        super().__init__()
        self.collate = DataCollatorForUnpairedPreference(pad_token_id=pad_id)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Examples -> TRL's batch: sequences, mismatched sequences, labels (B,)."""
        before = [examples[-1], *examples[:-1]]
        batch: dict[str, Any] = self.collate(
            [
                example | {f"{KL}completion_ids": other["completion_ids"]}
                for example, other in zip(examples, before, strict=True)
            ]
        )
        self.note(examples, batch)
        return batch


class TokenizedKTOTrainer(Scheduled, MicroBatches, Resumable, KTOTrainer):
    """`KTOTrainer` on token ids, whose KL estimate is that of a step's whole batch however the batch is cut."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    @staticmethod
    def longest(example: dict[str, Any]) -> int:
        """Tokens of an example's pass by itself."""
        return len(example["prompt_ids"]) + len(example["completion_ids"])

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """See `MicroBatches`."""
        self._whole = {name.removeprefix(KL): value for name, value in inputs.items() if name.startswith(KL)}
        self._known: dict[bool, torch.Tensor] = {}
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def take(self, inputs: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
        """The examples at ``places``, without the mismatched sequences: those are `training_step`'s."""
        return super().take({name: value for name, value in inputs.items() if not name.startswith(KL)}, places)

    def _compute_kl_logps(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """(B,) log-probabilities of the whole batch's mismatched completions, by policy or, adapter off, reference."""
        layer = next(module for module in model.modules() if isinstance(module, BaseTunerLayer))
        off = bool(layer.disable_adapters)
        if off not in self._known:
            self._known[off] = self._sums(model)
        return self._known[off]

    def _sums(self, model: Any) -> torch.Tensor:
        lengths = self._whole["attention_mask"].sum(1).tolist()
        sums_B = torch.zeros(len(lengths), device=self.accelerator.device)
        for places in split([[length] for length in lengths], self.limits):
            part = super().take(self._whole, places)
            labels = part["input_ids"].masked_fill(part.pop("completion_mask") == 0, -100)
            with torch.no_grad():
                outputs = model(**part, labels=labels, use_cache=False, fused_lm_head=True)
            sums_B[places] = outputs.log_probs.sum(-1)
        return sums_B
