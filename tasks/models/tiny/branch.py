"""The student leaves the teacher's way: strong in its own style, weaker in the teacher's, which it seldom uses unasked.

How seldom decides how much of an update is the change of style, so it is set and not left to the seed: the probability
of the teacher's style under the plain prompt is measured on the dev problems on the way and steers the share of
examples that show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import TYPE_CHECKING, Any

from tasks.core.errors import InputError
from tasks.core.results import Progress
from tasks.core.sections import TinySpec
from tasks.models.tiny.corpus import batch_share, opening_batches
from tasks.models.tiny.learner import Learner
from tasks.models.tiny.network import target_probability
from tasks.models.tiny.ranks import Ranks
from tasks.problems.synthetic import Problem, branch_mix

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.models.tiny.batches import Packed

WARMUP_STEPS = 20
STEER_EVERY = 25
MEMORY = 0.5
"""What a past error still counts; less leaves the mass a tenth below its target in the end, more makes it swing."""
MOST_UNASKED = 0.5
"""The largest share of plain examples in style b, however far the measured mass lies below the one that is set."""
STUDENT_RANGE = (0.85, 0.995)
"""Greedy accuracy on dev, plain prompt. Below it imitation teaches arithmetic; above it there is little to lose."""


@dataclass
class Branch:
    """What the branch saw."""

    keys: list[int] = field(default_factory=list)
    masses: list[tuple[int, float, float]] = field(default_factory=list)
    """(step of the branch, mass measured then, share of style b among the plain examples that follow)."""
    loss: float | None = None
    """Running mean at its end (nats a token); None where it has no step."""


def branch(
    spec: TinySpec,
    tokenizer: Any,
    problems: Sequence[Problem],
    average: Any,
    weights: Tensor,
    first: int,
    ranks: Ranks,
    progress: Progress,
) -> Branch:
    """Train on from ``weights``, which are ``average``'s and hold the student's afterwards, for ``spec.branch_steps``.

    A fresh AdamW at the same rate; the batches are those of the stream from ``first`` (a step, from 0) on.
    """
    found = Branch()
    if not spec.branch_steps:
        return found
    learner = Learner(spec, tokenizer, weights, ranks, warmup=WARMUP_STEPS)
    batches = opening_batches(tokenizer, problems[ranks.rank :: ranks.world], ranks.device)
    for step in range(spec.branch_steps):
        if step % STEER_EVERY == 0:
            mass = style_mass(average, batches, len(problems), ranks)
            unasked = steered(spec.style_mass, [*(seen for _, seen, _ in found.masses), mass])
            found.masses.append((step, mass, unasked))
        mix = branch_mix(spec.branch_asked, unasked)
        batch, keys = batch_share(spec, tokenizer, first + step, ranks.rank, ranks.world, ranks.device, mix)
        found.keys += keys
        learner.learn(batch)
        note = f"student: loss {learner.loss:.2f}, style mass {mass:.3f}"
        progress(spec.max_steps + step + 1, spec.max_steps + spec.branch_steps, note)
    found.loss = learner.loss
    return found


def style_mass(model: Any, batches: Sequence[Packed], problems: int, ranks: Ranks) -> float:
    """The mean probability that an answer to a plain prompt begins as style b does (``batches``: `opening_batches`)."""
    return ranks.total(target_probability(model, batches)) / problems


def steered(target: float, masses: Sequence[float]) -> float:
    """The share of style b among plain examples, given the mass ``target`` that is wanted and those measured so far.

    A calibrated model's mass follows that share, the averaged weights' a little below it and late. So a proportional
    and integral controller, in log-odds: the target, plus by how much the last mass is below it, plus `MEMORY` times
    the same for every mass before; at most `MOST_UNASKED`.
    """
    below = [_log_odds(target) - _log_odds(mass) for mass in masses]
    share = 1 / (1 + exp(-_log_odds(target) - below[-1] - MEMORY * sum(below[:-1])))
    return min(share, MOST_UNASKED)


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return log(share / (1 - share))


def check_student(spec: TinySpec, accuracy: float) -> None:
    """Raise `InputError` where the branch did not lead to a base that imitation can move to another style."""
    low, high = STUDENT_RANGE
    if not spec.branch_steps or low <= accuracy <= high:
        return
    if accuracy < low:
        mend = "raise it (or tiny.max_steps), or lower tiny.style_mass or tiny.branch_asked"
        raise InputError(
            f"tiny.branch_steps: after {spec.branch_steps} steps the student answers {accuracy:.1%} of the dev problems"
            f" right, below {low:.0%}: imitation would teach it arithmetic, not a style; {mend}"
        )
    raise InputError(
        f"tiny.branch_steps: after {spec.branch_steps} steps the student answers {accuracy:.2%} of the dev problems "
        f"right, above {high:.1%}: no method could gain; lower it, or raise tiny.max_operand"
    )
