"""Answers that are one: by text, by value, by the grader's own comparison; and what keeps it cheap."""

from __future__ import annotations

import random
import resource
import time
from itertools import combinations

import pytest

from tasks.grading import equal
from tasks.grading.equal import answer_classes
from tasks.grading.grade import grade, judge_equal

HALVES = ["1/2", "0.5", r"\frac{1}{2}", ".50", r"\dfrac{2}{4}", r"50\%", r"x = \frac{1}{2}"]


def groups_of(places: list[int]) -> list[set[int]]:
    return [{i for i, own in enumerate(places) if own == place} for place in dict.fromkeys(places)]


def test_one_value_is_one_class_however_it_is_written() -> None:
    answers = [*HALVES, "5", "2", r"2\sqrt{2}", r"\sqrt{8}", "x+1", "1+x", "(1,2)", "(2,1)", "red", r"\text{red}"]
    (places,) = answer_classes([answers])
    n = len(HALVES)
    assert groups_of(places) == [
        *(set(range(n)), {n}, {n + 1}, {n + 2, n + 3}, {n + 4, n + 5}, {n + 6}, {n + 7}, {n + 8, n + 9}),
    ]
    assert places[n + 3] == n + 2  # the first stands for its class


def test_order_within_a_group_does_not_change_the_classes() -> None:
    answers = [*HALVES, "7", r"\frac{14}{2}", "7.5", r"\pi", "3.14"]
    (expected,) = answer_classes([answers])
    named = {frozenset(answers[i] for i in group) for group in groups_of(expected)}
    for seed in range(3):
        mixed = random.Random(seed).sample(answers, len(answers))
        (places,) = answer_classes([mixed])
        assert {frozenset(mixed[i] for i in group) for group in groups_of(places)} == named


def test_numbers_that_are_told_apart_at_once_are_told_apart_by_the_grader() -> None:
    """The cheap path against the slow one: whatever values decide, math-verify decides alike, either as the gold."""
    rng = random.Random(0)
    written = ["0", "3", "3.0", "-3", "12.5", r"\frac{25}{2}", "25/2", "0.125", "1/8", "1000000.5", "0.33333", "1/3"]
    written += [f"{rng.uniform(-9, 9):.{rng.randrange(1, 5)}f}" for _ in range(8)]
    decided = 0
    for a in written:
        for b in written:
            values = equal._value(a), equal._value(b)
            assert None not in values
            decided += 1
            assert judge_equal(a, b) is (values[0] == values[1]), (a, b)
            assert grade(rf"\boxed{{{a}}}", b).reward == float(values[0] == values[1]), (a, b)
    assert decided == len(written) ** 2


