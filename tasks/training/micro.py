"""One optimiser step in as many passes as the memory needs: the batch, its loss and its gradient stay the same.

A trainer is handed the whole batch of a step and cuts it here, not in the data loader: so a step that ran out of memory
can be done again in smaller micro-batches, and the cut can go by tokens. Row losses are divided by the completion
tokens of the whole batch, losses that are means over examples count by their share of the batch; both sums are exact
but for the order of additions, and the logged metrics are the whole batch's too. Imports torch: for worker processes.
"""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from tasks.core.errors import StageError
from tasks.training.metrics import Pass, of_step
from tasks.workers.worker import beat


@dataclass(frozen=True)
class Limits:
    """What one forward and backward pass may hold."""

    examples: int
    tokens: int | None = None
    """Of the sequences as they are computed, padding included. A longer single example is a pass of its own."""
    packed: bool = False
    """Whether sequences run without padding: see `tasks.training.packing`."""
    checkpointing: bool = False
    """Whether every layer's activations are computed again in the backward pass instead of kept."""

    def within(self, other: Limits) -> Limits:
        """The tighter of both in every respect."""
        tokens = [one for one in (self.tokens, other.tokens) if one is not None]
        return replace(
            self,
            examples=min(self.examples, other.examples),
            tokens=min(tokens, default=None),
            checkpointing=self.checkpointing or other.checkpointing,
        )


