"""TRL's trainers, and the one subclass that adds per-row weights. Imports torch and TRL: for worker processes."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tasks.methods.common import RowMethod
from tasks.training.checkpoints import Resumable
from tasks.training.micro import MicroBatches


class Noted:
    """What a collator notes: which rollouts it was given, in order, and how many tokens each batch holds."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.tokens_by_batch: list[int] = []

    @property
    def tokens(self) -> int:
        """Tokens of all batches, padding not counted."""
        return sum(self.tokens_by_batch)

    def note(self, examples: list[dict[str, Any]], batch: dict[str, Any]) -> None:
        """Take down one batch."""
        self.seen.extend(example["row"] for example in examples)
        self.tokens_by_batch.append(int(batch["attention_mask"].sum()))

    def restore(self, rows: list[int], tokens_by_batch: list[int]) -> None:
        """What was noted before a checkpoint."""
        self.seen, self.tokens_by_batch = list(rows), list(tokens_by_batch)


class RowCollator(Noted):
    """TRL's language-modelling collator; notes which rollouts each batch holds and, on request, adds their weights."""

    def __init__(self, pad_id: int, *, weighted: bool) -> None:
        super().__init__()
        self.collate = DataCollatorForLanguageModeling(pad_token_id=pad_id)
        self.weighted = weighted

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Rows -> input_ids, attention_mask, labels (B, T) [, weight (B,), behaviour (B, T-1)]."""
        plain = [{"input_ids": example["input_ids"], "labels": example["labels"]} for example in examples]
        batch: dict[str, Any] = self.collate(plain)
        self.note(examples, batch)
        if self.weighted:
            batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float32)
            if examples[0]["behaviour"] is not None:
                batch["behaviour"] = self._behaviour(examples, batch["input_ids"].shape[1])
        return batch

    @staticmethod
    def _behaviour(examples: list[dict[str, Any]], width: int) -> torch.Tensor:
        """Place each completion's log-probabilities at the positions that predict its tokens (shifted by one)."""
        behaviour_BT = torch.zeros(len(examples), width - 1)
        for row, example in enumerate(examples):
            end = len(example["input_ids"]) - 1
            values = torch.tensor(example["behaviour"])
            behaviour_BT[row, end - len(values) : end] = values
        return behaviour_BT


class PairCollator(Noted):
    """TRL's preference collator; notes which rollouts were the chosen ones."""

    def __init__(self, pad_id: int) -> None:
        super().__init__()
        self.collate = DataCollatorForPreference(pad_token_id=pad_id)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pairs -> TRL's batch of 2B sequences, chosen first [, the reference's log-probabilities (B,)]."""
        batch: dict[str, Any] = self.collate(examples)
        self.note(examples, batch)
        return batch


class Scheduled:
    """Put before a TRL trainer: its learning rate may follow a schedule that is longer than the training."""

    schedule_steps: int | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The trainer's own, over `schedule_steps` where they are set."""
        return super().create_scheduler(self.schedule_steps or num_training_steps, optimizer)  # type: ignore[misc]


class RowTrainer(Scheduled, MicroBatches, Resumable, SFTTrainer):
    """`SFTTrainer` that cuts its batches and can be gone on with."""

    @staticmethod
    def longest(example: dict[str, Any]) -> int:
        """Tokens of an example's pass by itself."""
        return len(example["input_ids"])


class WeightedSFTTrainer(RowTrainer):
    """`SFTTrainer` whose loss is a method's `token_loss`, summed and divided by the tokens of the whole batch.

    With weight 1 and the plain negative log-likelihood it is TRL's ``nll``, bit for bit (a test says so). The divisor
    ``num_items_in_batch`` counts the completion tokens over all accumulation steps, so accumulation needs no factor.
    """

    def __init__(self, *args: Any, method: RowMethod, **kwargs: Any) -> None:
        self.method = method
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted loss of one micro-batch, a scalar. ``return_outputs`` is not supported: we never evaluate."""
        if return_outputs:
            raise ValueError("WeightedSFTTrainer computes training losses only")
        inputs = dict(inputs)
        weight_B, behaviour_BT = inputs.pop("weight"), inputs.pop("behaviour", None)
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        mask_BT = outputs.label_mask
        terms_BT = self.method.token_loss(outputs.log_probs, mask_BT, weight_B, behaviour_BT)
        tokens = mask_BT.sum() if num_items_in_batch is None else num_items_in_batch
        valid = mask_BT.sum().clamp(min=1)
        self._metrics["train"]["mean_token_accuracy"].append((outputs.is_top1.sum() / valid).item())
        self._metrics["train"]["entropy"].append((outputs.entropy.detach().sum() / valid).item())
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return terms_BT.sum() / torch.as_tensor(tokens).clamp(min=1)


class TokenizedDPOTrainer(Scheduled, MicroBatches, Resumable, DPOTrainer):
    """`DPOTrainer` on pairs that are token ids already (TRL would tokenise the texts again).

    Where the pairs carry the reference's log-probabilities, those are used. TRL's own ``precompute_ref_log_probs``
    would compute them anew for every run, after hashing every weight of the model.
    """

    sequences_per_example = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.precompute_ref_logps = "ref_chosen_logps" in self.train_dataset.column_names

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    @staticmethod
    def longest(example: dict[str, Any]) -> int:
        """Tokens of an example's pass by itself: both sequences, padded alike."""
        return 2 * (len(example["prompt_ids"]) + max(len(example["chosen_ids"]), len(example["rejected_ids"])))
