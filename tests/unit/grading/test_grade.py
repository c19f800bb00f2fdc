"""What counts as the final answer and when it is right."""

from __future__ import annotations

import random
import time

import pytest

from tasks.grading import grade as module
from tasks.grading.grade import MAX_FORMULA, Agreement, Grade, agreement, grade, grade_many


@pytest.mark.parametrize(
    ("completion", "gold", "reward", "extracted"),
    [
        (r"so \boxed{72}", "72", 1.0, "72"),
        (r"so \boxed{72}", "73", 0.0, "72"),
        (r"\boxed{3}? " + "Let us check every step of this once more, from the start to the end. " + r"\boxed{4}",
         "4", 1.0, "4"),
        (r"\boxed{72} apples. She has 16 - 3 = 13 left over, but that was not asked.", "72", 1.0, "72"),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0, r"\frac{1}{2}"),
        (r"\boxed{\dfrac{2}{4}}", r"\frac12", 1.0, r"\dfrac{2}{4}"),
        (r"\boxed{x^2 - 1}", "(x-1)(x+1)", 1.0, "x^2 - 1"),
        (r"\boxed{10000}", "10{,}000", 1.0, "10000"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", 1.0, r"\text{Evelyn}"),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", 1.0, r"\{1, 2\}"),
        (r"\fbox{72}", "72", 1.0, "72"),
        (r"\boxed{7", "7", 0.0, None),  # truncated: an open box is no answer
        (r"\boxed{}", "7", 0.0, None),
        ("2 + 2 = 4\n#### 1,234", "1234", 1.0, "1234"),
        ("2 + 2 = 4\n#### 72\n\nQuestion: what is 5 + 5?", "72", 1.0, "72"),
        ("#### Step 2: add 3\n\nso " + r"\boxed{9}", "9", 1.0, "9"),
        ("2 + 2 = 4\nA: 18", "18", 1.0, "18"),
        ("2 + 2 = 4\n**Answer:** $18.00", "18", 1.0, "18.00"),
        ("A: 18\nB: none of these is 20", "20", 1.0, "20"),  # no final line: math-verify takes the last number
        (r"\boxed{18}" + "\nA: 20", "20", 1.0, "20"),  # whichever is marked last
        ("A: 26 dollars per week", "26", 1.0, "26"),
        (r"\boxed{26 \text{ dollars}}", "26", 1.0, "26"),
        ("A: €26.", "26", 1.0, "26"),
        ("A: -$26", "-26", 1.0, "-26"),
        ("A: 20%", "20", 1.0, r"20\%"),
        ("A: 2 million", "2", 0.0, "2 million"),  # a scale is no unit
        ("A: 26+John's age", "26", 0.0, "26+John's age"),
        ("A: 1/3", "1/3", 1.0, "1/3"),
        ("A: 26.5", "26", 0.0, "26.5"),
        ("The answer is 42.", "42", 1.0, "42"),
        (r"\boxed{1,000} and \boxed{1,000}.", "1,000", 1.0, r"\boxed{1,000} and \boxed{1,000}"),
        ("I do not know.", "42", 0.0, None),
        ("", "42", 0.0, None),
    ],
)  # fmt: skip
def test_grade(completion: str, gold: str, reward: float, extracted: str | None) -> None:
    assert grade(completion, gold) == Grade(reward, extracted)


def test_a_unit_is_kept_where_the_gold_is_no_plain_number() -> None:
    assert grade(r"\boxed{4 ab}", "4ab").reward == 1.0
    assert grade(r"\boxed{4 ab}", "4").reward == 1.0  # read as 4 of the unit "ab"
    assert grade(r"\boxed{4x}", "4x").reward == 1.0
    assert grade(r"\boxed{4x}", "4").reward == 0.0  # no space in between: a product


def test_hedging_with_two_boxes_is_not_rewarded() -> None:
    assert grade(r"It is $\boxed{3}$ or $\boxed{4}$.", "4").reward == 0.0
    assert grade(r"It is $\boxed{3}$ or $\boxed{4}$.", r"\{3,4\}").reward == 1.0


