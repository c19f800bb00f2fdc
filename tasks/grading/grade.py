r"""The reward: is the final answer of a completion equal to the gold answer? Judged by math-verify 0.9.0.

Three steps. *Locate* the final answer (`locate`), thoughts left out: the last ``<answer>``; else the last
``\boxed{...}`` or the final line ``A: 72`` / ``Answer: 72``, whichever comes last; else ``#### 72``; else the number
that the closing sentence concludes with; else math-verify searches the end of the text by its own rules.
*Tidy* it (`tidy`): a currency sign, thousands separators, a closing full stop, and, where the gold is a plain number,
words of unit behind a number. *Compare* with the gold by math-verify, in child processes (`pool`).

Deviations from calling math-verify on the whole completion: the location rules above (so ``final answer is 3`` in the
middle of a text never wins over the box after it), the tidying, an answer with the same characters as the gold is right
unparsed, and a limit on what is parsed: a located answer of more than `MAX_FORMULA` characters counts as unreadable,
and only the last `MAX_FREE` characters are searched where no answer is marked. Two plain integers are compared as such,
which gives what math-verify gives (``tests/unit/grading/test_fast_path.py``). ``docs/grading.md``: agreement with
labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from tasks.core.results import Progress, no_progress
from tasks.grading.locate import MAX_FORMULA, PROSE, concluded, locate, predicate, said, spoken, tagged, unheaded
from tasks.grading.pool import POOL
from tasks.grading.tidy import INTEGER, NUMBER, balanced, choices, powers, same_text, several, tidy

GRADER: str
"""``"math-verify <version>, rules <RULES>"``, looked up on first use."""
RULES = 4
"""Raised whenever locating, tidying or comparing changes: it is part of the cache keys of graded stages."""
MAX_FREE = 1000
"""Characters at the end of a completion that are searched when it marks no answer."""


def __getattr__(name: str) -> str:
    if name == "GRADER":
        return f"math-verify {metadata.version('math-verify')}, rules {RULES}"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Grade:
    """``reward`` 1.0 or 0.0; ``extracted``: the answer that was read, None where nothing could be read."""

    reward: float
    extracted: str | None
    gold_parsed: bool = True
    """Whether the gold could be read; where not, the reward of 0.0 says nothing about the answer."""


@dataclass(frozen=True)
class Agreement:
    """Given labels against grades: how many rows carry a label, on how many both agree, and where they do not."""

    n: int
    agree: int
    disagreements: tuple[int, ...]

    @property
    def share(self) -> float | None:
        """``agree / n``; None where no label was given."""
        return self.agree / self.n if self.n else None


def grade(completion: str, gold: str) -> Grade:
    r"""Reward of one completion. ``gold`` is a bare answer (``72``, ``1,234``, ``\frac{1}{2}``) or a marked one.

    Safe in any thread and in worker processes. Raises `StageError` where math-verify cannot be started.

    Examples
    --------
    >>> grade(r"3 + 4 = 7, so she has \boxed{7} apples.", "7")
    Grade(reward=1.0, extracted='7', gold_parsed=True)
    >>> grade(r"The answer is \boxed{0.5}.", r"\frac{1}{2}").reward
    1.0
    >>> grade("I do not know.", "7").extracted is None
    True
    """
    return grade_many([completion], [gold])[0]


def grade_many(completions: Sequence[str], golds: Sequence[str], progress: Progress = no_progress) -> list[Grade]:
    r"""`grade` of every pair, in order; pairs with the same located answer and gold are judged once.

    Judged in as many processes as there are cores. Raises ValueError where the two sequences differ in length.

    Examples
    --------
    >>> [found.reward for found in grade_many([r"\boxed{7}", r"\boxed{8}"], ["7", "7"])]
    [1.0, 0.0]
    """
    if len(completions) != len(golds):
        raise ValueError(f"grade_many: {len(completions)} completions but {len(golds)} golds")
    questions = [_question(completion, gold) for completion, gold in zip(completions, golds, strict=True)]
    rows = Counter(questions)
    readable = _readable({question[1] for question in rows})
    grades = {q: found for q in rows if (found := _at_once(q, readable[q[1]])) is not None}
    done = sum(rows[question] for question in grades)
    if done:
        progress(done, len(questions), "completions graded")
    rest = [question for question in rows if question not in grades]
    for question, found in zip(rest, POOL.map(lambda q: _judge(q, readable[q[1]]), rest), strict=True):
        grades[question] = found
        before, done = done, done + rows[question]
        if before // 100 != done // 100 or done == len(questions):
            progress(done, len(questions), "completions graded")
    return [grades[question] for question in questions]


def unparsed_golds(golds: Sequence[str]) -> list[int]:
    """Indices of the golds that cannot be read: empty, cut, too long, or beyond math-verify's time limit."""
    texts = [_gold(gold) for gold in golds]
    readable = _readable(set(texts))
    return [index for index, text in enumerate(texts) if not readable[text]]


