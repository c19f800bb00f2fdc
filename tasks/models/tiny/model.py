"""Pretrains the embedded small world's student and teacher: one tiny Qwen3 that takes two ways.

The teacher is the final exponential average of the weights. The student branches off at the snapshot whose greedy
accuracy on the dev problems is nearest ``spec.branch_accuracy`` (`tasks.models.tiny.branch`). Runs in one process or in
several that each hold their share of every batch (gloo): an example belongs to a batch by its global index, so the
number of processes changes only the rounding of sums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.digests import StageKey
from tasks.core.errors import InputError
from tasks.core.results import Progress, no_progress
from tasks.core.sections import TinySpec
from tasks.core.stages import PRETRAIN
from tasks.models.generate import generate
from tasks.models.load import native_bfloat16
from tasks.models.tiny.branch import branch, check_student, style_mass
from tasks.models.tiny.corpus import asked, batch_share, dev_batches, opening_batches, prompt_ids
from tasks.models.tiny.learner import MAX_LENGTH, Learner
from tasks.models.tiny.network import as_vector, build_network, exact_matches
from tasks.models.tiny.ranks import Ranks, joined
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.overlap import question_key
from tasks.problems.synthetic import Problem, Style, check, dev_problems, vocabulary

if TYPE_CHECKING:
    from torch import Tensor

MAX_NEW_TOKENS = 112
WARMUP_STEPS = 50
CHECK_EVERY = 25
CHECK_BELOW_LOSS = 0.12
"""Nats a token; above it few answers of several steps are right and dev is not looked at."""
NEAR = 0.1
"""A snapshot further than this from ``spec.branch_accuracy`` is said to be so."""


def pretrain_key(spec: TinySpec) -> StageKey:
    """What decides the synthetic task's student and teacher."""
    return PRETRAIN.key({}, spec.model_dump(mode="json"))


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
    """Train the teacher, let the student branch off, and let rank 0 write ``out/student`` and ``out/teacher`` (model
    and tokenizer), ``out/pretrain.json`` (the record, without times or paths) and ``out/corpus_keys.npy`` (sorted
    `question_key`s of every question consumed). Returns the record, the same in every rank.

    With ``world`` > 1 every rank calls this with the same ``rendezvous`` (a ``file://`` URL of a file that does not
    exist yet) and computes with one thread. ``progress`` counts optimiser steps; the teacher mostly stops
    before ``spec.max_steps``. Raises `InputError` for settings that do not fit together, and for a student too weak or
    too strong (`check_student`).
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
        start, seen = choose_start(spec, tokenizer, problems, average, weights, trained, ranks)
        weights.copy_(trained.snapshots[start])
        branched = branch(spec, tokenizer, problems, average, weights, teacher_step, ranks, progress)
        opening = opening_batches(tokenizer, problems[rank::world], ranks.device)
        mass = style_mass(average, opening, len(problems), ranks)
        accuracy: dict[tuple[str, Style], float] = {}
        ends: dict[str, tuple[Tensor, tuple[Style, ...]]] = {
            "student": (weights.clone(), ("a", "b")),
            "teacher": (trained.snapshots[teacher_step], ("b",)),
        }
        for name, (end, styles) in ends.items():
            weights.copy_(end)
            for style in styles:
                accuracy[name, style] = greedy_accuracy(average, tokenizer, problems, style, ranks)
            if rank == 0:
                average.save_pretrained(out / name)
                tokenizer.save_pretrained(out / name)
        check_student(spec, accuracy["student", "a"])
        keys = ranks.gather(np.array(trained.keys + branched.keys, dtype=np.int64))
        corpus = np.unique(keys)
        dev_keys = np.array([question_key(problem.question) for problem in problems])
        record = {
            "steps": teacher_step,
            "teacher_reached": trained.dev[-1][1] >= spec.teacher_accuracy,
            "teacher_accuracy": accuracy["teacher", "b"],
            "start_step": start,
            "start_near": abs(seen[start] - spec.branch_accuracy) <= NEAR,
            "branch_steps": spec.branch_steps,
            "branch_loss": branched.loss,
            "student_accuracy": accuracy["student", "a"],
            "student_asked_accuracy": accuracy["student", "b"],
            "style_mass": mass,
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
            "start_dev": sorted(seen.items()),
            "style_masses": branched.masses,
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

    ``weights`` are ``average``'s; they hold the final average afterwards.
    """
    learner = Learner(spec, tokenizer, weights, ranks, warmup=WARMUP_STEPS)
    batches = dev_batches(tokenizer, problems[ranks.rank :: ranks.world], "b", ranks.device)
    trained = Trained()
    for step in range(1, spec.max_steps + 1):
        batch, keys = batch_share(spec, tokenizer, step - 1, ranks.rank, ranks.world, ranks.device)
        trained.keys += keys
        learner.learn(batch)
        last = step == spec.max_steps
        if step % CHECK_EVERY == 0 or last:
            trained.losses.append((step, learner.loss))
            if learner.loss < CHECK_BELOW_LOSS or last:
                share = ranks.count(exact_matches(average, batches)) / len(problems)
                trained.dev.append((step, share))
                last = last or share >= spec.teacher_accuracy
        if step % spec.snapshot_every == 0 or last:
            trained.snapshots[step] = weights.clone()
        progress(step, spec.max_steps + spec.branch_steps, _note(learner.loss, trained.dev))
        if last:
            break
    return trained


def _note(loss: float, dev: Sequence[tuple[int, float]]) -> str:
    return f"loss {loss:.2f}" + (f", dev {dev[-1][1]:.2f}" if dev else "")


def choose_start(
    spec: TinySpec,
    tokenizer: Any,
    problems: Sequence[Problem],
    average: Any,
    weights: Tensor,
    trained: Trained,
    ranks: Ranks,
) -> tuple[int, dict[int, float]]:
    """The step of the snapshot nearest ``spec.branch_accuracy`` (dev, plain prompt, style a), and what was measured.

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
        low, high = (middle + 1, high) if share < spec.branch_accuracy else (low, middle - 1)
    return min(seen, key=lambda step: (abs(seen[step] - spec.branch_accuracy), step)), seen


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
