"""Arithmetic word problems of the embedded small world, with worked solutions in two styles.

A problem is a chain: a person has some items, and each step changes how many. Every question is told by its hash which
split it belongs to (`overlap.split_of`), so no question can serve two purposes, whatever the seeds. Solutions are
worked for real from the chain; nothing here imports torch.

Style ``a`` is short (one equation a step). Style ``b`` also says what happened, is longer, and is what `instruct` asks
for. Both end in ``\\boxed{N}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

import polars as pl

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS, checked
from tasks.core.sections import TinySpec
from tasks.problems.overlap import question_key, split_of

Style = Literal["a", "b"]

INSTRUCTION = "explain each step."

HE = ("tom", "ben", "sam", "max", "leo", "jack")
SHE = ("ann", "eva", "mia", "lily", "zoe", "kate")
ITEMS = ("apples", "books", "coins", "cards", "pens", "stones", "shells", "stamps", "nuts", "pears", "toys", "cups")
HOLDERS = ("bags", "boxes", "rows")
GAINS = ("buys {n} more", "finds {n} more", "picks up {n} more", "gets {n} from {friend}", "wins {n} from {friend}")
LOSSES = ("loses {n}", "sells {n}", "breaks {n}", "gives {n} to {friend}", "lends {n} to {friend}")
SYMBOLS = {"gain": "+", "loss": "-", "double": "*", "groups": "*"}
INSTRUCTIONS = {
    "gain": "then add {right}",
    "loss": "then take away {right}",
    "double": "then double it",
    "groups": "start with {left} times {right}",
}
LARGEST_GROUPS = 5


@dataclass(frozen=True)
class Step:
    """One change: ``left symbol right = value``, and the clause of the question that tells it."""

    kind: Literal["gain", "loss", "double", "groups"]
    left: int
    right: int
    value: int
    clause: str

    @property
    def instruction(self) -> str:
        """What style b says is to be done; unlike ``clause`` it follows from the operation alone."""
        return INSTRUCTIONS[self.kind].format(left=self.left, right=self.right)

    @property
    def equation(self) -> str:
        return f"{self.left} {SYMBOLS[self.kind]} {self.right} = {self.value}"


@dataclass(frozen=True)
class Problem:
    """A question and the chain that answers it."""

    question: str
    item: str
    start: int | None
    """The number given at the start; None where the first step counts groups."""
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].value


@dataclass(frozen=True)
class Example:
    """One pretraining example: what is asked (``prompt``: the question, perhaps with the instruction) and answered."""

    question: str
    prompt: str
    completion: str
    style: Style


@dataclass(frozen=True)
class Mix:
    """How often a pretraining example is answered in style b, and how often it is then not asked for."""

    style_b: float
    """Share of the examples answered in style b."""
    leak: float
    """Share of those whose prompt does not ask for it: puts style b within the student's reach."""


PRETRAINING = Mix(style_b=0.4, leak=0.25)


def branch_mix(asked: float, unasked: float) -> Mix:
    """Of all examples the share ``asked`` asks for style b; of the plain ones ``unasked`` are answered in it anyhow."""
    plain_b = (1 - asked) * unasked
    return Mix(asked + plain_b, plain_b / (asked + plain_b))


def instruct(question: str) -> str:
    """``question`` with the request for style b; how the teacher is asked."""
    return f"{question} {INSTRUCTION}"


def solve(problem: Problem, style: Style) -> str:
    """The worked solution of ``problem``; ends in ``\\boxed{answer}``."""
    if style == "a":
        lines = [f"{step.equation}." for step in problem.steps]
        return f"{' '.join(lines)} \\boxed{{{problem.answer}}}"
    lines = [f"{step.instruction}, so {step.equation} {problem.item}." for step in problem.steps]
    if problem.start is not None:
        lines.insert(0, f"start with {problem.start} {problem.item}.")
    return f"{' '.join(lines)} the answer is \\boxed{{{problem.answer}}}"


def largest_value(max_operand: int) -> int:
    """The bound of every intermediate and final value: two digits, and few enough sums to be learnt in minutes."""
    return min(99, 2 * max_operand)


def draw_problem(rng: Random, steps: int, max_operand: int) -> Problem:
    """One problem of ``steps`` steps; stated numbers are at most ``max_operand``, values 1..``largest_value``."""
    if rng.random() < 0.5:
        name, pronoun = rng.choice(HE), "he"
    else:
        name, pronoun = rng.choice(SHE), "she"
    item = rng.choice(ITEMS)
    chain: list[Step] = []
    start: int | None = None
    if rng.random() < 0.25:
        opening, value = _open_with_groups(rng, name, item, max_operand, chain)
    else:
        start = value = rng.randint(2, max_operand)
        opening = f"{name} has {value} {item}."
    sentences = [opening]
    while len(chain) < steps:
        step = _draw_step(rng, value, pronoun, name, max_operand)
        chain.append(step)
        sentences.append(f"{step.clause}.")
        value = step.value
    sentences.append(f"how many {item} does {name} have now?")
    return Problem(" ".join(sentences), item, start, tuple(chain))


