"""Pretrains the embedded small world's student and teacher: one tiny Qwen3, seen at two moments.

The teacher is the final exponential average of the weights; the student is the average at the snapshot whose greedy
accuracy on the dev problems is nearest ``spec.student_accuracy``. Runs in one process or in several that each hold
their share of every batch (gloo): an example belongs to a batch by its global index, so the number of processes
changes only the rounding of sums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.contracts import InputError, Progress, no_progress
from tasks.digests import StageKey
from tasks.models.generate import generate
from tasks.models.load import native_bfloat16
from tasks.models.tiny_batches import Packed
from tasks.models.tiny_corpus import asked, batch_share, dev_batches, prompt_ids
from tasks.models.tiny_network import (
    as_vector,
    build_network,
    exact_matches,
    point_gradients,
    target_logits,
)
from tasks.models.tiny_ranks import Ranks, joined
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import Problem, Style, check, dev_problems, vocabulary
from tasks.specs import TinySpec

if TYPE_CHECKING:
    from torch import Tensor

MAX_LENGTH = 256
MAX_NEW_TOKENS = 112
WARMUP_STEPS = 50
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
CHECK_EVERY = 25
CHECK_BELOW_LOSS = 0.12
"""Nats a token; above it few answers of several steps are right and dev is not looked at."""
LOSS_MEMORY = 0.95
STUDENT_RANGE = (0.55, 0.75)


def pretrain_key(spec: TinySpec) -> StageKey:
    """What decides the embedded world's student and teacher."""
    return StageKey("pretrain", 1, {}, spec.model_dump(mode="json"))


@dataclass
class Trained:
    """What the training loop leaves: the averaged weights on the way, and what was seen."""

    snapshots: dict[int, Tensor] = field(default_factory=dict)
    """step -> (P,) averaged weights; the last is the teacher."""
    keys: list[int] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    dev: list[tuple[int, float]] = field(default_factory=list)


