"""The synthetic task's problems: sums that add up, splits that do not meet, a stream that repeats."""

from __future__ import annotations

from random import Random

import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import PROBLEMS
from tasks.core.sections import TinySpec
from tasks.problems import synthetic
from tasks.problems.overlap import overlap_report, question_key, split_of
from tasks.problems.synthetic import (
    INSTRUCTION,
    branch_mix,
    build_problems,
    dev_problems,
    draw_problem,
    instruct,
    largest_value,
    pretraining_example,
    solve,
)

SPEC = TinySpec(dev_problems=40)
GAIN_VERBS = {"buys", "finds", "picks", "gets", "wins"}
LOSS_VERBS = {"loses", "sells", "breaks", "gives", "lends"}


def read(question: str) -> tuple[int, list[int]]:
    """An independent reader of the English: the final value and every number stated."""
    sentences = [sentence.split() for sentence in question.split(".") if "how many" not in sentence]
    stated: list[int] = []
    value = 0
    for i, words in enumerate(sentences):
        numbers = [int(word) for word in words if word.isdigit()]
        stated += numbers
        if i == 0:
            value = numbers[0] if len(numbers) == 1 else numbers[0] * numbers[1]
        elif words[1] == "doubles":
            value *= 2
        elif words[1] in GAIN_VERBS:
            value += numbers[0]
        else:
            assert words[1] in LOSS_VERBS
            value -= numbers[0]
    return value, stated


def test_the_answer_is_what_the_english_says() -> None:
    rng = Random(1)
    for _ in range(500):
        problem = draw_problem(rng, rng.randint(2, 5), 30)
        value, stated = read(problem.question)
        assert value == problem.answer
        assert max(stated) <= 30
        assert all(1 <= step.value <= 60 for step in problem.steps)


def test_every_equation_of_both_styles_holds() -> None:
    rng = Random(2)
    for _ in range(200):
        problem = draw_problem(rng, 4, 30)
        for style in ("a", "b"):
            text = solve(problem, style)
            assert text.endswith(f"\\boxed{{{problem.answer}}}")
            equations = [part for part in text.replace(", so ", ". ").split(". ") if "=" in part]
            assert len(equations) == 4
            for equation in equations:
                left, right = equation.rstrip(".").split(" = ")
                assert eval(left) == int(right.split()[0])


def test_a_problem_in_both_styles_written_out() -> None:
    # 4 * 6 = 24, 24 - 9 = 15: the first pretraining problem that opens with groups and then loses some
    problem = next(
        problem
        for problem in (draw_problem(Random(seed), 2, 12) for seed in range(10_000))
        if [step.kind for step in problem.steps] == ["groups", "loss"]
    )
    first, second = problem.steps
    product, rest = first.left * first.right, first.left * first.right - second.right
    assert solve(problem, "a") == (
        f"{first.left} * {first.right} = {product}. {product} - {second.right} = {rest}. \\boxed{{{rest}}}"
    )
    assert solve(problem, "b") == (
        f"start with {first.left} times {first.right}, so {first.left} * {first.right} = {product} {problem.item}. "
        f"then take away {second.right}, so {product} - {second.right} = {rest} {problem.item}. "
        f"the answer is \\boxed{{{rest}}}"
    )


@pytest.mark.parametrize(("operand", "limit"), [(5, 10), (30, 60), (60, 99)])
def test_largest_value_is_twice_the_operand_and_two_digits(operand: int, limit: int) -> None:
    assert largest_value(operand) == limit


def test_frame_has_the_splits_asked_for() -> None:
    frame = build_problems(SPEC, rollouts=50, heldout=60, hard=30, seed=3)
    assert dict(frame.schema) == PROBLEMS
    counts = dict(frame.group_by("split").len().iter_rows())
    assert counts == {"dev": 40, "rollouts": 50, "heldout": 60, "hard": 30}
    assert frame["problem_id"].n_unique() == 180
    assert frame["question"].n_unique() == 180
    steps = frame.with_columns(steps=pl.col("solution").str.count_matches("="))
    assert set(steps.filter(pl.col("split") == "hard")["steps"]) == {4, 5}
    assert set(steps.filter(pl.col("split") == "heldout")["steps"]) == {2, 3, 4}


def test_frame_repeats_with_its_seed_and_changes_with_it() -> None:
    first, again, other = (build_problems(SPEC, rollouts=20, heldout=20, hard=5, seed=seed) for seed in (7, 7, 8))
    assert first.equals(again)
    assert not set(first["question"]) & set(other["question"])