def _open_with_groups(rng: Random, name: str, item: str, max_operand: int, chain: list[Step]) -> tuple[str, int]:
    groups = rng.randint(2, min(LARGEST_GROUPS, max_operand))
    each = rng.randint(2, min(max_operand, largest_value(max_operand) // groups))
    holder = rng.choice(HOLDERS)
    clause = f"{name} has {groups} {holder} of {each} {item}"
    chain.append(Step("groups", groups, each, groups * each, clause))
    return f"{clause}.", groups * each


def _draw_step(rng: Random, value: int, pronoun: str, name: str, max_operand: int) -> Step:
    limit = largest_value(max_operand)
    friend = rng.choice([other for other in HE + SHE if other != name])
    roll = rng.random()
    if roll < 0.15 and 2 * value <= limit:
        return Step("double", value, 2, 2 * value, f"{pronoun} doubles them")
    most = min(max_operand, limit - value)
    if (roll < 0.6 and most >= 2) or value < 3:
        n = rng.randint(2, most)
        return Step("gain", value, n, value + n, f"{pronoun} {rng.choice(GAINS).format(n=n, friend=friend)}")
    n = rng.randint(2, min(max_operand, value - 1))
    return Step("loss", value, n, value - n, f"{pronoun} {rng.choice(LOSSES).format(n=n, friend=friend)}")


def pretraining_example(spec: TinySpec, index: int, mix: Mix = PRETRAINING) -> Example:
    """Example ``index`` of the pretraining stream: a pure function of ``spec.seed``, ``index``, ``mix`` and the
    settings; its question does not depend on ``mix``."""
    rng = Random(f"pretraining {spec.seed} {index}")
    while True:
        problem = draw_problem(rng, _draw_length(rng, spec), spec.max_operand)
        if split_of(problem.question) == "pretraining":
            break
    style: Style = "b" if rng.random() < mix.style_b else "a"
    asked = style == "b" and rng.random() >= mix.leak
    prompt = instruct(problem.question) if asked else problem.question
    return Example(problem.question, prompt, solve(problem, style), style)


def _draw_length(rng: Random, spec: TinySpec) -> int:
    return rng.choices((2, 3, 4), weights=spec.step_mix)[0]


def _draw_split(spec: TinySpec, split: str, n: int, seed: int) -> Iterator[Problem]:
    """``n`` distinct problems whose questions hash to ``split``."""
    rng = Random(f"{split} {seed}")
    fewest, most = spec.hard_steps
    seen: set[int] = set()
    for _ in range(1000 * n + 1000):
        if len(seen) == n:
            return
        steps = rng.randint(fewest, most) if split == "hard" else _draw_length(rng, spec)
        problem = draw_problem(rng, steps, spec.max_operand)
        key = question_key(problem.question)
        if key not in seen and split_of(problem.question) == split:
            seen.add(key)
            yield problem
    if len(seen) < n:
        raise InputError(f"max_operand: {n} distinct {split} problems were not found; raise it or ask for fewer")


def build_problems(spec: TinySpec, *, rollouts: int, heldout: int, hard: int, seed: int) -> pl.DataFrame:
    """A `PROBLEMS` frame with the splits ``dev`` (``spec.dev_problems`` rows), ``rollouts``, ``heldout`` and ``hard``.

    Solutions are in style a. Raises `InputError` where the settings allow too few distinct problems.
    """
    check(spec)
    sizes = {"dev": spec.dev_problems, "rollouts": rollouts, "heldout": heldout, "hard": hard}
    rows = [
        (f"tiny-{split}-{i:05d}", split, problem.question, str(problem.answer), solve(problem, "a"))
        for split, n in sizes.items()
        for i, problem in enumerate(_draw_split(spec, split, n, seed))
    ]
    return checked(pl.DataFrame(rows, schema=PROBLEMS, orient="row"), PROBLEMS, "problems")


def dev_problems(spec: TinySpec) -> list[Problem]:
    """The problems that steer pretraining (when to stop, where to branch, with which mix); drawn with ``spec.seed``."""
    check(spec)
    return list(_draw_split(spec, "dev", spec.dev_problems, spec.seed))


def check(spec: TinySpec) -> None:
    """Raise `InputError` for settings that bounds alone cannot refuse."""
    if abs(sum(spec.step_mix) - 1) > 1e-6 or min(spec.step_mix) < 0:
        raise InputError(f"step_mix: shares {spec.step_mix} must be >= 0 and sum to 1")
    fewest, most = spec.hard_steps
    if not 1 <= fewest <= most <= 6:
        raise InputError(f"hard_steps: need 1 <= fewest <= most <= 6, got {spec.hard_steps}")
    if spec.hidden % spec.heads or spec.hidden // spec.heads % 2 or spec.heads % spec.kv_heads:
        raise InputError(
            f"heads: {spec.heads} heads ({spec.kv_heads} key-value) do not divide hidden={spec.hidden} into even parts"
        )


def vocabulary() -> list[str]:
    """Every token the generated texts need, sorted: words and signs with their leading space, digits, punctuation."""
    fixed = "has does have now how many he she so the answer is doubles them of"
    templates = " ".join((*GAINS, *LOSSES, *INSTRUCTIONS.values(), INSTRUCTION.rstrip("."), fixed))
    words = {word for word in templates.split() if "{" not in word} | {*HOLDERS, *HE, *SHE, *ITEMS}
    starts = {"start", *HE, *SHE}  # words that can open a question or a solution, hence without a space
    signs = {" +", " -", " *", " =", " \\boxed{", "}", ".", ",", "?"}
    digits = {*"0123456789", *(f" {digit}" for digit in "123456789")}  # no number starts with 0
    return sorted({f" {word}" for word in words - {"start"}} | starts | signs | digits)
