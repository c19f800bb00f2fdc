"""The forms that real answers and golds come in: what is the same value, what is not, and what cannot be read."""

from __future__ import annotations

import time

import pytest

from tasks.core.errors import InputError
from tasks.grading.golds import check_golds
from tasks.grading.grade import Grade, grade, grade_many, unparsed_golds
from tasks.grading.locate import MAX_FORMULA, locate, said
from tasks.grading.tidy import balanced, choices, powers, several, tidy

SAME = [
    # marked by a line or a sentence
    ("#### 1,234", "1234"), ("####18", "18"), ("#### $18", "18"), ("#### -18", "-18"), ("#### −18", "-18"),
    ("#### 18.", "18"), ("#### 18 dollars", "18"), ("#### 50%", "50"), ("#### (B)", "B"), ("#### Evelyn", "Evelyn"),
    ("Answer: 18 eggs", "18"), ("**Final Answer**: 18", "18"), ("**Final Answer**\n\n18", "18"),
    ("### Answer\n18", "18"),
    ("So she has 18 left.", "18"), ("The answer is 42.", "42"), ("The answer is: $42$ apples", "42"),
    ("So the final answer is 3/4.", "0.75"), ("The answer is 1,234 dollars.", "1234"),
    ("the answer is 18 (because 3 + 15 = 18, not 20)", "18"), ("The correct answer is **18**.", "18"),
    ("the answer is (B).", "B"), ("So the answer is: **B**", "B"), ("The answer is Evelyn.", "Evelyn"),
    ("The answer is $\\text{Evelyn}$.", "Evelyn"),
    # separators
    (r"\boxed{10{,}000}", "10000"), (r"\boxed{10000}", "10{,}000"), (r"\boxed{10,\!000}", "10000"),
    (r"\boxed{10\,000}", "10000"), (r"\boxed{10\ 000}", "10000"), (r"\boxed{10 000}", "10000"),
    (r"\boxed{1~234~567}", "1,234,567"), ("\\boxed{1\u202f234}", "1234"),
    (r"\boxed{\frac{1}{29322216}}", r"\dfrac{1}{29,\!322,\!216}"), (r"\boxed{0.123450}", "0.12345"),
    # money, units, degrees, percent
    (r"\boxed{\$18.50}", "18.5"), (r"\boxed{18}", r"\$18"), (r"\boxed{$1,234.00}", "1234"), (r"\boxed{18 eggs}", "18"),
    (r"\boxed{5 \text{ cm}}", "5"), (r"\boxed{5\,\text{cm}^2}", "5"), (r"\boxed{5~\text{m/s}}", "5"),
    (r"\boxed{72 \text{ square units}}", "72"), (r"\boxed{\frac{3}{4} \text{ cup}}", "0.75"),
    (r"\boxed{90^\circ}", "90"), (r"\boxed{90}", r"90^{\circ}"), (r"\boxed{90°}", r"90^\circ"),
    (r"\boxed{90\text{ degrees}}", r"90^\circ"), (r"\boxed{50\%}", "50"), (r"\boxed{50}", r"50\%"),
    (r"\boxed{0.5}", r"50\%"),
    # numbers as they are written
    (r"\boxed{012}", "12"), (r"\boxed{12}", "012"), (r"\boxed{142}", "142.0"), (r"\boxed{.5}", "0.5"),
    (r"\boxed{+3}", "3"),
    (r"\boxed{-\frac{1}{2}}", "-0.5"), (r"\boxed{\dfrac12}", "1/2"), (r"\boxed{½}", "0.5"), (r"\boxed{2^{10}}", "1024"),
    (r"\boxed{1.5 \times 10^3}", "1500"), (r"\boxed{1\frac{1}{2}}", "1.5"), (r"\boxed{1 1/2}", "1.5"),
    (r"\boxed{-2 3/4}", "-2.75"), (r"\boxed{\frac{3}{2}}", "1 1/2"), (r"\boxed{2√3}", r"2\sqrt{3}"),
    (r"\boxed{\frac{1}{\sqrt2}}", r"\frac{\sqrt{2}}{2}"), (r"\boxed{∞}", r"\infty"), (r"\boxed{9i+6}", "6+9i"),
    # intervals, sets, tuples, matrices, equations
    (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"(-\infty,2)\cup(3,\infty)"), (r"\boxed{x \in [1,2]}", "[1,2]"),
    (r"\boxed{[1,2)}", "[1, 2)"), (r"\boxed{\{1,2,3\}}", r"\{3,2,1\}"), (r"\boxed{1,2,3}", r"\{3,2,1\}"),
    (r"\boxed{1 \text{ and } 2}", "1,2"), (r"\boxed{3, -3}", r"\pm 3"),
    (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\pi/2)"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"), (r"\boxed{x=5}", "5"),
    (r"\boxed{2x+3}", "y=2x+3"), (r"\boxed{3:2}", "3:2"), (r"\boxed{6{:}30}", "6:30"),
    (r"\boxed{1011_2}", "1011"),  # math-verify drops the base
    # names in front, lists
    (r"\boxed{x = 22,500}", "22500"), (r"\boxed{x = 22,500}", "x=22500"),
    (r"\boxed{\text{Total} = \$22,500}", "22500"),
    (r"\boxed{81,256}", "81, 256"), (r"\boxed{81, 256}", "81,256"), (r"\boxed{100,81,256}", "81, 256, 100"),
    (r"\boxed{1,234 \text{ and } 5,678}", "1234, 5678"), (r"\boxed{81,256}", "81256"),
    # looks
    (r"\boxed{\color{blue}{5}}", "5"), (r"\boxed{{\color{red}5}}", "5"),
    (r"\boxed{\textcolor{red}{\frac{1}{2}}}", "0.5"),
    (r"\boxed{\underline{5}}", "5"), (r"\boxed{\underline{\underline{1,234}}}", "1234"),
    (r"\boxed{\mathbf{Yes}}", "Yes"),
    (r"\boxed{\boldsymbol{x+1}}", "1+x"), (r"\boxed{\displaystyle\frac{1}{2}}", "0.5"),
    # repeating decimals
    (r"\boxed{0.\overline{3}}", "1/3"), (r"\boxed{\frac13}", r"0.\overline{3}"), (r"\boxed{0.1\overline{6}}", "1/6"),
    (r"\boxed{0.(142857)}", "1/7"), (r"\boxed{1.333...}", "4/3"), (r"\boxed{-0.\bar{3}}", r"-\frac13"),
    (r"\boxed{0.\overline{9}}", "1"),
    # one symbol, several spellings
    (r"\boxed{\varnothing}", r"\emptyset"), ("\\boxed{∅}", r"\varnothing"), (r"\boxed{\{\}}", r"\varnothing"),
    (r"\boxed{2i}", r"2\mathrm{i}"), (r"\boxed{3+2\mathrm{i}}", "3+2i"), (r"\boxed{\pi\mathrm{i}}", r"\pi i"),
    (r"\boxed{\mathrm{e}^{2}}", "e^2"), (r"\boxed{5\,\mathrm{m}}", "5"),
    # powers of ten as computers write them
    (r"\boxed{0.00001}", "1e-05"), (r"\boxed{1e-5}", "0.00001"), (r"\boxed{1E5}", "100000"),
    (r"\boxed{2.5e+3 m}", "2500"),
    (r"\boxed{6.63e-34}", r"6.63\times 10^{-34}"), (r"\boxed{(1e-3, 2)}", "(0.001, 2)"), ("It is 2.5e3.", "2500"),
    (r"\boxed{1e22}", "1" + "0" * 22), (r"\boxed{1e500}", r"10^{500}"), (r"\boxed{2e}", "2e"),
    # choices
    (r"\boxed{C. 5}", "C"), (r"\boxed{\text{(C) } 5}", "C"), (r"\boxed{C}", "C. 5"),
    (r"\boxed{C. 5}", "5"), (r"\boxed{5}", "(C) 5"),
    # the hour of a day
    (r"\boxed{2:00 \, \text{pm}}", "2"), (r"\boxed{2 o'clock}", "2"),
    # words
    (r"\boxed{True}", "true"), (r"\boxed{\text{TRUE}}", "true"), (r"\boxed{\text{No solution}}", "no solution"),
    (r"\boxed{\text{Evelyn}}", "Evelyn"), (r"\boxed{\textbf{(B)}}", "B"), (r"\boxed{\mathrm{Yes}}", "yes"),
    (r"\boxed{\text{May 5}}", "May 5"), (r"\boxed{\text{no solution}}", r"\text{no  solution}"),
    # a marked sentence
    ("Final Answer: The largest $n$ is 34.", "34"), ("**Final Answer:** The smallest $k$ is $12$.", "12"),
    ("Final Answer: $n$ is 12", "12"), ("Answer: There are 6 values of $n$.", "6"),
    (r"Final Answer: the sum of $a$ and $b$ is $\frac{3}{4}$.", "3/4"), ("Answer: She is 18 years old.", "18"),
    ("Answer: it is $12$, which is even.", "12"), (r"Answer: The set is $\{1,2\}$.", r"\{2,1\}"),
    ("Answer: The roots are $1$ and $2$.", "1,2"), ("<answer>The total is 73 dollars</answer>", "73"),
    ("Answer: The two are equal to 7", "7"),
]  # fmt: skip