def pretrain(
    spec: TinySpec,
    out: Path,
    *,
    rank: int = 0,
    world: int = 1,
    rendezvous: str | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Train, choose the student, and let rank 0 write ``out/student`` and ``out/teacher`` (model and tokenizer),
    ``out/pretrain.json`` (the record, without times or paths) and ``out/corpus_keys.npy`` (sorted `question_key`s of
    every question consumed). Returns the record, the same in every rank.

    With ``world`` > 1 every rank calls this with the same ``rendezvous`` (a ``file://`` URL of a file that does not
    exist yet) and computes with one thread. ``progress`` counts optimiser steps; training mostly stops before
    ``spec.max_steps``. Raises `InputError` for settings that do not fit together.
    """
    check(spec)
    if spec.batch_size % world:
        raise InputError(f"batch_size: {spec.batch_size} sequences do not split evenly over {world} processes")
    with joined(rank, world, rendezvous) as ranks:
        tokenizer = build_tokenizer(vocabulary(), max_length=MAX_LENGTH)
        problems = dev_problems(spec)
        average = build_network(spec, tokenizer, MAX_LENGTH).to(ranks.device)
        weights = as_vector(average)
        trained = train(spec, tokenizer, problems, average, weights, ranks, progress)
        teacher_step = max(trained.snapshots)
        student_step, seen = choose_student(spec, tokenizer, problems, average, weights, trained, ranks)
        accuracy: dict[str, float] = {}
        styles: tuple[tuple[str, int, Style], ...] = (("teacher", teacher_step, "b"), ("student", student_step, "a"))
        for name, step, style in styles:
            weights.copy_(trained.snapshots[step])
            accuracy[name] = greedy_accuracy(average, tokenizer, problems, style, ranks)
            if rank == 0:
                average.save_pretrained(out / name)
                tokenizer.save_pretrained(out / name)
        keys = ranks.gather(np.array(trained.keys, dtype=np.int64))
        corpus = np.unique(keys)
        dev_keys = np.array([question_key(problem.question) for problem in problems])
        record = {
            "steps": teacher_step,
            "teacher_reached": trained.dev[-1][1] >= spec.teacher_accuracy,
            "teacher_accuracy": accuracy["teacher"],
            "student_accuracy": accuracy["student"],
            "student_in_range": STUDENT_RANGE[0] <= accuracy["student"] <= STUDENT_RANGE[1],
            "student_step": student_step,
            "examples": len(keys),
            "questions": len(corpus),
            "dev_problems": len(problems),
            "dev_overlap": len(np.intersect1d(corpus, dev_keys)),
            "parameters": len(weights),
            "precision": "bfloat16" if native_bfloat16(ranks.device.type) else "float32",
            "device": ranks.device.type,
            "processes": world,
            "losses": trained.losses,
            "teacher_dev": trained.dev,
            "student_dev": sorted(seen.items()),
        }
        if rank == 0:
            np.save(out / "corpus_keys.npy", corpus)
            (out / "pretrain.json").write_text(json.dumps(record, indent=1) + "\n")
        return record


def train(
    spec: TinySpec,
    tokenizer: Any,
    problems: Sequence[Problem],
    average: Any,
    weights: Tensor,
    ranks: Ranks,
    progress: Progress,
) -> Trained:
    """Optimise until the average answers dev in style b as well as ``spec.teacher_accuracy`` asks, or ``max_steps``.

    The loss is the mean cross-entropy of all completion tokens of the global batch; prompts are not learnt.
    ``weights`` are ``average``'s; they hold the final average afterwards.
    """
    import torch
    from torch.nn import Parameter

    model = build_network(spec, tokenizer, MAX_LENGTH).to(ranks.device)
    vector = Parameter(as_vector(model))
    sums = torch.zeros(len(vector) + 2, device=ranks.device)  # gradient, loss and tokens: one all-reduce for the three
    point_gradients(model, sums)
    optimiser = torch.optim.AdamW([vector], lr=spec.lr, weight_decay=WEIGHT_DECAY, betas=BETAS, fused=True)
    batches = dev_batches(tokenizer, problems[ranks.rank :: ranks.world], "b", ranks.device)
    trained, smooth = Trained(), 0.0
    for step in range(1, spec.max_steps + 1):
        batch, keys = batch_share(spec, tokenizer, step - 1, ranks.rank, ranks.world, ranks.device)
        trained.keys += keys
        loss = _accumulate(model, batch, sums, ranks)
        vector.grad = sums[:-2]
        optimiser.param_groups[0]["lr"] = spec.lr * min(1.0, step / WARMUP_STEPS)
        optimiser.step()
        # The average forgets its start: without this ramp the first snapshots would be mostly initialisation.
        weights.lerp_(vector.data, 1 - min(spec.ema, step / (step + 9)))
        smooth = LOSS_MEMORY * smooth + (1 - LOSS_MEMORY) * loss
        unbiased = smooth / (1 - LOSS_MEMORY**step)
        last = step == spec.max_steps
        if step % CHECK_EVERY == 0 or last:
            trained.losses.append((step, unbiased))
            if unbiased < CHECK_BELOW_LOSS or last:
                share = ranks.count(exact_matches(average, batches)) / len(problems)
                trained.dev.append((step, share))
                last = last or share >= spec.teacher_accuracy
        if step % spec.snapshot_every == 0 or last:
            trained.snapshots[step] = weights.clone()
        progress(step, spec.max_steps, _note(unbiased, trained.dev))
        if last:
            break
    return trained


def _accumulate(model: Any, batch: Packed, sums: Tensor, ranks: Ranks) -> float:
    """Fill ``sums`` with the clipped gradient of the global batch's mean loss; returns that loss (nats a token)."""
    import torch
    from torch.nn.functional import cross_entropy

    sums.zero_()
    logits, targets = target_logits(model, batch)
    loss = cross_entropy(logits, targets, reduction="sum")
    torch.autograd.backward(loss)
    sums[-2], sums[-1] = loss.detach(), len(targets)
    ranks.add(sums)
    gradient, mean = sums[:-2], float(sums[-2] / sums[-1])
    gradient.div_(sums[-1])
    gradient.mul_((CLIP_NORM / gradient.norm()).clamp(max=1.0))
    return mean


def _note(loss: float, dev: Sequence[tuple[int, float]]) -> str:
    return f"loss {loss:.2f}" + (f", dev {dev[-1][1]:.2f}" if dev else "")


def choose_student(
    spec: TinySpec,
    tokenizer: Any,
    problems: Sequence[Problem],
    average: Any,
    weights: Tensor,
    trained: Trained,
    ranks: Ranks,
) -> tuple[int, dict[int, float]]:
    """The step of the snapshot nearest ``spec.student_accuracy`` (dev, plain prompt, style a), and what was measured.

    Bisection: accuracy grows with the step up to noise. Nearest among all that were looked at; earlier wins a tie.
    """
    batches = dev_batches(tokenizer, problems[ranks.rank :: ranks.world], "a", ranks.device)
    steps = sorted(trained.snapshots)
    seen: dict[int, float] = {}
    low, high = 0, len(steps) - 1
    while low <= high:
        middle = (low + high) // 2
        weights.copy_(trained.snapshots[steps[middle]])
        share = ranks.count(exact_matches(average, batches)) / len(problems)
        seen[steps[middle]] = share
        low, high = (middle + 1, high) if share < spec.student_accuracy else (low, middle - 1)
    return min(seen, key=lambda step: (abs(seen[step] - spec.student_accuracy), step)), seen


def greedy_accuracy(model: Any, tokenizer: Any, problems: Sequence[Problem], style: Style, ranks: Ranks) -> float:
    """Share of ``problems``, asked for in ``style``, whose decoded answer ends in the right ``\\boxed{N}``."""
    own = problems[ranks.rank :: ranks.world]
    model.set_attn_implementation("sdpa")
    outputs = generate(
        model,
        [prompt_ids(tokenizer, asked(problem, style)) for problem in own],
        end_ids=[tokenizer.eos_token_id],
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=512,
    )
    right = [
        tokenizer.decode(output.ids[:-1]).endswith(f"\\boxed{{{problem.answer}}}")
        for output, problem in zip(outputs, own, strict=True)
    ]
    return ranks.count(sum(right)) / len(problems)
