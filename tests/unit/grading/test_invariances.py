"""What must hold for any number: it equals itself however it is written, and no other."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.grading.grade import grade

FRAMES = st.sampled_from(
    ["\\boxed{{{}}}", "so\n#### {}", "Answer: {}", "<think>2 = 3</think><answer>{}</answer>",
     "\\boxed{{\\underline{{{}}}}}",
     "\\boxed{{\\color{{red}}{{{}}}}}", "\\boxed{{x = {}}}", "\\boxed{{${}$}}",
     "\\boxed{{{} \\text{{ cm}}}}", "\\boxed{{\\${}}}"]
)  # fmt: skip
INTEGERS = st.integers(-(10**12), 10**12)
RATIONALS = st.builds(Fraction, st.integers(-(10**6), 10**6), st.integers(1, 10**6))


@given(INTEGERS, FRAMES, st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_number_is_itself_in_every_dress(value: int, frame: str, separators: bool) -> None:
    written = f"{value:,}" if separators else str(value)
    assert grade(frame.format(written), str(value)).reward == 1.0
    assert grade(frame.format(written), str(value + 1)).reward == 0.0


@given(RATIONALS, RATIONALS)
@settings(max_examples=40, deadline=None)
def test_two_rationals_are_equal_only_where_they_are(a: Fraction, b: Fraction) -> None:
    first, second = (rf"\frac{{{x.numerator}}}{{{x.denominator}}}" for x in (a, b))
    assert grade(rf"\boxed{{{first}}}", first).reward == 1.0
    assert grade(rf"\boxed{{{first}}}", f"{a.numerator}/{a.denominator}").reward == 1.0
    same = float(a == b)
    assert grade(rf"\boxed{{{first}}}", second).reward == same
    assert grade(rf"\boxed{{{second}}}", first).reward == same


@given(st.integers(1, 10**9), st.integers(-40, 40), st.integers(1, 10**9))
@settings(max_examples=40, deadline=None)
def test_powers_of_ten_are_told_apart_at_every_size(a: int, power: int, b: int) -> None:
    assert grade(rf"\boxed{{{a}e{power}}}", rf"{a}\times 10^{{{power}}}").reward == 1.0
    assert grade(rf"\boxed{{{a}e{power}}}", f"{b}e{power}").reward == float(a == b)