OTHER = [
    (r"\boxed{[1,2]}", "[1,2)"), (r"\boxed{(1,2]}", "(1,2)"), (r"\boxed{(2,-1)}", "(-1,2)"),
    (r"\boxed{\text{even}}", r"\text{odd}"),
    (r"\boxed{-3}", "3"), (r"\boxed{0.333}", r"\frac13"), (r"\boxed{9.42}", r"3\pi"), (r"\boxed{1 1/2}", "0.5"),
    (r"\boxed{1.000.000}", "1000000"), (r"\boxed{2 million}", "2"), (r"\boxed{10 00}", "1000"), (r"\boxed{X}", "Y"),
    ("the answer is (B).", "C"), ("She pays $18 in 3 days.", "18"),
    (r"\boxed{81257}", "81, 256"), (r"\boxed{81,256}", "256, 18"), (r"\boxed{x = 22,500}", "22501"),
    (r"\boxed{\color{blue}{5}}", "6"), (r"\boxed{\underline{5}}", "15"), (r"\boxed{0.\overline{3}}", "0.3"),
    (r"\boxed{\varnothing}", "0"), (r"\boxed{2\mathrm{i}}", "2"), (r"\boxed{1e-05}", "e-5"), (r"\boxed{1e-5}", "1e-6"),
    (r"\boxed{C. 5}", "D"), (r"\boxed{C. 5}", "6"), (r"\boxed{2:30 \text{ pm}}", "2"), (r"\boxed{2:00}", "2"),
    (r"\boxed{True}", "false"), (r"\boxed{\{1,2\}}", r"\{1,2,3\}"),
    # marked by a line or a sentence: another number of the same line, another place, another sign
    ("#### 1,234", "234"), ("####18", "8"), ("#### $18", "180"), ("#### -18", "18"), ("#### −18", "18"),
    ("#### 18.", "1.8"), ("#### 18 dollars", "81"), ("#### 50%", "5"), ("#### (B)", "D"), ("#### Evelyn", "Eve"),
    ("Answer: 18 eggs", "81"), ("**Final Answer**: 18", "19"), ("**Final Answer**\n\n18", "17"),
    ("### Answer\n18", "1"), ("So she has 18 left.", "180"), ("The answer is 42.", "24"),
    ("The answer is: $42$ apples", "4"), ("So the final answer is 3/4.", "4/3"),
    ("The answer is 1,234 dollars.", "234"), ("the answer is 18 (because 3 + 15 = 18, not 20)", "15"),
    ("The correct answer is **18**.", "17"), ("So the answer is: **B**", "A"), ("The answer is Evelyn.", "Eva"),
    ("The answer is $\\text{Evelyn}$.", "Tom"), ("She has 12 + 6 = 18 eggs left.", "12"),
    # separators
    (r"\boxed{10{,}000}", "1000"), (r"\boxed{10000}", "100{,}000"), (r"\boxed{10,\!000}", "10"),
    (r"\boxed{10\,000}", "1000"), (r"\boxed{10\ 000}", "100000"), (r"\boxed{10 000}", "10"),
    (r"\boxed{1~234~567}", "1,234"), ("\\boxed{1\u202f234}", "234"),
    (r"\boxed{\frac{1}{29322216}}", r"\dfrac{1}{29,\!322,\!217}"), (r"\boxed{0.123450}", "0.12346"),
    (r"\boxed{1,234}", "1.234"),
    # money, units, degrees, percent
    (r"\boxed{\$18.50}", "18"), (r"\boxed{18}", r"\$81"), (r"\boxed{$1,234.00}", "123400"), (r"\boxed{18 eggs}", "8"),
    (r"\boxed{5 \text{ cm}}", "50"), (r"\boxed{5\,\text{cm}^2}", "25"), (r"\boxed{5~\text{m/s}}", "0.5"),
    (r"\boxed{72 \text{ square units}}", "27"), (r"\boxed{\frac{3}{4} \text{ cup}}", "0.34"),
    (r"\boxed{90^\circ}", "9"), (r"\boxed{90}", r"60^{\circ}"), (r"\boxed{90°}", r"91^\circ"),
    (r"\boxed{90\text{ degrees}}", r"180^\circ"), (r"\boxed{50\%}", "5"), (r"\boxed{50}", r"0.05\%"),
    (r"\boxed{0.5}", r"5\%"),
    # numbers as they are written
    (r"\boxed{012}", "120"), (r"\boxed{12}", "0120"), (r"\boxed{142}", "14.2"), (r"\boxed{.5}", "5"),
    (r"\boxed{+3}", "-3"), (r"\boxed{-\frac{1}{2}}", "0.5"), (r"\boxed{\dfrac12}", "12"), (r"\boxed{½}", "0.25"),
    (r"\boxed{2^{10}}", "20"), (r"\boxed{1.5 \times 10^3}", "150"), (r"\boxed{1\frac{1}{2}}", "11/2"),
    (r"\boxed{-2 3/4}", "-1.25"), (r"\boxed{\frac{3}{2}}", "1 1/3"), (r"\boxed{2√3}", r"3\sqrt{2}"),
    (r"\boxed{\frac{1}{\sqrt2}}", r"\sqrt{2}"), (r"\boxed{∞}", r"-\infty"), (r"\boxed{9i+6}", "9+6i"),
    (r"\boxed{6.63e-34}", "9.11e-31"), (r"\boxed{2^{-98}}", "2^{-99}"), (r"\boxed{0.0000001}", "0.0000004"),
    # intervals, sets, tuples, matrices, equations
    (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"(-\infty,3)\cup(2,\infty)"), (r"\boxed{x \in [1,2]}", "[1,3]"),
    (r"\boxed{[1,2)}", "(1, 2]"), (r"\boxed{\{1,2,3\}}", r"\{3,2\}"), (r"\boxed{1,2,3}", r"\{3,2,4\}"),
    (r"\boxed{1 \text{ and } 2}", "1,3"), (r"\boxed{3}", r"\pm 3"),
    (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\pi)"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\boxed{x=5}", "x=6"), (r"\boxed{2x+3}", "y=3x+2"), (r"\boxed{3:2}", "2:3"), (r"\boxed{6{:}30}", "6:31"),
    # names in front, lists
    (r"\boxed{x = 22,500}", "500"), (r"\boxed{\text{Total} = \$22,500}", "22"),
    (r"\boxed{81, 256}", "81,257"), (r"\boxed{100,81,256}", "81, 256"), (r"\boxed{1,234 \text{ and } 5,678}", "1234"),
    # looks
    (r"\boxed{{\color{red}5}}", "red"), (r"\boxed{\textcolor{red}{\frac{1}{2}}}", "2"),
    (r"\boxed{\underline{\underline{1,234}}}", "234"), (r"\boxed{\mathbf{Yes}}", "No"),
    (r"\boxed{\boldsymbol{x+1}}", "x-1"), (r"\boxed{\displaystyle\frac{1}{2}}", "2"),
    # repeating decimals
    (r"\boxed{\frac13}", r"0.\overline{6}"), (r"\boxed{0.1\overline{6}}", "0.16"), (r"\boxed{0.(142857)}", "1/6"),
    (r"\boxed{1.333...}", "1.3"), (r"\boxed{-0.\bar{3}}", r"\frac13"), (r"\boxed{0.\overline{9}}", "0.9"),
    # one symbol, several spellings
    ("\\boxed{∅}", r"\infty"), (r"\boxed{\{\}}", r"\{0\}"), (r"\boxed{3+2\mathrm{i}}", "2+3i"),
    (r"\boxed{\pi\mathrm{i}}", r"\pi"), (r"\boxed{\mathrm{e}^{2}}", "e^3"), (r"\boxed{5\,\mathrm{m}}", "6"),
    # powers of ten as computers write them
    (r"\boxed{0.00001}", "1e-04"), (r"\boxed{1E5}", "10000"), (r"\boxed{2.5e+3 m}", "25000"),
    (r"\boxed{(1e-3, 2)}", "(0.01, 2)"), ("It is 2.5e3.", "2.5"), (r"\boxed{1e22}", "1" + "0" * 21),
    (r"\boxed{1e500}", r"10^{501}"),
    # choices, hours, words
    (r"\boxed{\text{(C) } 5}", "B"), (r"\boxed{C}", "B. 5"), (r"\boxed{5}", "(C) 6"), (r"\boxed{2 o'clock}", "3"),
    (r"\boxed{\text{TRUE}}", "false"), (r"\boxed{\text{No solution}}", "one solution"),
    (r"\boxed{\text{Evelyn}}", "Evelyne"), (r"\boxed{\textbf{(B)}}", "(C)"), (r"\boxed{\mathrm{Yes}}", "no"),
    (r"\boxed{\text{May 5}}", "May 6"),
    # a marked sentence
    ("Final Answer: The largest $n$ is 34.", "35"), ("Answer: There are 6 values of $n$.", "60"),
    (r"Final Answer: the sum of $a$ and $b$ is $\frac{3}{4}$.", "4/3"), ("Answer: She is 18 years old.", "81"),
    ("Answer: it is $12$, which is even and not 13.", "13"), ("Answer: The roots are $1$ and $2$.", "1"),
    ("<answer>The total of 5 bills is 73 dollars</answer>", "5"), ("Answer: In 7 days there are 3 left", "7"),
]  # fmt: skip


