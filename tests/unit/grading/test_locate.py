"""Where a completion says its answer: marks, thoughts, headings, and the sentence that closes an unmarked one."""

from __future__ import annotations

import time

import pytest

from tasks.grading.grade import grade
from tasks.grading.locate import concluded, locate, spoken, tagged, unheaded


@pytest.mark.parametrize(
    ("completion", "gold", "reward", "extracted"),
    [
        ("<think>\nSo the answer is 4? no.\n</think>\n<answer>73</answer>", "73", 1.0, "73"),
        ("<think>\\boxed{4}</think><answer>5</answer> or rather <answer>6</answer>", "6", 1.0, "6"),
        ("<think>\\boxed{4}</think><answer>5</answer> or rather <answer>6</answer>", "5", 0.0, "6"),
        ("<reasoning>#### 4</reasoning>\n<ANSWER>\n\\boxed{1,234}\n</ANSWER>", "1234", 1.0, "1234"),
        ("<answer>So it is \\boxed{\\frac{1}{2}}, not 2.</answer>", "0.5", 1.0, r"\frac{1}{2}"),
        ("<answer>She has 18 eggs left.</answer>", "18", 1.0, "18"),
        ("<answer>She makes 2 * 9 = 18 dollars in 7 days.</answer>", "18", 1.0, "18"),
        ("<answer>New York City Hall</answer>", "New York City Hall", 1.0, "New York City Hall"),
        ("<answer>(2 + 4) * 3</answer>", "18", 1.0, "(2 + 4) * 3"),
        ("<think>x</think><answer>73", "73", 1.0, "73"),  # a server that stops at </answer> leaves it out
        ("<answer>73</answer> I put it into <answer> tags.", "73", 1.0, "73"),
        ("<answer>7</answer>\n\\boxed{8}", "7", 1.0, "7"),
        ("<answer></answer> 7", "7", 0.0, None),
        # a thought is no answer
        ("<think>the answer is 7, \\boxed{7}", "7", 0.0, None),  # cut within it
        ("\\boxed{7}<think>or 8? \\boxed{8}", "7", 1.0, "7"),
        ("it is 7\n#### 7\n</think>\nIt is 8.", "8", 1.0, "8"),  # the template opened the thought
        ("<think>a</think>\nIt is 8.<think>or 9", "8", 1.0, "8"),
        ("<think>a</think>", "7", 0.0, None),
        ("<|begin_of_thought|>7<|end_of_thought|> 8 it is.", "8", 1.0, "8"),
        ("[THINK]\\boxed{7}[/THINK]\\boxed{8}", "8", 1.0, "8"),
        ("<think>it is 7 <answer>8</answer>", "8", 1.0, "8"),  # the thought was never closed, the answer was
    ],
)  # fmt: skip
def test_the_answer_tag_and_what_is_thought(completion: str, gold: str, reward: float, extracted: str | None) -> None:
    found = grade(completion, gold)
    assert (found.reward, found.extracted) == (reward, extracted)


@pytest.mark.parametrize(
    ("completion", "gold", "reward"),
    [
        ("#### 1. Set up\nx\n\\boxed{12}\n#### 3. Check\nfine", "12", 1.0),
        ("\\boxed{12}\n#### 3. Check", "12", 1.0),
        ("\\boxed{12}\n#### 3", "12", 1.0),
        ("#### 1. Set up\n7 * 2 = 14\n#### 2. Solve\nSo there are 14.", "14", 1.0),
        ("So there are 14.\n#### 2. Solve", "2", 0.0),
        ("#### Step 3", "3", 0.0),
        ("#### 2) Solve\nfor x", "2", 0.0),
        ("7 * 2 = 14\n#### 14", "14", 1.0),
        ("7 * 2 = 14\n#### 14 eggs", "14", 1.0),  # the last line
        ("7 * 2 = 14\n#### 14 eggs\n\nQ: what is 5?", "14", 0.0),  # not the last line, no bare number
        ("7 * 2 = 14\n#### -$1,014.50\n\nQ: what is 5?", "-1014.5", 1.0),
        ("#### 3/4\n\nQ: what is 5?", "0.75", 1.0),
        ("##### 5\nSo there are 14.", "14", 1.0),
    ],
)
def test_four_hashes_are_a_heading_or_a_mark(completion: str, gold: str, reward: float) -> None:
    assert grade(completion, gold).reward == reward


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # the last sentence's own calculation
        ("So he sold 3 + 4 = <<3+4=7>>7 DVDs to 5 people.", "7"),
        ("So she spent $72.00 + $60.00 = $132.00 on 4 sets.", "$132.00"),
        ("If x = 3, then she has 15.", None),  # no calculation, and no result before it
        # the result that it repeats
        ("30 miles + 20 miles = 50 miles.\nTherefore, Rosie can run 50 miles in 7 hours.", "50"),
        ("(750 + 15) / 3 = $255.\n\nTherefore, she pays $255 each month for 3 months.", "$255"),
        ("2 * 45 = 90. So with $90 he buys 12.", "$90"),
        ("12 * 40 = 480.\nSo in 4 weeks he makes 480.00 dollars.", "480.00"),
        ("0.2 * 0.6 = 0.12\nThe probability is 0.12, or 12%.", "12%"),
        ("5 - 8 = -3\nAt 6 am it was -3 degrees.", "-3"),
        ("The total is 20 + 5 = 25. It takes 3 of 9 days.", None),
        # one number, and none that is only part of one
        ("Adding them, we have 4 + 3 = 8.\nSo she has 18 left.", "18"),
        ("So there are 1,234 eggs. That was fun!", "1,234"),
        ("It is 3/4 of it.", None), ("It starts at 2:00.", None), ("It is x^2.", None), ("It weighs 5kg.", None),
        ("So it is $\\frac{1}{2}$ of 3.", None),
        # math-verify knows what is said to be the answer
        ("4 * 5 = 20\nThe answer is 4, as 20 is for 5.", None), ("Answer: 4\n\nThat was for 5 people.", None),
        ("So she has none.", None), ("", None), ("\n", None),
    ],
)  # fmt: skip
def test_the_closing_sentence(text: str, number: str | None) -> None:
    assert concluded(text) == number


def test_a_number_of_the_closing_sentence_is_graded_as_a_number() -> None:
    text = "She gets 2 * 9 = $18 a day.\nTherefore, Janet makes $18.00 in 1 day."
    assert grade(text, "18").reward == 1.0
    assert grade(text, "1").reward == 0.0
    # To "answer" is not to give the answer: math-verify alone reads the 3.
    assert grade("To answer, we add 3 to 15.\nSo she has 18 left.", "18").reward == 1.0


@pytest.mark.parametrize(
    "unit",
    ["<think>", "</think>", "<answer>", "</answer><answer>", "[THINK", "<<", "#### ", "#### 1. a\n", "\n#### 1,",
     "1,111", "1.1.", "= 1 ", "=$", "a. A", ". ", "answer ", "answer = ", "−", "$", "-", "1 %", "\n####\t", "A: ", "9",
     " ", "< <", "\\boxed{1}", "####  step", "<|begin_of_thought|>"],
)  # fmt: skip
def test_a_hundred_kilobytes_of_anything_are_searched_in_a_second(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.process_time()
    for whole in (text, text + "x", "x" + text + "\n7"):
        for search in (spoken, tagged, locate, unheaded, concluded):
            search(whole)
    assert time.process_time() - began < 1.0