def test_decimals_are_what_they_say_but_for_a_binary_numbers_print_out() -> None:
    thirds = ["1/3", "0.3333333", "0.33333", "0.3333333333333333"]
    assert answer_classes([thirds, ["0.3", "0.30000000000000004", "0.3000001"]]) == [[0, 1, 2, 0], [0, 0, 2]]
    # an irrational number is what a decimal gives to seven significant digits
    assert answer_classes([[r"\pi", "3.141593", "3.1416", "0.0000001", "0.0000004"]]) == [[0, 0, 2, 3, 4]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pairs that were put to the grader's processes."""
    pairs: list[tuple[str, str]] = []

    def judge(a: str, b: str) -> bool:
        pairs.append((a, b))
        return judge_equal(a, b)

    monkeypatch.setattr(equal, "judge_equal", judge)
    return pairs


def test_only_what_values_do_not_settle_is_asked(asked: list[tuple[str, str]]) -> None:
    assert answer_classes([["7", "8", "7.0", "1/2", "9,000"], [], ["red", r"\text{red}"]]) == [
        [0, 1, 0, 3, 4],
        [],
        [0, 0],
    ]
    assert asked == []
    # By their values, a letter standing for a number, x+1 and 7 are apart; only what may be one answer is asked.
    assert answer_classes([["7", "x+1", "1+x", "1/2", r"2\sqrt{2}"]]) == [[0, 1, 1, 3, 4]]
    assert asked == [("x+1", "1+x")]


def test_what_the_grader_finds_equal_has_one_magnitude_or_none() -> None:
    """The short cut is sound: it never tells apart what the grader takes for one."""
    written = ["x+1", "1+x", r"\sqrt{8}", r"2\sqrt{2}", r"50\%", "0.5", "50", "x=5", "5", r"\{1,2\}", "(1,2)", "RED"]
    written += [
        "red",
        "r",
        r"90^\circ",
        "90",
        r"\frac{\sqrt{3}}{3}",
        r"\frac{1}{\sqrt{3}}",
        "x>2",
        r"(2,\infty)",
        "2+3i",
    ]
    magnitudes = {text: equal._Answer(text).magnitude for text in written}
    same = told = 0
    for a, b in combinations(written, 2):
        x, y = magnitudes[a], magnitudes[b]
        apart = x is not None and y is not None and abs(x - y) > 1e-6 * max(abs(x), abs(y)) + 1e-12
        told += apart
        if judge_equal(a, b) or judge_equal(b, a):
            same += 1
            assert not apart, (a, b, x, y)
    # 1+x; sqrt 8; 50 % with .5 and 50; x=5; {1,2} with (1,2); 90 degrees; sqrt 3 / 3; x>2.
    assert (same, told > 50) == (9, True)


def test_many_formulas_take_seconds_not_minutes(asked: list[tuple[str, str]]) -> None:
    roots = [rf"\frac{{{a}\sqrt{{{b}}}}}{{{a + b}}}" for a in range(1, 9) for b in (2, 3, 5, 6, 7)]
    (places,) = answer_classes([roots])
    # a sqrt(b) / (a + b): forty values, none twice; with every pair asked they took a minute.
    assert places == list(range(40))
    assert asked == []


@pytest.mark.slow
def test_what_cannot_be_read_or_never_ends_equals_only_itself() -> None:
    began = time.process_time() + child_seconds()
    assert answer_classes([["9^{9^{9}}", "81", r"\frac{1", r"\frac{1", "1/0", "7" * 400, "0.5"]]) == [
        [0, 1, 2, 2, 4, 5, 6]
    ]
    assert time.process_time() + child_seconds() - began < 30  # of processors: the clock of a busy machine says nothing


def child_seconds() -> float:
    """Seconds of processors that ended children have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_thousands_of_problems_with_plain_answers_take_no_process_and_no_time(asked: list[tuple[str, str]]) -> None:
    rng = random.Random(0)
    groups = [[str(rng.randrange(10**6)) for _ in range(20)] for _ in range(1000)]
    told: list[tuple[int, int, str]] = []
    began = time.process_time()
    places = answer_classes(groups, lambda *said: told.append(said))
    assert time.process_time() - began < 20
    assert all(group[i] == group[j] for group, own in zip(groups, places, strict=True) for i, j in enumerate(own))
    assert told[-1][:2] == (1000, 1000)
    assert asked == []


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        # rationals exactly, however small or large
        ("2^{-98}", "2^{-99}", False), ("2^{-98}", r"\frac{1}{2^{98}}", True), (".0000001", ".0000004", False),
        ("6.63e-34", "9.11e-31", False), (r"6.63\times10^{-34}", "6.63e-34", True),
        ("0.123456789", "0.123456788", False),
        ("1" + "0" * 21 + "1", "1" + "0" * 21 + "2", False), ("0.3333333", "1/3", False),
        (r"\frac{0.5}{3}", "1/6", True),
        # a binary number's print-out
        ("0.3333333333333333", "1/3", True), ("0.30000000000000004", "0.3", True),
       
        ("0.123456789012345", "0.123456789012346", False),
        # irrational numbers: to seven digits where one is a decimal, else not at all rounded
        (r"\sqrt{2}", "1.414214", True), (r"\sqrt{2}", "1.41422", False),
        (r"10^{-9}\pi", r"10^{-9}\pi+10^{-16}", False),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True), (r"10^{-20}\pi", r"2\cdot10^{-20}\pi", False),
        # inside of what is no number
        ("2^{-98}x", "2^{-99}x", False), ("(0.0000001,1)", "(0.0000004,1)", False),
        ("x+0.0000001", "x+0.0000004", False),
        (r"\{10^{-9},1\}", r"\{2\cdot10^{-9},1\}", False), ("[0.1,2)", r"[\frac{1}{10},2)", True),
        ("0.5x", "x/2", True),
        (r"\begin{pmatrix}0.0000001\\1\end{pmatrix}", r"\begin{pmatrix}0.0000002\\1\end{pmatrix}", False),
        # a percentage
        (r"12.5\%", "12.5", True), (r"12.5\%", "0.125", True), (r"50\%", r"0.5\%", False),
    ],
)  # fmt: skip
def test_numbers_are_equal_by_value_not_by_rounding(a: str, b: str, same: bool) -> None:
    assert grade(rf"\boxed{{{a}}}", b).reward == same
    assert grade(rf"\boxed{{{b}}}", a).reward == same