def test_right_and_wrong_answers_are_tried_in_equal_number() -> None:
    assert len(SAME) >= 150
    assert len(OTHER) >= len(SAME)
    assert len(set(SAME)) == len(SAME)
    assert len(set(OTHER)) == len(OTHER)


@pytest.mark.parametrize(("completion", "gold"), SAME)
def test_the_same_value(completion: str, gold: str) -> None:
    found = grade(completion, gold)
    assert (found.reward, found.gold_parsed) == (1.0, True)
    assert found.extracted


@pytest.mark.parametrize(("completion", "gold"), OTHER)
def test_another_value(completion: str, gold: str) -> None:
    found = grade(completion, gold)
    assert (found.reward, found.gold_parsed) == (0.0, True)
    assert found.extracted


@pytest.mark.parametrize(
    ("text", "units", "expected"),
    [
        ("$1,234.50.", False, "1234.50"), ("-$007", False, "-7"), ("7 dozen eggs", True, "7 dozen eggs"),
        ("7 eggs", False, "7 eggs"), ("7 eggs", True, "7"), ("60 km/h", True, "60"),
        ("- 1 1/2", False, r"-1\frac{1}{2}"),
        ("10 000 000", False, "10000000"), ("1 2 3", False, "1 2 3"), ("1,2,3", False, "1,2,3"),
        (r"\frac{1}{2,\!000}", False, r"\frac{1}{2000}"), (r"\text{(E)},", False, r"\text{(E)}"),
        ("{,5", False, "{,5"), (r"\underline{5", False, "{5"),
        (r"\frac{\color{red}{1}}{\mathbf{2}}", False, r"\frac{1}{2}"),
        ("1e999999999", False, r"1\times10^{999999999}"), ("x_1e5", False, "x_1e5"), ("0.(3)", False, r"\frac{3}{9}"),
        ("√x", False, r"\sqrt{x}"),
    ],
)  # fmt: skip
def test_tidy(text: str, units: bool, expected: str) -> None:
    assert tidy(text, units=units) == expected


