"""Four systems on GSM8K: accuracies and pairwise tests from the recorded labels and from our grader, side by side.

Run with ``COLINEAR_DATA=DIR python -m tests.benchmarks.gsm8k_systems``. The rollouts are the example solutions that
Cobbe et al. (2021) published: 6B and 175B, fine-tuned alone and with a verifier, one solution a problem (n = 1,319).
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from tasks.core.frames import ITEMS
from tasks.core.rows import question_id, read_rows
from tasks.evaluation.accuracy import accuracy_table, mcnemar_table
from tasks.grading.grade import grade_many
from tasks.problems.files import worked

SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def answers(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ITEMS by the recorded labels, and the same answers by our grader."""
    records = []
    for row in read_rows(path):
        question, gold = str(row.values["question"]), worked(str(row.values["ground_truth"]))[0]
        for system in SYSTEMS:
            given = row.values[system]
            records.append((system, question_id(question), given["solution"], gold, bool(given["is_correct"])))
    frame = pl.DataFrame(records, schema=["run", "problem_id", "completion", "gold", "correct"], orient="row")
    grades = grade_many(frame["completion"].to_list(), frame["gold"].to_list())
    frame = frame.with_columns(
        method=pl.col("run"),
        benchmark=pl.lit("gsm8k"),
        sample=pl.lit(0, pl.Int64),
        prediction=pl.Series([grade.extracted for grade in grades], dtype=pl.String),
        finish_reason=pl.lit("stop"),
    )
    missing = [pl.lit(None, kind).alias(name) for name, kind in ITEMS.items() if name not in frame.columns]
    labelled = frame.with_columns(*missing).select(ITEMS.keys())
    return labelled, labelled.with_columns(correct=pl.Series([grade.reward == 1.0 for grade in grades]))


def report(path: Path) -> str:
    """Both tables as text."""
    tables = [(accuracy_table(items), mcnemar_table(items)) for items in answers(path)]
    (given, given_pairs), (ours, our_pairs) = tables
    lines = [f"{'system':<20}{'labels':>10}{'grader':>10}{'95 % (grader)':>18}{'unparsed':>10}"]
    for a, b in zip(given.iter_rows(named=True), ours.iter_rows(named=True), strict=True):
        interval = f"{b['low']:.1%} to {b['high']:.1%}"
        lines.append(f"{a['run']:<20}{a['accuracy']:>10.2%}{b['accuracy']:>10.2%}{interval:>18}{b['unparsed']:>10}")
    head = f"{'only a':>8}{'only b':>8}{'p (exact)':>11}{'p (Holm)':>11}"
    lines += ["", " " * 38 + f"{'labels':>38}   {'grader':>38}", f"{'a / b':<38}{head}   {head}"]
    for a, b in zip(given_pairs.iter_rows(named=True), our_pairs.iter_rows(named=True), strict=True):
        cells = "   ".join(
            f"{row['only_a']:>8}{row['only_b']:>8}{row['p_value']:>11.3g}{row['p_holm']:>11.3g}" for row in (a, b)
        )
        lines.append(f"{a['run_a']} / {a['run_b']}".ljust(38) + cells)
    return "\n".join(lines)


if __name__ == "__main__":
    print(report(Path(os.environ["COLINEAR_DATA"]) / "gsm8k" / "model_solutions.jsonl"))
