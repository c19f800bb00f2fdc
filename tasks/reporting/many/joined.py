"""Several studies as one: what differs in their settings, which share a base, and which trainings are one and the same.

Studies share cached stages, so one training can stand in several of them. It is counted once: a spread over copies of
one number would look like agreement.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.formats import learning_rate
from tasks.reporting.many.frames import (
    PAIRS,
    RUNS,
    SCORES,
    across_frame,
    midpoints_frame,
    pair_rows,
    run_rows,
    score_rows,
)
from tasks.reporting.many.rows import Rows, grouped, once
from tasks.reporting.many.studies import NamedStudy
from tasks.reporting.many.sweep import Sweep
from tasks.reporting.metrics import INVERSE, MANY
from tasks.reporting.tables.views import said

_BASE = ("model.base", "tiny.")
_TRAINED_ON = ("model.", "tiny.", "rollouts.", "lora.", "train.")
_SEEDS = {"seed", "data_seed", "tiny.seed"}
"""Draws that a run's row or its base tells. `rollouts.seed` is none: other rollouts are another condition."""

_EXECUTION = {
    *(f"train.{key}" for key in ("micro_batch_size", "micro_batch_tokens", "packing", "gradient_checkpointing")),
    *(f"train.{key}" for key in ("checkpoint_steps", "reference")),
    *(f"rollouts.{key}" for key in ("batch_size", "concurrency", "timeout", "retries", "key_env")),
    "model.allow_cpu",
}
"""How the work is done, not what is computed (but for rounding)."""

_FREE = {"train.lr", *_SEEDS, *_EXECUTION}
"""What trainings of one condition may differ in; a learning rate is a run's own column."""

SAME_BASE = 0.01
"""Median relative difference of the base's answer losses below which two bases are one: equal weights differ by
rounding only, two pretraining seeds by tens of percent."""

_FEWEST_PROBLEMS = 8


MOST_NAMED = 3
"""Settings that tell a condition in words; two presets may differ in twenty, which the table of settings has."""


@dataclass(frozen=True)
class Training:
    """One distinct training: ``number`` names it, ``condition`` (an index) is all that decides it but seeds and lr."""

    number: int
    condition: int
    base: int
    info: RunInfo
    study: int
    """The first study that it stands in."""


