"""A study's tables, ready to read claims from, and which of its runs stands for a method of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tasks.core.results import RunInfo
from tasks.reporting.views.join import StudyTables
from tasks.reporting.views.pairs import Geometry
from tasks.reporting.views.paths import Paths
from tasks.reporting.views.similarity import Similarity

LR_OF_DPO = 0.1
"""DPO's learning rate over the others' in the paper."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a claim is read from. ``main``: method -> the run that stands for it."""

    tables: StudyTables
    view: Geometry
    paths: Paths
    similarity: Similarity | None
    main: Mapping[str, RunInfo]

    def empty(self, *runs: str) -> str:
        """Why a claim on these runs would be judged from nothing: one never moved, or two are one; else empty."""
        still = [run for run in runs if run in self.view.zero]
        if still:
            return f"the update of {still[0]} is zero: it is still the base"
        same = [(a, b) for a, b in combinations(dict.fromkeys(runs), 2) if self.view.same(a, b)]
        return f"{same[0][0]} and {same[0][1]} have one and the same update" if same else ""


def evidence_of(tables: StudyTables) -> Evidence:
    """The views of one study."""
    view = tables.geometry
    return Evidence(tables, view, tables.paths, tables.similarity, main_runs(view))


def main_runs(view: Geometry) -> dict[str, RunInfo]:
    """One run a method: of the reference's seeds where there is one, and for DPO nearest a tenth of its learning rate,
    for the others nearest that rate; then the study's first."""
    reference = view.reference
    if reference is None:
        return {}
    methods = dict.fromkeys(info.method for info in view.runs)
    return {method: _nearest([i for i in view.runs if i.method == method], reference) for method in methods}


def _nearest(runs: Sequence[RunInfo], reference: RunInfo) -> RunInfo:
    def off(info: RunInfo) -> tuple[bool, bool, float]:
        target = (reference.lr or 0.0) * (LR_OF_DPO if info.method == "dpo" else 1.0)
        ratio = (info.lr or 0.0) / target if target else 1.0
        return info.seed != reference.seed, info.data_seed != reference.data_seed, max(ratio, 1 / ratio) if ratio else 0

    return min(runs, key=off)