@pytest.mark.parametrize("unit", ["\\underline{", "\\color{a}{", "{", "0.", "1,",
                                  "1e9 ", "\\dot3", "9" * 9 + "e9", "0.(3",
                                  "=", ", "])  # fmt: skip
def test_hostile_text_is_tidied_at_once(unit: str) -> None:
    began = time.process_time()
    for text in (unit * (100_000 // len(unit)), unit * (MAX_FORMULA // len(unit))):
        tidy(text, units=True)
        tidy(text, units=True, lists=True)
        several(text)
        powers(text)
        choices(text, text)
    assert time.process_time() - began < 1.0


def test_what_the_answer_is_said_to_be() -> None:
    assert said("First A.\nThe answer is (B).") == "(B)."
    assert said("the answer is: **Evelyn**\n") == "Evelyn"
    assert said("The answer is B.\nThat was easy.") is None  # not the last line
    assert locate("The answer is B.") is None  # numbers and formulas there are math-verify's to find


UNREADABLE = ["", " ", r"\frac{1}{", r"\left( 1, 2", r"\begin{pmatrix} 1 \\ 2", "}", "???", r"\div", "1" * 501]


def test_golds_that_cannot_be_read_are_counted_and_answers_to_them_too() -> None:
    golds = ["72", *UNREADABLE, "Evelyn", r"\text{no solution}", "(1,2]"]
    assert unparsed_golds(golds) == list(range(1, 1 + len(UNREADABLE)))
    assert grade_many([r"\boxed{5}", r"\boxed{\frac12}", "nothing"], [r"\frac{1}{"] * 3) == [
        Grade(0.0, "5", gold_parsed=False),  # the answer was read: the gold is to blame
        Grade(0.0, r"\frac12", gold_parsed=False),
        Grade(0.0, None, gold_parsed=False),
    ]
    assert grade("nothing", r"\frac12") == Grade(0.0, None, gold_parsed=True)  # the answer is to blame


def test_a_gold_that_is_too_long_as_a_list_is_read_as_it_is_counted() -> None:
    gold = ",".join(["1,234"] * 80)  # 479 characters; as a list with spaces, 558
    assert unparsed_golds([gold]) == []
    assert grade(r"\boxed{1}", gold) == Grade(0.0, "1")


def test_a_half_open_interval_is_balanced_and_a_cut_formula_is_not() -> None:
    assert all(
        map(balanced, ["(1,2]", r"\left[1,2\right)", r"\{1, 2\}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "{}"])
    )
    assert not any(map(balanced, [r"\frac{1}{", "}{", r"\left(", r"\end{a}\begin{a}", r"\begin{pmatrix} 1"]))


def test_unreadable_golds_are_refused_in_one_line() -> None:
    check_golds(["1", "x"], ["a", "b"], "mine.jsonl")
    with pytest.raises(InputError) as error:
        check_golds(["1", r"\frac{1}{", ""], ["a", "b", "c"], "mine.jsonl")
    assert str(error.value) == (
        r"mine.jsonl: the gold of problem 'b' cannot be read as an answer: '\\frac{1}{' (and 1 more); "
        "correct it or leave it out"
    )