@dataclass(frozen=True, eq=False)
class Many:
    """The joined studies. ``bases``: study -> group of studies with one base, numbered from 0 in their order."""

    studies: tuple[NamedStudy, ...]
    bases: tuple[int, ...]
    trainings: Mapping[tuple[int, str], Training]
    """(study, run) -> its training."""
    conditions: tuple[tuple[str, Mapping[str, Any]], ...]
    """Method, and all that decides its training but seeds and learning rate."""
    measured: pl.DataFrame | None = None
    """Geometry of trainings of one method across studies (PAIR_METRICS_FRAME, runs called by their numbers)."""
    why: str = ""
    """A sentence on what of that was not measured, and why."""
    sweep: Sweep | None = None
    """Of a sweep what came of each cell, and the paths between seeds."""

    @property
    def benchmark(self) -> str:
        """The headline's benchmark: that of the first study."""
        return self.studies[0].primary

    @cached_property
    def distinct(self) -> list[Training]:
        """Every training once, in the order of the studies."""
        return list({one.number: one for one in self.trainings.values()}.values())

    @cached_property
    def methods(self) -> list[str]:
        """Every method in the order in which the studies have them."""
        return list(dict.fromkeys(one.info.method for one in self.distinct))

    def condition(self, index: int) -> str:
        """What sets a condition apart from the others of its method, in words; empty where there is only one.

        Of many settings the first few.
        """
        method, settings = self.conditions[index]
        keys = self.differing(method)
        words = ", ".join(f"{key} = {show(settings.get(key))}" for key in keys[:MOST_NAMED])
        return words if len(keys) <= MOST_NAMED else f"{words} and {len(keys) - MOST_NAMED} more"

    def differing(self, method: str) -> list[str]:
        """The settings, but for seeds and learning rates, in which trainings of one method differ."""
        return differing([settings for own, settings in self.conditions if own == method])

    @property
    def repeated(self) -> int:
        """Rows of runs that are a training which an earlier study has."""
        return len(self.trainings) - len(self.distinct)

    # The frames, each made once; their columns are in `tasks.reporting.many.frames`.

    @cached_property
    def runs(self) -> pl.DataFrame:
        """One row a trained run of a study."""
        return pl.DataFrame(list(run_rows(self)), schema=RUNS, orient="row")

    @cached_property
    def scores(self) -> pl.DataFrame:
        """One row a run (the base and the other references too) and benchmark."""
        return pl.DataFrame(list(score_rows(self)), schema=SCORES, orient="row")

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """One row a pair of trained runs of one study."""
        return pl.DataFrame(list(pair_rows(self)), schema=PAIRS, orient="row")

    @cached_property
    def across(self) -> pl.DataFrame:
        """Pairs of distinct trainings of one method."""
        return across_frame(self)

    @cached_property
    def midpoints(self) -> pl.DataFrame:
        """Paths between two trainings of one method."""
        return midpoints_frame(self)

    @property
    def headline(self) -> pl.DataFrame:
        """The scores on the headline's benchmark."""
        return self.scores.filter(pl.col("benchmark") == self.benchmark)

    def scores_of(self, rows: Rows) -> Rows:
        """The rows of `headline` of some runs; without those that were not evaluated."""
        known = {(row["study"], row["run"]): row for row in self.headline.to_dicts()}
        return [known[key] for row in rows if (key := (row["study"], row["run"])) in known]

    @property
    def has_rates(self) -> bool:
        """Whether some method was trained at more than one learning rate."""
        return any(len({row["lr"] for row in own}) > 1 for own in grouped(self.runs.to_dicts(), "method").values())

    # Which of their rows belong together.

    def by_method(self, rows: Rows) -> dict[tuple[str, float, int], Rows]:
        """Trained rows by method, learning rate and condition: methods in their order, learning rates ascending."""
        found = grouped(rows, "method", "lr", "condition")
        order = self.methods.index
        return {key: found[key] for key in sorted(found, key=lambda key: (order(key[0]), key[2], key[1]))}

    @cached_property
    def between(self) -> dict[tuple[str, str, float, float, int], Rows]:
        """Pairs of two methods from one initialisation in one order of the data, whose noise they share; those with
        SFT first, and SFT always the second."""
        one = [row for row in once(self.pairs) if row["one_start"] and row["method_a"] != row["method_b"]]
        found = grouped(map(_sft_second, one), "method_a", "method_b", "lr_a", "lr_b", "condition")
        order = self.methods.index

        def rank(key: tuple[Any, ...]) -> tuple[Any, ...]:
            return (key[1] != "sft", order(key[0]), order(key[1]), key[4], key[3], key[2])

        return {key: found[key] for key in sorted(found, key=rank)}

    def crossed(self, own: Rows) -> Rows:
        """Of the same studies and methods as ``own``, a group of `between`, the pairs from one initialisation in two
        orders of the data: what a noise floor judges."""
        studies, methods = {row["study"] for row in own}, _methods(own[0])
        two = [row for row in once(self.pairs) if row["two_orders"] and row["study"] in studies]
        return [row for row in two if _methods(row) == methods]

    @cached_property
    def floors(self) -> dict[tuple[str, float, str], list[float]]:
        """(method, learning rate, what differs) -> cosines of pairs of one method at one learning rate."""
        own = [row for row in self.across.to_dicts() if row["lr_a"] == row["lr_b"] and row["cosine"] is not None]
        return {key: [row["cosine"] for row in rows] for key, rows in grouped(own, "method", "lr_a", "differs").items()}

    @cached_property
    def steps(self) -> dict[tuple[str, float, float, int], Rows]:
        """(method, lower rate, next rate, condition) -> one row a pair of trainings that differ in nothing else.

        A row has ``growth`` of the norm for each factor of 10, and ``cosine`` and ``u1_overlap`` of the two (None where
        the pair was not measured).
        """
        known = {(row["training_a"], row["training_b"]): row for row in self.across.to_dicts()}
        found: dict[tuple[str, float, float, int], Rows] = {}
        same = ("method", "condition", "base", "seed", "data_seed")
        for (method, condition, *_), own in grouped(once(self.runs), *same).items():
            rates = {row["lr"]: row for row in sorted(own, key=lambda row: row["lr"])}
            for (low, a), (high, b) in pairwise(rates.items()):
                pair = known.get((a["training"], b["training"]), {})
                both = bool(a["norm"] and b["norm"])
                row = {
                    "method": method,
                    "growth": growth(a["norm"], b["norm"], low, high) if both else None,
                    "cosine": pair.get("cosine"),
                    "u1_overlap": pair.get("u1_overlap"),
                }
                found.setdefault((method, low, high, condition), []).append(row)
        return found

    def qualified(self, lr: float | None, condition: int) -> tuple[str, ...]:
        """The lines under a method's name: its learning rate, and what else sets it apart."""
        words = self.condition(condition)
        return (f"lr {learning_rate(lr)}", *said(f"#{condition + 1} {words}" if words else ""))


def growth(norm_low: float, norm_high: float, lr_low: float, lr_high: float) -> float:
    """Factor by which a norm grows for each factor of 10 in the learning rate: (n2 / n1)^(1 / log10(lr2 / lr1)).

    The exponent makes steps of other sizes comparable; it takes the growth to be a power law between the two.
    """
    return float((norm_high / norm_low) ** (1 / math.log10(lr_high / lr_low)))