def test_step_mix_is_respected() -> None:
    spec = TinySpec(step_mix=(0.0, 1.0, 0.0), dev_problems=30)
    assert {len(problem.steps) for problem in dev_problems(spec)} == {3}


def test_splits_share_nothing_with_each_other_or_the_stream() -> None:
    frame = build_problems(SPEC, rollouts=300, heldout=300, hard=100, seed=0)
    keys = [question_key(pretraining_example(SPEC, i).question) for i in range(3000)]
    report = overlap_report(frame, keys)
    # 4 splits: 4 duplicate counts, 4 against pretraining, 4 * 3 / 2 = 6 pairs
    assert len(report) == 14
    assert set(report.values()) == {0}


def test_overlap_report_finds_what_is_planted() -> None:
    frame = build_problems(SPEC, rollouts=20, heldout=20, hard=5, seed=0)
    heldout = frame.filter(pl.col("split") == "heldout")
    planted = heldout.head(3).with_columns(
        split=pl.lit("rollouts"), question="  " + pl.col("question").str.to_uppercase()
    )
    frame = pl.concat([frame, planted, heldout.head(1)])
    report = overlap_report(frame, [question_key(question) for question in heldout["question"].head(5)])
    assert report["rollouts&heldout"] == 3  # upper case and spaces do not hide a question
    assert report["heldout duplicates"] == 1
    assert report["heldout&pretraining"] == 5
    assert report["rollouts&pretraining"] == 3
    assert report["dev&heldout"] == 0


def test_split_ignores_case_and_spaces() -> None:
    question = build_problems(SPEC, rollouts=1, heldout=1, hard=1, seed=0)["question"][0]
    assert split_of(question) == split_of(f" {question.upper()}\n") == "dev"


def test_stream_is_a_function_of_seed_and_index() -> None:
    assert pretraining_example(SPEC, 17) == pretraining_example(SPEC, 17)
    other = pretraining_example(SPEC.model_copy(update={"seed": 1}), 17)
    assert other != pretraining_example(SPEC, 17)


def test_styles_are_mixed_60_40_and_a_quarter_of_b_is_asked_plainly() -> None:
    examples = [pretraining_example(SPEC, i) for i in range(4000)]
    b = [example for example in examples if example.style == "b"]
    leaked = [example for example in b if example.prompt == example.question]
    # three standard deviations: 3 * sqrt(.4 * .6 / 4000) = .023 and 3 * sqrt(.25 * .75 / 1600) = .032
    assert len(b) / 4000 == pytest.approx(0.4, abs=0.023)
    assert len(leaked) / len(b) == pytest.approx(0.25, abs=0.033)
    assert all(example.prompt == example.question for example in examples if example.style == "a")
    assert all(INSTRUCTION not in example.question for example in examples)


def test_a_branch_mixes_what_is_asked_for_and_what_is_not() -> None:
    # a tenth asks for style b; of the other nine tenths a fifth has it anyhow: .1 + .18 = .28, of which .18 unasked
    mix = branch_mix(0.1, 0.2)
    assert mix.style_b == pytest.approx(0.28)
    assert mix.leak == pytest.approx(0.18 / 0.28)
    examples = [pretraining_example(SPEC, i, mix) for i in range(4000)]
    plain = [example for example in examples if example.prompt == example.question]
    unasked = [example for example in plain if example.style == "b"]
    # three standard deviations: 3 * sqrt(.1 * .9 / 4000) = .014 and 3 * sqrt(.2 * .8 / 3600) = .020
    assert 1 - len(plain) / 4000 == pytest.approx(0.1, abs=0.015)
    assert len(unasked) / len(plain) == pytest.approx(0.2, abs=0.02)
    assert all(example.style == "b" for example in examples if example.prompt != example.question)
    assert [example.question for example in examples[:50]] == [pretraining_example(SPEC, i).question for i in range(50)]


def test_instruction_is_part_of_the_question() -> None:
    assert instruct("how many?") == "how many? explain each step."


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"step_mix": (0.5, 0.4, 0.3)}, "step_mix"),
        ({"hard_steps": (5, 4)}, "hard_steps"),
        ({"heads": 3}, "heads"),
        ({"kv_heads": 3}, "heads"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        dev_problems(SPEC.model_copy(update=change))


def test_too_small_a_world_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    only = draw_problem(Random(0), 2, 5)
    monkeypatch.setattr(synthetic, "draw_problem", lambda rng, steps, operand: only)
    with pytest.raises(InputError, match="max_operand: 20 distinct dev problems"):
        dev_problems(TinySpec(dev_problems=20))
