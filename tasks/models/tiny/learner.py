"""One network of the embedded small world under training: AdamW, and the running average of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.core.sections import TinySpec
from tasks.models.tiny.network import as_vector, build_network, point_gradients, target_logits
from tasks.models.tiny.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.tiny.batches import Packed

MAX_LENGTH = 256
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
LOSS_MEMORY = 0.95


class Learner:
    """A network that learns batches; every rank holds its own, and all stay the same.

    The loss is the mean cross-entropy of all completion tokens of the global batch; prompts are not learnt.
    """

    def __init__(self, spec: TinySpec, tokenizer: Any, weights: Tensor, ranks: Ranks, *, warmup: int) -> None:
        """Starts at ``weights`` (P,), which hold the running average from then on. ``warmup``: steps."""
        import torch
        from torch.nn import Parameter

        self.spec, self.weights, self.ranks, self.warmup = spec, weights, ranks, warmup
        self.model = build_network(spec, tokenizer, MAX_LENGTH).to(ranks.device)
        self.vector = Parameter(as_vector(self.model))
        self.vector.data.copy_(weights)
        # gradient, loss and tokens: one all-reduce for the three
        self.sums = torch.zeros(len(weights) + 2, device=ranks.device)
        point_gradients(self.model, self.sums)
        self.optimiser = torch.optim.AdamW(
            [self.vector], lr=spec.lr, weight_decay=WEIGHT_DECAY, betas=BETAS, fused=True
        )
        self.steps, self._smooth = 0, 0.0

    @property
    def loss(self) -> float:
        """Running mean of the loss (nats a token), without the bias of its start."""
        return self._smooth / (1 - LOSS_MEMORY**self.steps)

    def learn(self, batch: Packed) -> None:
        """One optimiser step on the global batch, of which ``batch`` is this rank's part."""
        loss = self._accumulate(batch)
        self.steps += 1
        self.vector.grad = self.sums[:-2]
        self.optimiser.param_groups[0]["lr"] = self.spec.lr * min(1.0, self.steps / self.warmup)
        self.optimiser.step()
        # The average forgets its start: without this ramp the first snapshots would be mostly initialisation.
        self.weights.lerp_(self.vector.data, 1 - min(self.spec.ema, self.steps / (self.steps + 9)))
        self._smooth = LOSS_MEMORY * self._smooth + (1 - LOSS_MEMORY) * loss

    def _accumulate(self, batch: Packed) -> float:
        """Fill ``sums`` with the clipped gradient of the global batch's mean loss; returns that loss."""
        import torch
        from torch.nn.functional import cross_entropy

        sums = self.sums
        sums.zero_()
        logits, targets = target_logits(self.model, batch)
        loss = cross_entropy(logits, targets, reduction="sum")
        torch.autograd.backward(loss)
        sums[-2], sums[-1] = loss.detach(), len(targets)
        self.ranks.add(sums)
        gradient, mean = sums[:-2], float(sums[-2] / sums[-1])
        gradient.div_(sums[-1])
        gradient.mul_((CLIP_NORM / gradient.norm()).clamp(max=1.0))
        return mean