def _methods(row: dict[str, Any]) -> set[tuple[str, float]]:
    return {(row[f"method_{end}"], row[f"lr_{end}"]) for end in "ab"}


def _sft_second(row: dict[str, Any]) -> dict[str, Any]:
    if row["method_a"] != "sft":
        return row
    turned = {f"{name}_{end}": row[f"{name}_{other}"] for name in ("run", "method", "lr", "training")
              for end, other in ("ab", "ba")}  # fmt: skip
    ratios = {one.column: 1 / row[one.column] if row[one.column] else None for one in MANY if one.turned == INVERSE}
    return {**row, **turned, **ratios}


def join(studies: Sequence[NamedStudy]) -> Many:
    """Find the bases, the conditions and the distinct trainings of ``studies``."""
    bases = _bases(studies)
    conditions: dict[str, tuple[int, tuple[str, Mapping[str, Any]]]] = {}
    recorded = set.intersection(*(set(study.settings) for study in studies))
    numbers: dict[tuple[Any, ...], Training] = {}
    trainings = {}
    for place, study in enumerate(studies):
        for info in study.trained:
            settings = _decides(study.settings, info.method, recorded)
            key = json.dumps((info.method, settings), sort_keys=True, default=str)
            condition, _ = conditions.setdefault(key, (len(conditions), (info.method, settings)))
            norm = study.spectrum(info.run, "norm")
            # Two trainings never agree in ten digits of the norm; without one, only the study and the run tell.
            mark = f"{norm:.10e}" if norm is not None else (place, info.run)
            identity = (bases[place], info.method, info.seed, info.data_seed, info.lr, mark)
            new = Training(len(numbers), condition, bases[place], info, place)
            trainings[place, info.run] = numbers.setdefault(identity, new)
    return Many(tuple(studies), tuple(bases), trainings, tuple(one for _, one in conditions.values()))


def differing(settings: Sequence[Mapping[str, Any]], without: Iterable[str] = ()) -> list[str]:
    """The keys that have more than one value, in their order; one that is missing has the value None."""
    keys = list(dict.fromkeys(key for one in settings for key in one if key not in set(without)))
    return [key for key in keys if len({json.dumps(one.get(key), default=str) for one in settings}) > 1]


def show(value: Any) -> str:
    """A setting as a person reads it."""
    if isinstance(value, list | tuple):
        return " ".join(map(show, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def data_seed(settings: Mapping[str, Any]) -> Any:
    """The order of the data: the seed where none is set."""
    return settings.get("seed") if settings.get("data_seed") is None else settings["data_seed"]


def unrecorded(studies: Sequence[NamedStudy]) -> list[str]:
    """Settings that some studies do not have: they were written by a version that did not know them."""
    every = list(dict.fromkeys(key for study in studies for key in study.settings))
    return [key for key in every if any(key not in study.settings for study in studies)]


def _decides(settings: Mapping[str, Any], method: str, recorded: set[str]) -> dict[str, Any]:
    """All that decides a training of ``method`` but its seeds and its learning rate, of the keys that every study has:
    whether a setting that an older version did not know makes a difference cannot be told."""
    own = f"{method}."
    tiny = settings.get("model.base") == "tiny"
    sections = tuple(section for section in (*_TRAINED_ON, own) if tiny or section != "tiny.")
    free = {*_FREE, f"{own}lr_ratio"}
    return {key: settings[key] for key in settings if key.startswith(sections) and key in recorded - free}


def _bases(studies: Sequence[NamedStudy]) -> list[int]:
    """Group of each study: one base, as far as can be told. What the base answers decides where two studies asked it
    the same problems; else the settings that make it."""
    losses = [_losses(study) for study in studies]
    groups: list[int] = []
    for i, study in enumerate(studies):
        same = (groups[j] for j in range(i) if _one_base(studies[j], study, losses[j], losses[i]))
        groups.append(next(same, max(groups, default=-1) + 1))
    return groups


def _losses(study: NamedStudy) -> pl.DataFrame:
    own = study.items.filter(pl.col("run") == study.base.run, pl.col("sample") == 0, pl.col("answer_nll").is_not_null())
    return own.select("benchmark", "problem_id", "answer_tokens", "answer_nll")


def _one_base(a: NamedStudy, b: NamedStudy, losses_a: pl.DataFrame, losses_b: pl.DataFrame) -> bool:
    shared = losses_a.join(losses_b, on=["benchmark", "problem_id", "answer_tokens"])
    if shared.height >= _FEWEST_PROBLEMS:
        apart = ((pl.col("answer_nll") - pl.col("answer_nll_right")).abs() / pl.col("answer_nll").abs()).median()
        found = shared.select(apart).item()
        return found is not None and found < SAME_BASE
    keys = [key for key in {*a.settings, *b.settings} if key.startswith(_BASE)]
    return all(a.settings.get(key) == b.settings.get(key) for key in keys)
