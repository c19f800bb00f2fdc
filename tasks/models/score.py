"""Log-likelihood of given continuations: cross-entropy of reference solutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.contracts import Progress, no_progress
from tasks.models.generate import mixed


def sequence_nll(
    model: Any,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    pad_id: int,
    batch_size: int,
    adapters: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> list[float]:
    """Negative log-likelihood in nats of each target given its prompt, summed over the target's tokens.

    ``prompts`` and ``targets`` are P lists of token ids; returns P floats. ``adapters``: each row's own, as in
    `tasks.models.generate.generate`. Right padding, rows sorted by length so
    that a batch pads little; log-softmax in float32 over the target positions only, so no (B, T, V) tensor of
    log-probabilities is kept.
    """
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(targets[i]))
    values = [0.0] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = max(len(prompts[i]) + len(targets[i]) for i in rows)
        ids_BT = torch.full((len(rows), width), pad_id)
        mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
        target_BT = torch.zeros((len(rows), width), dtype=torch.bool)
        for row, i in enumerate(rows):
            sequence = [*prompts[i], *targets[i]]
            ids_BT[row, : len(sequence)] = torch.tensor(sequence)
            mask_BT[row, : len(sequence)] = 1
            target_BT[row, len(prompts[i]) : len(sequence)] = True
        ids_BT, mask_BT, target_BT = ids_BT.to(device), mask_BT.to(device), target_BT.to(device)
        with torch.inference_mode():
            mixture = mixed([adapters[i] for i in rows] if adapters is not None else None)
            logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **mixture).logits[:, :-1]
            wanted_BT = target_BT[:, 1:]
            nll_N = torch.nn.functional.cross_entropy(
                logits_BTV[wanted_BT].float(), ids_BT[:, 1:][wanted_BT], reduction="none"
            )
            row_N = wanted_BT.nonzero()[:, 0]
            sums_B = torch.zeros(len(rows), device=device, dtype=torch.float64).index_add_(0, row_N, nll_N.double())
        for i, value in zip(rows, sums_B.tolist(), strict=True):
            values[i] = value
        progress(min(start + batch_size, len(order)), len(order), "reference loss")
    return values
