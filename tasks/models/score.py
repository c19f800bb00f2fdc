"""Log-likelihood of given continuations: cross-entropy of reference solutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tasks.core.results import Progress, no_progress
from tasks.models.generate import mixed

LOGITS_BYTES = 2**28
"""Of a padded batch's logits, in float32. Where they take more, sequences are not padded, prompts have no logits."""
PASS_TOKENS = 1024
"""Of such a pass; a longer sequence is one by itself."""
BLOCK = 16
"""Rows of logits in float32 at once."""


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
    `tasks.models.generate.generate`. Sorted by length; log-softmax in float32 over the target positions only. Where the
    logits of a batch would take more than `LOGITS_BYTES`, or weights are in bfloat16 on a CPU, sequences run packed, in
    passes of `PASS_TOKENS` that make logits for the targets alone; else right padded, ``batch_size`` at a time.
    """
    from tasks.models.attention import why_padded
    from tasks.models.decode import can_decode
    from tasks.models.load import core

    lengths = [len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)]
    order = sorted(range(len(prompts)), key=lambda i: lengths[i])
    head = core(model).get_output_embeddings() if hasattr(core(model), "get_output_embeddings") else None
    row_bytes = 4 * max(lengths, default=0) * (0 if head is None else len(head.weight))
    large = row_bytes * min(batch_size, len(order)) > LOGITS_BYTES
    packs = can_decode(model) or (large and why_padded(core(model)) is None)
    if large and not packs:  # so few rows that their logits fit
        batch_size = max(1, LOGITS_BYTES // row_bytes)
    values = [0.0] * len(prompts)
    done = 0
    for rows in _passes(order, lengths, adapters) if packs else _batches(order, batch_size):
        names = None if adapters is None else [adapters[i] for i in rows]
        some = [prompts[i] for i in rows], [targets[i] for i in rows]
        found = _packed(model, *some, names) if packs else _padded(model, *some, names, pad_id)
        for i, value in zip(rows, found, strict=True):
            values[i] = value
        done += len(rows)
        progress(done, len(order), "reference loss")
    return values


def _batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _passes(order: Sequence[int], lengths: Sequence[int], adapters: Sequence[str] | None) -> list[list[int]]:
    """Rows of one adapter each, `PASS_TOKENS` at most."""
    passes: list[list[int]] = []
    by_adapter = sorted(order, key=lambda i: adapters[i]) if adapters is not None else order
    for _, group in groupby(by_adapter, key=lambda i: None if adapters is None else adapters[i]):
        tokens = PASS_TOKENS + 1
        for i in group:
            tokens += lengths[i]
            if tokens > PASS_TOKENS:
                passes.append([])
                tokens = lengths[i]
            passes[-1].append(i)
    return passes


def _packed(
    model: Any, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], adapters: list[str] | None
) -> list[float]:
    """One behind the other in a row, all with one adapter."""
    import torch

    from tasks.models.attention import packed, row_of
    from tasks.models.load import computing, core

    sequences = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    predicts: list[int] = []
    start = 0
    for prompt, sequence in zip(prompts, sequences, strict=True):
        predicts += range(start + len(prompt) - 1, start + len(sequence) - 1)
        start += len(sequence)
    device = core(model).device
    keep_N = torch.tensor(predicts, device=device)
    wanted_N = torch.tensor([token for target in targets for token in target], device=device)
    with torch.inference_mode(), computing(model), packed(core(model)):
        arguments = row_of(sequences, device, logits_to_keep=keep_N)
        logits_NV = model(**arguments, **mixed(None if adapters is None else adapters[:1])).logits[0]
        nll_N = torch.cat(
            [
                torch.nn.functional.cross_entropy(some.float(), wanted, reduction="none").double()
                for some, wanted in zip(logits_NV.split(BLOCK), wanted_N.split(BLOCK), strict=True)
            ]
        )
    return [float(one.sum()) for one in nll_N.split([len(target) for target in targets])]


def _padded(
    model: Any,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    adapters: list[str] | None,
    pad_id: int,
) -> list[float]:
    """Right padded."""
    import torch

    device = next(model.parameters()).device
    width = max(len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True))
    ids_BT = torch.full((len(prompts), width), pad_id)
    mask_BT = torch.zeros((len(prompts), width), dtype=torch.long)
    target_BT = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        sequence = [*prompt, *target]
        ids_BT[row, : len(sequence)] = torch.tensor(sequence)
        mask_BT[row, : len(sequence)] = 1
        target_BT[row, len(prompt) : len(sequence)] = True
    ids_BT, mask_BT, target_BT = ids_BT.to(device), mask_BT.to(device), target_BT.to(device)
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **mixed(adapters)).logits[:, :-1]
        wanted_BT = target_BT[:, 1:]
        nll_N = torch.nn.functional.cross_entropy(
            logits_BTV[wanted_BT].float(), ids_BT[:, 1:][wanted_BT], reduction="none"
        )
        row_N = wanted_BT.nonzero()[:, 0]
        sums_B = torch.zeros(len(prompts), device=device, dtype=torch.float64).index_add_(0, row_N, nll_N.double())
    values: list[float] = sums_B.tolist()
    return values
