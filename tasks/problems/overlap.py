"""Which split a question belongs to, and proof that splits do not share questions.

The split is a pure function of the question's text, so disjointness holds by construction; `overlap_report` does not
rely on that and compares the questions that were really used.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import polars as pl

SPLITS = ("dev", "rollouts", "heldout", "hard")
BUCKETS = 8
"""Four buckets for `SPLITS`, the rest for pretraining."""


def normalise(question: str) -> str:
    """Lower case, single spaces, no surrounding space: what makes two questions the same."""
    return " ".join(question.lower().split())


def question_key(question: str) -> int:
    """A 63-bit hash of the normalised question; fits a signed 64-bit integer."""
    return int.from_bytes(blake2b(normalise(question).encode(), digest_size=8).digest(), "big") >> 1


INSTRUCTIONS = (
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Let's think step by step and output the final answer within \\boxed{}.",
    "Let's think step by step.",
    "Please think step by step.",
)
"""Sentences around a question that make it no other question."""


def bare_key(question: str) -> int:
    """`question_key` without `INSTRUCTIONS` before or behind the question: finds it whatever template asked it."""
    text = normalise(question)
    for sentence in map(normalise, INSTRUCTIONS):
        text = text.removeprefix(sentence).removesuffix(sentence).strip()
    return question_key(text or question)


def instructed(question: str, instruction: str | None) -> str:
    """``question`` with ``instruction`` on a line of its own behind it; as it is where it carries one already.

    That is: ``instruction`` itself anywhere in it, or one of `INSTRUCTIONS` around it.
    """
    if instruction is None or instruction in question or bare_key(question) != question_key(question):
        return question
    return f"{question}\n{instruction}"


def split_of(question: str) -> str:
    """The only split ``question`` may appear in: one of `SPLITS`, or ``"pretraining"``."""
    bucket = question_key(question) % BUCKETS
    return SPLITS[bucket] if bucket < len(SPLITS) else "pretraining"


def overlap_report(problems: pl.DataFrame, consumed: Iterable[int]) -> dict[str, int]:
    """Counts of shared questions; every one of them should be 0.

    ``problems`` is a `PROBLEMS` frame, ``consumed`` the keys (`question_key`) of every question that pretraining saw.
    Keys ``"<split>&<other>"`` count the distinct questions that two splits share, ``"<split>&pretraining"`` those
    seen in pretraining, ``"<split> duplicates"`` the rows beyond the first of a question within one split.
    """
    keys: dict[str, list[int]] = {}
    for split, question in problems.select("split", "question").iter_rows():
        keys.setdefault(split, []).append(question_key(question))
    corpus = {int(key) for key in consumed}
    report: dict[str, int] = {}
    names = list(keys)
    for i, split in enumerate(names):
        own = set(keys[split])
        report[f"{split} duplicates"] = len(keys[split]) - len(own)
        for other in names[i + 1 :]:
            report[f"{split}&{other}"] = len(own & set(keys[other]))
        report[f"{split}&pretraining"] = len(own & corpus)
    return report
