"""Log-probabilities of completions under the base: what methods of pairs hold their policy against, computed once.

The base never changes, so its log-probabilities belong to the rollouts, not to a run: every DPO run on them, of any
seed, learning rate or beta, reads one file, and none of them runs the base beside its policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.errors import StageError
from tasks.core.frames import GRADED, checked
from tasks.core.results import Progress, no_progress
from tasks.core.sections import TrainSpec
from tasks.methods import Method

REFERENCE = "reference.parquet"
GPU_TOKENS, CPU_TOKENS = 32_768, 4_096
"""Tokens of a forward pass. Nothing is kept for a backward pass, so more than in training."""


def wanted(method: Method, train: TrainSpec, device: str) -> bool:
    """Whether a run of ``method`` on a device of this kind (``"gpu"`` or ``"cpu"``) reads stored log-probabilities."""
    return method.against_base and (train.reference == "stored" or (train.reference == "auto" and device == "gpu"))


def rows_of(pairs: pl.DataFrame) -> list[int]:
    """The rollouts that PAIR_EXAMPLES are made of, each once, ascending."""
    return sorted({*pairs["row"].to_list(), *pairs["rejected_row"].to_list()})


def rows_digest(rows: Sequence[int]) -> str:
    """What names a choice of rollouts in a stage's key."""
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def write_reference(
    *,
    base: Path,
    rollouts: Path,
    rows: Sequence[int],
    precision: str,
    pad_token: str | None,
    out: Path,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write ``out/reference.parquet``: ``row``, and the ``logprob`` of its completion given its prompt, in nats.

    In the arithmetic of a training with that precision, and through the same fused LM head: no (T, V) logits. Summed
    over the completion's tokens. Returns ``rows`` and ``tokens``.
    """
    graded = checked(pl.read_parquet(rollouts), GRADED, "rollouts")[list(rows)]
    values = [0.0] * graded.height
    done = 0
    for places, logprobs_BT in scored(base, graded, precision, pad_token):
        for place, value in zip(places, logprobs_BT.sum(1).tolist(), strict=True):
            values[place] = value
        done += len(places)
        progress(done, graded.height, "reference")
    pl.DataFrame({"row": list(rows), "logprob": values}).write_parquet(out / REFERENCE)
    lengths = (graded[column].list.len().sum() for column in ("prompt_ids", "completion_ids"))
    return {"rows": len(values), "tokens": sum(map(int, lengths))}


def scored(
    base: Path, graded: pl.DataFrame, precision: str, pad_token: str | None
) -> Iterator[tuple[Sequence[int], Any]]:
    """Rows of ``graded`` by their places, some at a time, and their log-probabilities under the base.

    (B, T - 1) in double precision: of a row with a prompt of P and a completion of C tokens the C from place P - 1 on,
    elsewhere 0.
    """
    import torch
    from trl.trainer.utils import add_fused_lm_head

    from tasks.models.head import score_wanted_only
    from tasks.models.load import arithmetic, device, load_model, load_tokenizer
    from tasks.training.packing import run_without_padding, why_padded

    prompts, completions = graded["prompt_ids"].to_list(), graded["completion_ids"].to_list()
    pad_id = load_tokenizer(base, pad_token).pad_token_id
    model = load_model(base, precision)
    add_fused_lm_head(model)
    light = device() == "cpu" and model.dtype is torch.bfloat16
    if light:
        score_wanted_only(model)
    packed = (light or device() == "cuda") and why_padded(model) is None
    if packed:
        run_without_padding(model)
    autocast = torch.autocast(device(), torch.bfloat16, enabled=arithmetic(precision, base).autocast)
    for places in _passes([len(p) + len(c) for p, c in zip(prompts, completions, strict=True)], packed=packed):
        with torch.inference_mode(), autocast:
            yield from _scored(model, places, prompts, completions, pad_id)


def _passes(lengths: Sequence[int], *, packed: bool) -> list[list[int]]:
    from tasks.models.load import device
    from tasks.training.micro import Limits, split

    tokens = GPU_TOKENS if device() == "cuda" else CPU_TOKENS
    return split([[length] for length in lengths], Limits(len(lengths), tokens, packed))


def _scored(
    model: Any, places: Sequence[int], prompts: list[list[int]], completions: list[list[int]], pad_id: int
) -> Iterator[tuple[Sequence[int], Any]]:
    """The places and what `scored` says of them, in halves where memory runs out."""
    import torch

    from tasks.training.micro import out_of_memory

    try:
        yield places, _logprobs(model, [(prompts[place], completions[place]) for place in places], pad_id)
        return
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(places) == 1:
            tokens = len(prompts[places[0]]) + len(completions[places[0]])
            raise StageError(
                f"out of memory with a single sequence of {tokens} tokens: lower model.max_length"
            ) from None
    torch.cuda.empty_cache()
    middle = len(places) // 2
    for half in (places[:middle], places[middle:]):
        yield from _scored(model, half, prompts, completions, pad_id)


def _logprobs(model: Any, sequences: list[tuple[list[int], list[int]]], pad_id: int) -> Any:
    """(B, T - 1) log-probabilities of the completions' tokens, each where the token before it is; elsewhere 0."""
    import torch

    from tasks.training.examples import IGNORED

    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    ids_BT = torch.full((len(sequences), width), pad_id)
    mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, IGNORED)
    for row, (prompt, completion) in enumerate(sequences):
        end = len(prompt) + len(completion)
        ids_BT[row, :end] = torch.tensor([*prompt, *completion])
        mask_BT[row, :end] = 1
        labels_BT[row, len(prompt) : end] = torch.tensor(completion)
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    batch = {name: value.to(model.device) for name, value in batch.items()}
    return model(**batch, use_cache=False, fused_lm_head=True).log_probs.double()
