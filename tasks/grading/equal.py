r"""Which answers are mathematically one: ``1/2`` and ``0.5`` are, by the comparison that also grades.

Used where answers are counted by value (majority votes) and there is no gold to compare them with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from math import isnan

from tasks.core.results import Progress, no_progress
from tasks.grading.grade import judge_equal, magnitude
from tasks.grading.pool import POOL
from tasks.grading.tidy import NUMBER, same_text, tidy

_RATIO = re.compile(r"(-?)(?:\\[dt]?frac\{([0-9]{1,15})\}\{([0-9]{1,15})\}|([0-9]{1,15})/([0-9]{1,15}))")
_LONGEST = 40
"""Digits of a number that is compared by its value here; a longer one is a formula like any other."""
_APART, _NOISE = 1e-6, 1e-12
"""Numbers further apart than this (relative; absolute) are different to the grader: it allows seven digits."""
_PRINTED = 15
"""Significant digits of a decimal beyond which the grader allows for a binary number's print-out."""


def answer_classes(groups: Sequence[Sequence[str]], progress: Progress = no_progress) -> list[list[int]]:
    r"""For each group of answers, as the grader read them, the place in its group of the answer that stands for each.

    An answer is stood for by the first one of its group that it equals and that stands for itself: so classes are those
    of equal answers, and as equality with tolerances is not transitive (3.141593, \pi, 3.1415926), the order decides
    where it is not. Two answers are equal where their texts are, where their values as integers, decimals or simple
    fractions are, or where grading says so with either as the gold. The last is asked of the grader's processes, and
    only where the first two settle nothing and `magnitude` does not tell the two apart: a group of m formulas takes m
    questions, not m^2. What takes too long equals nothing.
    """
    classes: list[list[int]] = []
    for places in POOL.map(_classes, groups):
        classes.append(places)
        if len(classes) % 100 == 0 or len(classes) == len(groups):
            progress(len(classes), len(groups), "problems' votes counted")
    return classes


class _Answer:
    """One answer of a group; what costs a question is asked at most once, and only when it is needed."""

    def __init__(self, text: str) -> None:
        self.text = tidy(text, units=False)
        self.value = _value(self.text)

    @cached_property
    def magnitude(self) -> float | None:
        return magnitude(self.text) if self.value is None else float(self.value)

    def equals(self, other: _Answer) -> bool:
        if self.value is not None and other.value is not None:
            if self.value == other.value:
                return True
            if max(map(_digits, (self.text, other.text))) <= _PRINTED:
                return False
        if same_text(self.text, other.text):
            return True
        a, b = self.magnitude, other.magnitude
        if any(number is not None and isnan(number) for number in (a, b)):
            return False  # one of them takes too long to read
        if a is not None and b is not None and abs(a - b) > _APART * max(abs(a), abs(b)) + _NOISE:
            return False
        return judge_equal(self.text, other.text) or judge_equal(other.text, self.text)


def _classes(answers: Sequence[str]) -> list[int]:
    found = [_Answer(text) for text in answers]
    standing: list[int] = []
    places: list[int] = []
    for i, answer in enumerate(found):
        place = next((j for j in standing if found[j].equals(answer)), i)
        if place == i:
            standing.append(i)
        places.append(place)
    return places


def _digits(text: str) -> int:
    """Digits of a decimal from its first that is not 0; none of an integer or a fraction."""
    return len(re.sub(r"[^0-9]", "", text).lstrip("0")) if "." in text else 0


def _value(text: str) -> Fraction | None:
    """The exact value of an integer, a decimal or a simple fraction; None for anything else."""
    if len(text) <= _LONGEST and NUMBER.fullmatch(text):
        return Fraction(text)
    if not (found := _RATIO.fullmatch(text)):
        return None
    sign, above, below = found[1], found[2] or found[4], found[3] or found[5]
    return None if int(below) == 0 else Fraction(int(above), int(below)) * (-1 if sign else 1)
