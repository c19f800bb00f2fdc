"""What a reader must know before trusting a number: what fell out, what was not measured, and what is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import polars as pl

from tasks.reporting.findings.sentences import weak_floor
from tasks.reporting.formats import in_sentence, learning_rate, listed, percent, significant
from tasks.reporting.notes import MOST_LISTED, count, named
from tasks.reporting.tables.record import losses
from tasks.reporting.views.floors import INITIALISATION
from tasks.reporting.views.pairs import identical
from tasks.reporting.views.study import SCHEMAS, Study


def dropped_rows(rollouts: dict[str, Any]) -> dict[str, int]:
    """Rule -> rows that it dropped, from a ``dropped`` that is one count or a count a rule."""
    dropped = rollouts.get("dropped")
    if isinstance(dropped, dict):
        return {str(rule): number for rule, number in dropped.items() if number}
    return {"rows": dropped} if dropped else {}


def lost(study: Study) -> str:
    """Answers and rows that fell out on the way, the worst run of each kind."""
    parts = []
    for column, what in (("unparsed", "had no answer to read"), ("truncated", "were cut at the token limit")):
        worst = study.accuracy.filter(pl.col(column) > 0).sort(pl.col(column) / pl.col("n"), descending=True)
        if worst.height:
            row = worst.row(0, named=True)
            where = f"{row['run']}, {in_sentence(row['benchmark'])} problems"
            parts.append(f"up to {row[column]} of {row['n']} answers {what} ({where})")
    golds = {name: number for name, number in (study.record.get("unparsed_golds") or {}).items() if number}
    if golds:
        where = listed([f"{in_sentence(name)}: {number}" for name, number in golds.items()])
        unread = count(sum(golds.values()), "problem")
        parts.append(f"the gold answer of {unread} could not be read ({where}), so no answer counts as right there")
    dropped = dropped_rows(study.rollouts)
    if dropped:
        rules = listed([rule if rule == "rows" else f"{rule}: {number}" for rule, number in dropped.items()])
        parts.append(f"{sum(dropped.values())} rollout rows were dropped" + ("" if rules == "rows" else f" ({rules})"))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def not_measured(study: Study) -> str:
    """What a reader might look for and will not find."""
    view = study.geometry
    runs = study.trained
    couples = [(a.run, b.run) for a, b in combinations(runs, 2)]
    missing = sum(view.cosine(a, b) is None for a, b in couples)
    losses = study.accuracy["answer_loss"]
    evaluated = study.benchmarks
    absent = {
        "accuracy": not evaluated,
        "a second benchmark": len(evaluated) == 1,
        "answer loss": losses.null_count() == losses.len(),
        "sampled scores (avg@k, pass@k, maj@k)": study.samples.is_empty(),
        "differences in avg@k": study.differences.is_empty() and not study.samples.is_empty(),
        "the noise floor of the data order": view.floor is None,
        "the noise floor of the initialisation": view.floor_of(INITIALISATION, "cosine") is None,
        f"{missing} of {len(couples)} cosines between runs": missing > 0,
        "principal angles": not view.ks,
        "norms and effective ranks": all(study.spectrum(info.run, "norm") is None for info in runs),
        "training losses": study.training.is_empty(),
        "paths between the updates": study.connectivity.is_empty(),
        "barriers": study.barriers["barrier"].count() == 0,
        "CKA of hidden states": study.cka["value"].count() == 0,
        "logit-lens depth": study.lens.filter(metric="depth")["value"].count() == 0,
        "divergences of the output distributions": study.divergence["value"].count() == 0,
        "spread over learning rates": all(
            len({info.lr for info in runs if info.method == method}) < 2 for method in {info.method for info in runs}
        ),
    }
    names = [name for name, is_absent in absent.items() if is_absent]
    sentence = f"Not measured: {listed(names)}." if names else ""
    return f"{sentence} {_rates(study) if absent['spread over learning rates'] else ''}".strip()


def _rates(study: Study) -> str:
    """Says where method and learning rate change together."""
    runs = study.trained
    rates = {method: next(i.lr for i in runs if i.method == method) for method in dict.fromkeys(i.method for i in runs)}
    if len(set(rates.values())) < 2:
        return ""
    usual = max(set(rates.values()), key=list(rates.values()).count)
    others = [f"{method} ({learning_rate(lr)})" for method, lr in rates.items() if lr != usual]
    return (
        f"Learning rates differ: {listed(others)} against {learning_rate(usual)} for the others, so method and "
        "learning rate cannot be distinguished there."
    )


FEWEST_STEPS = 8
"""Of a training of fewer the first and the last losses are too few to tell a rise from noise."""

FEWEST_MIXED = 100
"""Problems with right and wrong rollouts, below which what Offline GRPO and DPO learn is of a few problems."""

UNLIKE_THEIR_START = ("online_grpo", "sft_dpo")
"""Methods whose loss says nothing of progress: its answers, and so its scale, change from step to step, or its last
steps are of another loss than its first."""


def endless(study: Study) -> Iterator[str]:
    """Benchmarks on which the base's answers do not end: its accuracy is that of the place where they were cut."""
    found = [(name, one) for name in study.benchmarks if (one := study.unended(name)) is not None]
    if found:
        cut = listed([f"{one.truncated} of {one.n} on the {in_sentence(name)} problems" for name, one in found])
        yield (
            f"The base does not end its answers: {cut} were cut at evaluation.max_new_tokens. A method that only "
            "teaches it to end them would win, so no accuracy there is judged. Raise evaluation.max_new_tokens, or see "
            "what ends an answer under Data and checks and correct the template or the base's generation_config.json."
        )