def halved(limits: Limits, times: int) -> Limits:
    """``limits`` of passes that hold half as much, ``times`` times over."""
    for _ in range(times):
        if limits.tokens is None:
            limits = replace(limits, examples=-(-limits.examples // 2))
        else:
            limits = replace(limits, tokens=-(-limits.tokens // 2))
    return limits


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device's memory, or this machine's, ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and should_reduce_batch_size(error)


def cost(widths: Sequence[Sequence[int]], *, packed: bool) -> int:
    """Tokens that a pass over examples computes; ``widths``: the lengths of each example's sequences."""
    lengths = [length for example in widths for length in example]
    return sum(lengths) if packed else len(lengths) * max(lengths)


def split(widths: Sequence[Sequence[int]], limits: Limits) -> list[list[int]]:
    """The places 0..E-1 of a batch's examples as micro-batches within ``limits``.

    Without a limit on tokens they are cut in order. With one, the longest come first and each example joins the first
    micro-batch with room for it (first-fit decreasing), so that lengths in one micro-batch are alike.
    """
    places = range(len(widths))
    if limits.tokens is None:
        return [list(places[i : i + limits.examples]) for i in range(0, len(places), limits.examples)]
    if len(places) <= limits.examples and cost(widths, packed=limits.packed) <= limits.tokens:
        return [list(places)]
    bins: list[list[int]] = []
    for place in sorted(places, key=lambda i: -max(widths[i])):
        for members in bins:
            grown = [widths[i] for i in (*members, place)]
            if len(grown) <= limits.examples and cost(grown, packed=limits.packed) <= limits.tokens:
                members.append(place)
                break
        else:
            bins.append([place])
    return [sorted(members) for members in bins]


class MicroBatches:
    """Put before a TRL trainer: runs each step of its batch within `limits`, which out-of-memory errors tighten.

    ``sequences_per_example`` is 2 for pairs, whose batches hold all chosen sequences before all rejected ones. Batches
    have a right-padded ``attention_mask`` (sequences, T); a trainer whose batches are built otherwise overrides
    `widths` and `take`.
    """

    sequences_per_example = 1

    def cut_batches(self, limits: Limits, *, may_checkpoint: bool) -> None:
        """Set the limits. ``may_checkpoint``: gradient checkpointing may be turned on where one example is too much."""
        self.may_checkpoint = may_checkpoint
        self.notes: list[str] = []
        self.killed = 0
        self._share = 1.0
        self.set_limits(limits)

    def set_limits(self: Any, limits: Limits) -> None:
        """From the next pass on."""
        self.limits = limits
        if limits.checkpointing:
            self.model.get_base_model().activation_checkpointing_enable()

    def hold_less(self: Any, times: int) -> None:
        """Half as much a pass, ``times`` times over, because as many workers before this one were killed for memory.

        From the second time on every layer's activations are computed again, where that may be.
        """
        self.killed = times
        if not times:
            return
        self.set_limits(
            replace(
                halved(self.limits, times),
                checkpointing=self.limits.checkpointing or (times > 1 and self.may_checkpoint),
            )
        )
        limits = self.limits
        size = f"{limits.examples} examples" if limits.tokens is None else f"{limits.tokens} tokens"
        self.notes.append(
            f"the system killed the worker because memory ran out ({times} time{'s' if times > 1 else ''}): passes of "
            f"at most {size}{', gradient checkpointing' if limits.checkpointing else ''}, the batch of a step unchanged"
        )

    def training_step(self: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The whole batch's loss, its gradient accumulated; again and smaller where memory runs out."""
        widths = self.widths(inputs)
        if num_items_in_batch is None and "labels" in inputs:  # the Trainer does not count for every architecture
            num_items_in_batch = inputs["labels"][:, 1:].ne(-100).sum()
        kept, tokens_before = self._metrics["train"], self._total_train_tokens
        while True:
            current: list[int] = []
            passes: list[Pass] = []
            try:
                loss: Any = None
                for current in split(widths, self.limits):
                    part = inputs if len(current) == len(widths) else self.take(inputs, current)
                    self._share = len(current) / len(widths)
                    self._metrics["train"] = defaultdict(list)
                    passed = super().training_step(model, part, num_items_in_batch)  # type: ignore[misc]
                    passes.append(self._noted(part))
                    beat()
                    loss = passed if loss is None else loss + passed
                for metric, value in of_step(passes).items():
                    kept[metric].append(value)
                return loss
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            finally:
                self._metrics["train"] = kept
            # Outside the handler: until here its traceback held the tensors of the pass that failed.
            self._total_train_tokens = tokens_before
            model.zero_grad()
            gc.collect()
            clear_device_cache()
            self._tighten([widths[place] for place in current])

    def _noted(self: Any, part: dict[str, Any]) -> Pass:
        """What the pass over ``part`` noted in `_metrics`, and what its means are over."""
        mask_BT = part["completion_mask"] if "completion_mask" in part else part["labels"].ne(-100)
        tokens = mask_BT.sum(1).tolist()
        wanted = len(tokens) // self.sequences_per_example  # of pairs, the first half
        chosen = part["label"].tolist() if "label" in part else [place < wanted for place in range(len(tokens))]
        return Pass({metric: values[-1] for metric, values in self._metrics["train"].items()}, tokens, chosen)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's own, weighted by the micro-batch's share where it is a mean over the examples at hand."""
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        return loss if num_items_in_batch is not None or self._share == 1.0 else loss * self._share

    def widths(self, inputs: dict[str, Any]) -> list[list[int]]:
        """The lengths of each example's sequences."""
        lengths: list[int] = inputs["attention_mask"].sum(1).tolist()
        return [lengths[i :: len(lengths) // self.sequences_per_example] for i in range(self._examples(inputs))]

    def take(self, inputs: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
        """The batch of the examples at ``places``, padded to the longest among them."""
        mask_BT = inputs["attention_mask"]
        examples, width = self._examples(inputs), mask_BT.shape[1]
        rows = torch.tensor(places, device=mask_BT.device)
        sequences = torch.cat([rows + examples * i for i in range(self.sequences_per_example)])
        spare = width - int(mask_BT[sequences].sum(1).max())
        taken = {}
        for name, value in inputs.items():
            part = value[sequences] if value.shape[0] == len(mask_BT) else value[rows]
            taken[name] = part[:, : part.shape[1] - spare] if part.ndim > 1 else part
        return taken

    def _examples(self, inputs: dict[str, Any]) -> int:
        return len(inputs["attention_mask"]) // self.sequences_per_example

    def _tighten(self: Any, failed: Sequence[Sequence[int]]) -> None:
        """Halve what a pass may hold, after one over examples of these lengths did not fit.

        Raises `StageError` where it was a single example and there is nothing left to save.
        """
        if len(failed) > 1 and self.limits.tokens is None:
            half = -(-len(failed) // 2)
            self.set_limits(replace(self.limits, examples=half))
            found = f"micro-batches of {len(failed)} halved to {half}"
        elif len(failed) > 1:
            tokens = cost(failed, packed=self.limits.packed)
            self.set_limits(replace(self.limits, tokens=tokens // 2))
            found = f"micro-batches of {tokens} tokens halved to {tokens // 2}"
        elif self.may_checkpoint and not self.limits.checkpointing:
            self.set_limits(replace(self.limits, checkpointing=True))
            found = "gradient checkpointing turned on"
        else:
            raise StageError(
                f"out of memory at step {self.state.global_step + 1} with a single example of {max(failed[0])} tokens: "
                "lower model.max_length, or train on a device with more memory"
            )
        note = f"out of memory at step {self.state.global_step + 1}: {found}, the batch of a step unchanged"
        self.notes.append(note)
        print(f"warning: {note}", file=sys.stderr, flush=True)
