"""Warnings about numbers that say less than they seem to: rewards that do not differ, updates that do not, ties at the
ceiling, trainings that went up, values that are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from tasks.reporting.formats import in_sentence, listed, significant
from tasks.reporting.notes import MOST_LISTED, named
from tasks.reporting.tables.study import losses
from tasks.reporting.views.alike import identical
from tasks.reporting.views.join import SCHEMAS, StudyTables, benchmarks, spectrum_value, trained_runs, unended
from tasks.reporting.views.pairs import Geometry

FEWEST_STEPS = 8
"""Of a training of fewer the first and the last losses are too few to tell a rise from noise."""

FEWEST_MIXED = 100
"""Problems with right and wrong rollouts, below which what Offline GRPO and DPO learn is of a few problems."""

UNLIKE_THEIR_START = ("online_grpo",)
"""Methods whose loss says nothing of progress: its answers, and so its scale, change from step to step."""


def endless(tables: StudyTables) -> Iterator[str]:
    """Benchmarks on which the base's answers do not end: its accuracy is that of the place where they were cut."""
    found = [(name, one) for name in benchmarks(tables) if (one := unended(tables, name)) is not None]
    if found:
        cut = listed([f"{one.truncated} of {one.n} on the {in_sentence(name)} problems" for name, one in found])
        yield (
            f"The base does not end its answers: {cut} were cut at evaluation.max_new_tokens. A method that only "
            "teaches it to end them would win, so no accuracy there is judged. Raise evaluation.max_new_tokens, or see "
            "what ends an answer under Data and checks and correct the template or the base's generation_config.json."
        )


def split_boundary(study: Mapping[str, Any]) -> Iterator[str]:
    """A template whose end the tokenizer joins with the answer's beginning."""
    if joined := (study.get("turn") or {}).get("split"):
        yield (
            f"model.prompt_template ends within a token: the tokenizer writes its end and the answer's beginning as "
            f"{joined!r}, which neither prompt nor answer has here. No text that the base learned from looks so; let "
            "the template end in a line break, not in a space."
        )


def uniform_rewards(rollouts: Mapping[str, Any]) -> Iterator[str]:
    """Where the rewards cannot tell the methods apart."""
    rows, correct, mixed = rollouts.get("rows"), rollouts.get("correct"), rollouts.get("mixed_groups")
    if not rows or correct is None:
        return
    if correct == rows:
        yield (
            f"Every rollout is correct ({correct} of {rows}), so no method has anything to choose or to weigh by "
            "reward: RFT and RIFT's linear form are SFT, and all advantages of Offline GRPO are its bias."
        )
    elif correct == 0:
        yield (
            f"No rollout is correct (0 of {rows}): SFT and DFT imitate wrong answers, RIFT only moves away "
            "from them, without bound, and all advantages of Offline GRPO are its bias."
        )
    elif mixed == 0:
        yield (
            "No problem has both right and wrong rollouts (no mixed group): every advantage of Offline GRPO is its "
            "bias, and there is no pair to prefer."
        )
    elif mixed is not None and mixed < FEWEST_MIXED:
        yield (
            f"Only {mixed} of {rollouts['prompts']} problems have both right and wrong rollouts (mixed groups), fewer "
            f"than {FEWEST_MIXED}: only those tell Offline GRPO which answers are better and give DPO its pairs. Raise "
            "rollouts.prompts, or change rollouts.temperature."
        )


def diverged(study: Mapping[str, Any]) -> Iterator[str]:
    """Trainings that were ended for their numbers, and why."""
    gone = [
        f"{one['run']} ({one['reason'].removeprefix('training diverged: ')})" for one in study.get("diverged") or []
    ]
    if gone:
        what = "1 training" if len(gone) == 1 else f"{len(gone)} trainings"
        yield f"{what} diverged and {'is' if len(gone) == 1 else 'are'} not in this report: {'; '.join(gone)}."


def ceiling(tables: StudyTables) -> Iterator[str]:
    """Benchmarks on which every model has every problem right."""
    untaught = tables.accuracy.filter(pl.col("method") != "teacher")
    full = [
        name
        for name in benchmarks(tables)
        if (own := untaught.filter(benchmark=name)).height and (own["correct"] == own["n"]).all()
    ]
    if full:
        where = listed([in_sentence(name) for name in full])
        yield (
            f"Every model solves every one of the {where} problems, so accuracy cannot tell the methods apart there; "
            "harder problems could."
        )


def same_updates(view: Geometry) -> Iterator[str]:
    """Runs whose updates are one: a comparison of them is of nothing with itself."""
    groups = identical(view)
    if groups:
        who = "; ".join(named(group, MOST_LISTED) for group in groups)
        yield (
            f"One and the same update: {who}. What they were trained on gave them nothing to differ in, so their pairs "
            "are no evidence: they measure no noise floor, and no claim is judged by them."
        )


def overwhelming(tables: StudyTables, view: Geometry) -> Iterator[str]:
    """Updates beside which the base's own weights are small: what an exploded training leaves."""
    shifts = {info.run: spectrum_value(tables.spectra, info.run, "spectrum_shift") for info in view.runs}
    large = [f"{run} ({significant(shift)} times)" for run, shift in shifts.items() if shift is not None and shift > 1]
    if large:
        yield (
            f"The update is larger than the weights that it is added to: {named(large, MOST_LISTED)}, by the shift of "
            "their spectrum over its size. Little of the base is left; lower train.lr."
        )


def not_finite(tables: StudyTables) -> Iterator[str]:
    """NaN and infinite values in the frames, by frame and column."""
    counts = {}
    for name in SCHEMAS:
        frame = getattr(tables, name)
        for column, kind in frame.schema.items():
            if kind.is_float() and (bad := int((~frame[column].is_finite()).sum())):
                counts[f"{column} in {name}.parquet"] = bad
    if counts:
        where = named([f"{bad} of {column}" for column, bad in counts.items()], MOST_LISTED)
        yield (
            f"Values that are not finite: {where}. They have no number here; a model that gives them has weights that "
            "are damaged or beyond its precision."
        )


def risen_losses(tables: StudyTables) -> Iterator[str]:
    """Trainings whose loss ended above where it began, beyond the scatter of its beginning."""
    risen = []
    for info in trained_runs(tables):
        _, values = losses(tables, info.run)
        if len(values) < FEWEST_STEPS or info.method in UNLIKE_THEIR_START:
            continue
        window = max(FEWEST_STEPS // 2, len(values) // 10)
        last = sum(values[-window:]) / window
        if last > max(values[:window]):
            risen.append(f"{info.run} ({significant(values[0])} to {significant(last)})")
    if risen:
        yield (
            f"The training loss ended above its start: {named(risen, MOST_LISTED)}. Such an update is no fit to the "
            "rollouts; lower train.lr, or set train.stop_above_start to end such a training."
        )