def judge_equal(answer: str, gold: str) -> bool:
    """Whether math-verify takes ``answer`` for ``gold``, both tidied; never where one cannot be read."""
    if not (_legible(answer) and _legible(gold)):
        return False
    reply = POOL.ask(_boxed(answer), _boxed(gold))
    return reply is not None and reply[0]


def magnitude(answer: str) -> float | None:
    """A number that tells tidied answers apart: those that `judge_equal` finds equal share it, up to its rounding.

    None where there is none: for a set, a relation, a word, and what cannot be read. NaN past the time limit.
    """
    return POOL.magnitude(_boxed(answer)) if _legible(answer) else None


def agreement(rewards_given: Sequence[float | None], grades: Sequence[Grade]) -> Agreement:
    """Where given labels and grades agree. Rows without a label (None) do not count; indices refer to the sequences."""
    if len(rewards_given) != len(grades):
        raise ValueError(f"agreement: {len(rewards_given)} rewards but {len(grades)} grades")
    labelled = [i for i, given in enumerate(rewards_given) if given is not None]
    differ = tuple(i for i in labelled if rewards_given[i] != grades[i].reward)
    return Agreement(n=len(labelled), agree=len(labelled) - len(differ), disagreements=differ)


_Question = tuple[str, str, bool]  # the answer's text, the gold's text, whether the answer was marked

_FORMULA = re.compile(r"[\d$\\\[]")  # none of math-verify's patterns matches free text without one of these


def _question(completion: str, gold: str) -> _Question:
    """The texts that decide the grade; equal questions have equal grades."""
    gold_text = _gold(gold)
    number = NUMBER.fullmatch(gold_text) is not None
    text = spoken(completion)
    tag = tagged(text if not completion.rstrip().endswith("</answer>") else completion)
    text = text if tag is None else tag
    located = locate(text)
    if located is None and tag is not None and not (number and PROSE.match(tag)):
        located = tag
    if located is None:
        text = unheaded(text)[-MAX_FREE:]
        if number:
            located = concluded(text)
        elif _FORMULA.search(gold_text) is None:
            located = said(text)  # a word or a letter: math-verify would find none
    if located is None:
        return powers(text), gold_text, False
    if _FORMULA.search(gold_text) and "\\boxed" not in located:
        located = predicate(located)
    located, gold = choices(located, locate(gold) or gold)
    if several(gold) or ("\\boxed" not in located and several(located)):  # of several boxes math-verify reads each
        listed = tidy(gold, units=False, lists=True)
        if len(listed) <= MAX_FORMULA:  # a list is written longer than the number that its commas may group
            return tidy(located, units=False, lists=True), listed, True
    gold_text = _gold(gold)
    return tidy(located, units=NUMBER.fullmatch(gold_text) is not None), gold_text, True


@lru_cache(maxsize=256)
def _gold(gold: str) -> str:
    """K completions of one problem share its gold."""
    return tidy(locate(gold) or gold, units=False)


def _readable(golds: set[str]) -> dict[str, bool]:
    ordered = sorted(golds)
    return dict(zip(ordered, POOL.map(_read, ordered), strict=True))


def _read(gold: str) -> bool:
    if INTEGER.fullmatch(gold):
        return True
    if not _legible(gold):
        return False
    reply = POOL.ask(None, _boxed(gold))
    return reply is not None and reply[2]


def _at_once(question: _Question, gold_parsed: bool) -> Grade | None:
    """The grade where no parser is needed to know it, else None."""
    answer, gold, marked = question
    if not marked:
        return None if _FORMULA.search(answer) else Grade(0.0, None, gold_parsed)
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(gold):
        return Grade(float(answer == gold), answer)  # both are canonical: see `tidy`
    if not answer or len(answer) > MAX_FORMULA:
        return Grade(0.0, None, gold_parsed)
    return Grade(1.0, answer) if gold_parsed and same_text(answer, gold) else None


def _judge(question: _Question, gold_parsed: bool) -> Grade:
    answer, gold, marked = question
    reply = POOL.ask(_boxed(answer) if marked else answer, _boxed(gold if gold_parsed else "0"))
    if reply is None or reply[1] is None:
        return Grade(0.0, None, gold_parsed)
    return Grade(float(reply[0] and gold_parsed), answer if marked else reply[1], gold_parsed)


def _legible(text: str) -> bool:
    return bool(text) and len(text) <= MAX_FORMULA and balanced(text)


def _boxed(text: str) -> str:
    return text if "\\boxed" in text else rf"\boxed{{{text}}}"
