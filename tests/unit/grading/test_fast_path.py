"""The comparison of plain integers must give what math-verify gives; math-verify itself is the reference here."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.grading import grade as module
from tasks.grading.grade import Grade, grade


def reference(completion: str, gold: str) -> float:
    """math-verify on the whole completion, by its own extraction rules."""
    from math_verify import parse, verify

    return float(verify(parse(rf"\boxed{{{gold}}}"), parse(completion)))


@st.composite
def integers_as_written(draw: st.DrawFn) -> str:
    """An integer with a sign, leading zeros or thousands separators: -7, 007, 1,234,567."""
    value = draw(st.one_of(st.integers(-40, 40), st.integers(-(10**9), 10**9), st.integers(10**13, 10**14)))
    style = draw(st.sampled_from(["plain", "zeros", "separators"]))
    if style == "separators":
        return f"{value:,}"
    digits = "0" * draw(st.integers(1, 3)) + str(abs(value)) if style == "zeros" else str(abs(value))
    return ("-" if value < 0 else "") + digits


PROSE = st.sampled_from(
    [
        "",
        "So we get ",
        "16 - 3 = 13 eggs. ",
        "Half of them, $x = 4$, stay.\n\n",
        "which is {odd}. ",
        r"\frac{1}{2} of it. ",
    ]
)
SPACE = st.sampled_from(["", " "])
FAR = "and then she counts all of them again with great care, one after the other, until evening. "


@given(PROSE, integers_as_written(), SPACE, PROSE, st.booleans(), integers_as_written())
@settings(max_examples=300, deadline=None)
def test_last_box_of_an_integer_is_judged_as_math_verify_judges_it(before, answer, space, after, same, other) -> None:
    completion = f"{before}\\boxed{{{space}{answer}{space}}}{after}"
    gold = answer if same else other
    assert grade(completion, gold).reward == reference(completion, gold)


@given(integers_as_written(), integers_as_written(), st.sampled_from([FAR, " and ", ", ", "$ or $", " ", " is not "]))
@settings(max_examples=200, deadline=None)
def test_several_boxes_are_judged_as_math_verify_judges_them(first, last, between) -> None:
    completion = f"\\boxed{{{first}}}{between}\\boxed{{{last}}}."
    # One number written in two ways, 1000 and 1,000: math-verify takes the second for a list, or not, by its place.
    assume(first == last or int(first.replace(",", "")) != int(last.replace(",", "")))
    for gold in (first, last):
        assert grade(completion, gold).reward == reference(completion, gold)


@given(integers_as_written(), integers_as_written(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_final_line_is_judged_as_math_verify_judges_the_same_answer_in_a_box(answer, other, same) -> None:
    gold = answer if same else other
    for line in (f"#### {answer}", f"A: {answer}", f"**Answer:** {answer}."):
        assert grade(f"2 * 9 = 18\n{line}", gold).reward == reference(rf"\boxed{{{answer}}}", gold)


@pytest.mark.parametrize("answer", ["7", "-7", "007", "1,234", "-0", "0", "999999999999999"])
def test_fast_and_slow_path_return_the_same_grade(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    golds = ["7", "-7", "1234", "0", "999999999999999"]
    fast = [grade(rf"\boxed{{{answer}}}", gold) for gold in golds]
    monkeypatch.setattr(module, "_at_once", lambda question, gold_parsed: None)  # everything goes to a child
    assert [grade(rf"\boxed{{{answer.replace(',', '')}}}", gold).reward for gold in golds] == [g.reward for g in fast]


def test_plain_integers_never_start_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(answer: str | None, gold: str) -> None:
        raise AssertionError(f"math-verify was asked about {answer!r} and {gold!r}")

    monkeypatch.setattr(module.POOL, "ask", refuse)
    assert grade("so 5\n#### 1,234", "1234") == Grade(1.0, "1234")
    assert grade("\\boxed{5}\n#### 1,234", "1234") == Grade(0.0, "5")  # against a box, #### is a heading
    assert grade("A: -$007", "-7") == Grade(1.0, "-7")
    assert grade("Once upon a time there was a girl.", "7") == Grade(0.0, None)


@given(st.text(alphabet=st.characters(blacklist_characters="\\$[", blacklist_categories=["Nd", "Cs"]), max_size=80))
@settings(max_examples=200, deadline=None)
def test_without_digit_dollar_backslash_or_bracket_math_verify_reads_nothing(text: str) -> None:
    from math_verify import parse

    assert parse(text) == []
