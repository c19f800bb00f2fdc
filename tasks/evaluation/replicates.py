"""How far accuracy moves when a training is only repeated: what a claim about methods, not models, has to allow for.

Another order of the data or another LoRA initialisation gives another model of the same method. Replicate runs tell
how far their accuracies lie apart; McNemar's test and the interval of a pair know nothing of it: they are about the two
models at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tasks.core.chance import student
from tasks.core.errors import InputError
from tasks.evaluation.intervals import paired_moments


@dataclass(frozen=True)
class TrainingSpread:
    """Variances (shares squared) of one training's accuracy, pooled over groups of replicates on ``df`` degrees of
    freedom (runs less groups).

    ``seen``: of the accuracies on these problems; ``own``: of the accuracies on all problems of their kind, without
    what the sample of problems adds; never negative.
    """

    seen: float
    own: float
    df: int


def training_spread(groups: Sequence[NDArray[np.bool_]]) -> TrainingSpread | None:
    """The spread within groups of replicates; each (runs, problems): right or wrong. None without a group of two.

    Two runs of one method answer the same n problems; D of these are discordant, and their accuracies differ by d.
    Were the trainings equally accurate, d would still vary with the problems drawn: the difference on one problem is
    -1, 0 or 1, so its variance is ``D/n - d^2``, and of the mean of n of them, unbiased, ``(D/n - d^2) / (n - 1)``.
    So ``E[d^2] = 2 own + E[(D/n - d^2) / (n - 1)]``. ``seen`` is half the mean of d^2 over a group's pairs (its sample
    variance), ``own`` half the mean of ``d^2 - (D/n - d^2) / (n - 1)``; groups weigh by their runs less one, and only
    the pooled value is cut at 0. `InputError` for a group that is no (runs, problems), or of fewer than 2 problems.
    """
    seen = own = 0.0
    df = 0
    for group in groups:
        if group.ndim != 2 or group.shape[1] < 2:
            raise InputError(f"replicates have shape {group.shape}; need (runs, problems), 2 problems or more")
        runs, n = group.shape
        squares, sampled = [], []
        for a, b in combinations(group.astype(np.int64), 2):
            d, discordant = float((a - b).mean()), float((a != b).mean())
            squares.append(d**2)
            sampled.append((discordant - d**2) / (n - 1))
        if squares:
            weight = runs - 1
            df += weight
            seen += weight * float(np.mean(squares)) / 2
            own += weight * (float(np.mean(squares)) - float(np.mean(sampled))) / 2
    return TrainingSpread(seen / df, max(0.0, own / df), df) if df else None


def method_interval(only_a: int, only_b: int, n: int, trained: int, spread: TrainingSpread) -> tuple[float, float]:
    """95 % interval (low, high), shares, of a difference in accuracy that allows for another training of each.

    That of `paired_interval` with ``trained`` (0, 1 or 2: how many of the two were trained) times ``spread.own`` added
    to its variance w, and Student's t in place of the normal quantile, with the degrees of freedom of Welch and
    Satterthwaite: ``total^2 / ((trained seen)^2 / df + w^2 / (n + 1))``. In these stands what was seen, since it, not
    what is left of it, is a variance on df degrees of freedom: with few replicates the interval is wide even where
    they agree. (Simulated, both parts normal: it holds the truth in .90-.98 of cases on 1 degree of freedom, in .946
    or more from 2 on; with what is left in its place .83 and .88.) Never fewer than df: where the two differ on few
    problems, what other methods' replicates differ on would else make the interval wider than any spread that was
    seen. It takes the other methods to spread as those with replicates do, and two runs of one order, which share its
    luck, as independent.
    """
    difference, problems = paired_moments(only_a, only_b, n)
    total = problems + trained * spread.own
    freedom = max(spread.df, total**2 / ((trained * spread.seen) ** 2 / spread.df + problems**2 / (n + 1)))
    half = float(student(freedom)) * total**0.5
    return difference - half, difference + half