def split_boundary(study: Study) -> Iterator[str]:
    """A template whose end the tokenizer joins with the answer's beginning."""
    if joined := (study.record.get("turn") or {}).get("split"):
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


def diverged(study: Study) -> Iterator[str]:
    """Trainings that were ended for their numbers, and why."""
    gone = [
        f"{one['run']} ({one['reason'].removeprefix('training diverged: ')})"
        for one in study.record.get("diverged") or []
    ]
    if gone:
        what = "1 training" if len(gone) == 1 else f"{len(gone)} trainings"
        yield f"{what} diverged and {'is' if len(gone) == 1 else 'are'} not in this report: {'; '.join(gone)}."


def unsolved(study: Study) -> Iterator[str]:
    """A model that does not solve these problems."""
    if study.nobody_solves:
        untaught = study.accuracy.filter(pl.col("method") != "teacher")
        solved = untaught.sort("accuracy", descending=True).row(0, named=True)
        instead = "read the answer loss instead" if untaught["answer_loss"].count() else "no answer loss was measured"
        yield (
            f"This model does not solve these problems: no accuracy is above {percent(solved['accuracy'])} % "
            f"({solved['correct']} of {solved['n']}, {solved['run']}). Accuracy cannot tell the methods apart here; "
            f"{instead}."
        )


def unasked(study: Study) -> Iterator[str]:
    """Accuracies that were not measured, of anybody or of the base."""
    if study.accuracy.is_empty():
        yield "No accuracy was measured, neither for the base nor for any method."
    elif all(study.score(study.base.run, benchmark) is None for benchmark in study.benchmarks):
        yield "The base was not evaluated, so no accuracy here can be called a gain or a loss."


def ceiling(study: Study) -> Iterator[str]:
    """Benchmarks on which every model has every problem right."""
    untaught = study.accuracy.filter(pl.col("method") != "teacher")
    full = [
        name
        for name in study.benchmarks
        if (own := untaught.filter(benchmark=name)).height and (own["correct"] == own["n"]).all()
    ]
    if full:
        where = listed([in_sentence(name) for name in full])
        yield (
            f"Every model solves every one of the {where} problems, so accuracy cannot tell the methods apart there; "
            "harder problems could."
        )


def zero_updates(study: Study) -> Iterator[str]:
    """Names the runs that training left where they began: they have no direction, and their accuracy is the base's."""
    nothing = [info.run for info in study.geometry.runs if info.run in study.geometry.zero]
    if nothing:
        runs, has, is_one = ("run", "has", "it is") if len(nothing) == 1 else ("runs", "have", "they are")
        yield (
            f"The update of {len(nothing)} {runs} is zero: {named(nothing, MOST_LISTED)} {has} no direction to "
            f"compare, and {is_one} still the base."
        )


def same_updates(study: Study) -> Iterator[str]:
    """Runs whose updates are one: a comparison of them is of nothing with itself."""
    groups = identical(study.geometry)
    if groups:
        who = "; ".join(named(group, MOST_LISTED) for group in groups)
        yield (
            f"One and the same update: {who}. What they were trained on gave them nothing to differ in, so their pairs "
            "are no evidence: they measure no noise floor, and no claim is judged by them."
        )


def overwhelming(study: Study) -> Iterator[str]:
    """Updates beside which the base's own weights are small: what an exploded training leaves."""
    shifts = {info.run: study.spectrum(info.run, "spectrum_shift") for info in study.geometry.runs}
    large = [f"{run} ({significant(shift)} times)" for run, shift in shifts.items() if shift is not None and shift > 1]
    if large:
        yield (
            f"The update is larger than the weights that it is added to: {named(large, MOST_LISTED)}, by the shift of "
            "their spectrum over its size. Little of the base is left; lower train.lr."
        )


def not_finite(study: Study) -> Iterator[str]:
    """NaN and infinite values in the frames, by frame and column."""
    counts = {}
    for name in SCHEMAS:
        frame = getattr(study, name)
        for column, kind in frame.schema.items():
            if kind.is_float() and (bad := int((~frame[column].is_finite()).sum())):
                counts[f"{column} in {name}.parquet"] = bad
    if counts:
        where = named([f"{bad} of {column}" for column, bad in counts.items()], MOST_LISTED)
        yield (
            f"Values that are not finite: {where}. They have no number here; a model that gives them has weights that "
            "are damaged or beyond its precision."
        )


def risen_losses(study: Study) -> Iterator[str]:
    """Trainings whose loss ended above where it began, beyond the scatter of its beginning."""
    risen = []
    for info in study.trained:
        _, values = losses(study, info.run)
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


def failed_checks(study: Study) -> Iterator[str]:
    """What the study checked about itself and found wanting."""
    for check in study.record.get("checks") or []:
        if not check["ok"]:
            yield f"Check failed: {check['name']}: {check['detail']}"


DOUBTS: tuple[Callable[[Study], Iterator[str]], ...] = (
    endless, split_boundary, diverged, unsolved, unasked, ceiling, lambda study: uniform_rewards(study.rollouts),
    zero_updates, same_updates, overwhelming, risen_losses, not_finite, lambda study: weak_floor(study.geometry),
    failed_checks,
)  # fmt: skip
"""The warnings of a report, in their order."""
