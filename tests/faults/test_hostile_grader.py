"""Formulas that would take for ever, or all memory: the grader's processes end, its callers do not wait."""

from __future__ import annotations

import time

import pytest

from tasks.grading.child import HARD_SECONDS, MEMORY
from tasks.grading.grade import grade, grade_many, unparsed_golds
from tasks.grading.locate import locate
from tasks.grading.pool import Child
from tests.fuzz.formulas import BOMBS

START_SECONDS = 15.0
"""A child's, on a machine that is busy; half a second on a free core."""


@pytest.fixture
def child() -> Child:
    child = Child()
    yield child
    child.close()


@pytest.mark.parametrize("bombs", [pytest.param(BOMBS, marks=pytest.mark.long), BOMBS[:2]], ids=["all", "two"])
def test_every_bomb_is_judged_or_given_up_in_time(child: Child, bombs: tuple[str, ...]) -> None:
    """Nothing is right because it could not be computed."""
    child.ask("\\boxed{1}", "\\boxed{1}")
    for bomb in bombs:
        began = time.monotonic()
        reply = child.ask(f"\\boxed{{{bomb}}}", "\\boxed{72}")
        assert time.monotonic() - began < HARD_SECONDS + START_SECONDS, bomb
        assert reply is None or not reply[0], bomb
    assert child.ask("\\boxed{1}", "\\boxed{1}") == (True, "1", True)


def test_a_child_has_a_bound_of_memory(child: Child) -> None:
    child.ask("\\boxed{1}", "\\boxed{1}")
    assert child.process is not None
    with open(f"/proc/{child.process.pid}/limits", encoding="ascii") as limits:
        (line,) = [line for line in limits if line.startswith("Max address space")]
    assert int(line.split()[3]) == MEMORY


def test_a_bomb_costs_its_own_row_and_no_other() -> None:
    completions = ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{4}", "so (10^{10})! and", "#### 4", "\\boxed{" * 3000]
    grades = grade_many(completions, ["4"] * 5)
    assert [one.reward for one in grades] == [0.0, 1.0, 0.0, 1.0, 0.0]
    assert unparsed_golds(["4", "\\frac{" * 10_000, "9" * 10_000, "x" * 501]) == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 200_000, "}" * 500_000, "####" * 200_000, "answer is " * 100_000, "A" + " " * 500_000,
     " " * 500_000 + ":",
     "\\boxed" + " " * 500_000, "\n" * 500_000, "\\" * 500_000, "$" * 500_000, "{" * 250_000 + "}" * 250_000,
     "#### " + "1" * 500_000, "\n####\t" * 100_000],
    ids=lambda text: f"{text[:12]!r} x {len(text)}",
)  # fmt: skip
def test_the_last_answer_of_a_text_of_half_a_million_characters_is_found_at_once(text: str) -> None:
    began = time.process_time()
    locate(text)
    grade(text, "4")
    assert time.process_time() - began < 5
