"""One run on one benchmark, and one run against another: accuracies with their intervals and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.core.results import DIFFERS, DIFFERS_LITTLE, EFFECT, LEVEL, NO_POWER

SHOWN = (DIFFERS, DIFFERS_LITTLE)
"""Verdicts of MCNEMAR that show a difference."""
MARGIN = f"{100 * EFFECT:g} points"
"""The smallest difference of interest as it reads."""

BASE_FAMILY = "base"
"""MCNEMAR's family of the methods' main runs against the base."""

NOT_JUDGED = "not judged"
"""In a verdict's place where the base's answers do not end: see `unended`."""
MOST_UNENDED = 0.5
"""Share of the base's greedy answers that may not end, beyond which its accuracy says where they were cut."""

NEAR_ZERO = 0.05
"""Accuracy (share) below which a model is taken not to solve a benchmark at all."""


@dataclass(frozen=True)
class Score:
    """One run on one benchmark; accuracies are shares, ``low`` and ``high`` the 95 % interval: Wilson's for one answer
    a problem, otherwise a bootstrap over problems."""

    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    unparsed: int
    truncated: int
    answer_loss: float | None


@dataclass(frozen=True)
class Versus:
    """One run against another on the problems that both answered; ``difference`` is this run's share less the other's.

    ``only_this`` and ``only_other`` are the discordant problems. ``low``, ``high``: 95 % interval of the difference of
    these two models; ``method_low``, ``method_high``: with the spread of repeated trainings, of which one has the
    standard deviation ``training_sd``, known on ``repeats`` degrees of freedom; None: no training was repeated.
    ``p_value`` is exact two-sided, ``p_mid`` its mid-p; ``p_holm`` adjusted over the pairs of ``family``, None outside
    families. ``detectable``: the smallest true difference, a share, that the test would have found; None: none.
    """

    n: int
    only_this: int
    only_other: int
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_mid: float | None
    p_holm: float | None
    family: str | None
    detectable: float | None
    verdict: str
    repeats: int | None = None
    training_sd: float | None = None
    method_low: float | None = None
    method_high: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown. Its absence never means that the two are equal."""
        return self.verdict in SHOWN

    @property
    def p(self) -> float | None:
        """What the verdict read: adjusted within the family, else the exact p itself."""
        return self.p_value if self.family is None else self.p_holm

    @property
    def rejects(self) -> bool:
        """Whether the exact test of this pair alone rejects."""
        return self.p_value is not None and self.p_value <= LEVEL

    @property
    def repeatable(self) -> bool | None:
        """Whether the interval with the spread of trainings leaves out 0; None where that spread is not known."""
        if self.method_low is None or self.method_high is None:
            return None
        return not self.method_low <= 0 <= self.method_high


def versus_of(row: dict[str, Any], sign: int = 1) -> Versus:
    """A row of MCNEMAR as a against b, or with ``sign`` -1 as b against a."""
    only_this, only_other = (row["only_a"], row["only_b"])[::sign]
    low, high = _turned(row["low"], row["high"], sign)
    method_low, method_high = _turned(row["method_low"], row["method_high"], sign)
    return Versus(
        n=row["n"],
        only_this=only_this,
        only_other=only_other,
        difference=sign * row["difference"],
        low=low,
        high=high,
        verdict=row["verdict"] or NO_POWER,
        method_low=method_low,
        method_high=method_high,
        **{
            name: row[name] for name in ("p_value", "p_mid", "p_holm", "family", "detectable", "repeats", "training_sd")
        },
    )


def _turned(low: float | None, high: float | None, sign: int) -> tuple[float | None, float | None]:
    return (low, high) if sign > 0 else (None if high is None else -high, None if low is None else -low)