def test_longer_formulas_than_the_limit_are_unreadable() -> None:
    ones = "+".join("1" * (MAX_FORMULA // 2))  # 250 ones, 249 signs: 499 characters
    assert len(ones) == MAX_FORMULA - 1
    assert grade(rf"\boxed{{{ones}+}}", "1").extracted == ones + "+"
    assert grade(rf"\boxed{{{ones}+1}}", "1") == Grade(0.0, None)
    assert grade(rf"\boxed{{{'x' * MAX_FORMULA}}}", "x" * (MAX_FORMULA + 1)) == Grade(
        0.0, "x" * MAX_FORMULA, gold_parsed=False
    )


@pytest.mark.parametrize(
    "completion",
    ["\\boxed{" * 20_000, "{" * 100_000, "$" * 100_000, "####" * 20_000, "A:" + " " * 100_000 + "x", "\n####" * 20_000,
     "final answer is " * 5_000, "9" * 100_000, "(((1+" * 20_000, "\\boxed{" + "1 " * 50_000 + "}", "1 " * 20_000],
)  # fmt: skip
def test_long_hostile_text_is_graded_at_once(completion: str) -> None:
    grade(r"\boxed{\frac12}", "0.5")  # the child is up
    start = time.perf_counter()
    assert grade(completion, "72").reward == 0.0
    assert time.perf_counter() - start < 1.0


def test_grade_many_keeps_the_order_and_reports_progress() -> None:
    calls: list[tuple[int, int]] = []
    completions = [rf"\boxed{{{i % 7}}}" for i in range(250)]
    grades = grade_many(completions, ["3"] * 250, lambda done, total, note: calls.append((done, total)))
    assert [g.reward for g in grades] == [float(i % 7 == 3) for i in range(250)]
    assert calls == [(250, 250)]  # integers need no parser: all at once


def test_grade_many_asks_once_for_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str]] = []
    ask = module.POOL.ask
    monkeypatch.setattr(module.POOL, "ask", lambda answer, gold: asked.append((answer, gold)) or ask(answer, gold))
    grades = grade_many([rf"{i} \boxed{{\frac12}}" for i in range(50)], ["0.5"] * 50)
    assert grades == [Grade(1.0, r"\frac12")] * 50
    assert asked == [(None, r"\boxed{0.5}"), (r"\boxed{\frac12}", r"\boxed{0.5}")]


def test_grade_many_refuses_sequences_of_different_length() -> None:
    with pytest.raises(ValueError, match="2 completions but 1 golds"):
        grade_many(["a", "b"], ["1"])


def test_fifteen_thousand_short_answers_take_less_than_three_seconds() -> None:
    rng = random.Random(0)
    completions = [f"He has {rng.randint(1, 99)} apples.\n#### {rng.randint(0, 3000)}" for _ in range(7_500)]
    completions += [f"He has {rng.randint(1, 99)} apples. \\boxed{{{rng.randint(0, 3000)}}}" for _ in range(7_500)]
    start = time.process_time()
    grades = grade_many(completions, ["72"] * 15_000)
    assert time.process_time() - start < 3.0
    assert len(grades) == 15_000


def test_agreement_counts_labelled_rows_only() -> None:
    grades = [Grade(1.0, "1"), Grade(0.0, "2"), Grade(1.0, "3"), Grade(0.0, None)]
    found = agreement([1.0, 1.0, None, 0.0], grades)
    assert found == Agreement(n=3, agree=2, disagreements=(1,))
    assert found.share == 2 / 3
    assert agreement([None] * 4, grades) == Agreement(0, 0, ())
    assert agreement([None] * 4, grades).share is None
    with pytest.raises(ValueError, match="1 rewards but 4 grades"):
        agreement([1.0], grades)


def test_grader_names_the_installed_version() -> None:
    assert module.GRADER == "math-verify 0.9.0, rules 4"
    with pytest.raises(AttributeError, match="GRADERS"):
        _ = module.GRADERS
