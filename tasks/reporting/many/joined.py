"""Several studies as one: what differs in their settings, which share a base, and which trainings are one and the same.

Studies share cached stages, so one training can stand in several of them. It is counted once: a spread over copies of
one number would look like agreement.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from tasks.core.results import RunInfo
from tasks.reporting.many.studies import Study
from tasks.reporting.views.join import primary_benchmark, spectrum_value, trained_runs

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

    studies: tuple[Study, ...]
    bases: tuple[int, ...]
    trainings: Mapping[tuple[int, str], Training]
    """(study, run) -> its training."""
    conditions: tuple[tuple[str, Mapping[str, Any]], ...]
    """Method, and all that decides its training but seeds and learning rate."""

    @property
    def benchmark(self) -> str:
        """The headline's benchmark: that of the first study."""
        return primary_benchmark(self.studies[0].tables)

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


def join(studies: Sequence[Study]) -> Many:
    """Find the bases, the conditions and the distinct trainings of ``studies``."""
    bases = _bases(studies)
    conditions: dict[str, tuple[int, tuple[str, Mapping[str, Any]]]] = {}
    recorded = set.intersection(*(set(study.settings) for study in studies))
    numbers: dict[tuple[Any, ...], Training] = {}
    trainings = {}
    for place, study in enumerate(studies):
        for info in trained_runs(study.tables):
            settings = _decides(study.settings, info.method, recorded)
            key = json.dumps((info.method, settings), sort_keys=True, default=str)
            condition, _ = conditions.setdefault(key, (len(conditions), (info.method, settings)))
            norm = spectrum_value(study.tables.spectra, info.run, "norm")
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


def unrecorded(studies: Sequence[Study]) -> list[str]:
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


def _bases(studies: Sequence[Study]) -> list[int]:
    """Group of each study: one base, as far as can be told. What the base answers decides where two studies asked it
    the same problems; else the settings that make it."""
    losses = [_losses(study) for study in studies]
    groups: list[int] = []
    for i, study in enumerate(studies):
        same = (groups[j] for j in range(i) if _one_base(studies[j], study, losses[j], losses[i]))
        groups.append(next(same, max(groups, default=-1) + 1))
    return groups


def _losses(study: Study) -> pl.DataFrame:
    own = study.tables.items.filter(
        pl.col("run") == study.base, pl.col("sample") == 0, pl.col("answer_nll").is_not_null()
    )
    return own.select("benchmark", "problem_id", "answer_tokens", "answer_nll")


def _one_base(a: Study, b: Study, losses_a: pl.DataFrame, losses_b: pl.DataFrame) -> bool:
    shared = losses_a.join(losses_b, on=["benchmark", "problem_id", "answer_tokens"])
    if shared.height >= _FEWEST_PROBLEMS:
        apart = ((pl.col("answer_nll") - pl.col("answer_nll_right")).abs() / pl.col("answer_nll").abs()).median()
        found = shared.select(apart).item()
        return found is not None and found < SAME_BASE
    keys = [key for key in {*a.settings, *b.settings} if key.startswith(_BASE)]
    return all(a.settings.get(key) == b.settings.get(key) for key in keys)
