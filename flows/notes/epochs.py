"""How often every training read its examples. Steps and batch are common, selections are not: a method of pairs has few
of them and reads each many times, where a method of rows may not see all of its own once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.results import RunInfo, StageResult
from tasks.methods import METHOD_TITLES
from tasks.methods.online_grpo import OnlineGrpo
from tasks.reporting.formats import listed, significant
from tasks.settings.study import StudySpec

UNEQUAL = 2.0
"""Times from which a reader is told that one method read its examples more often than another."""
PAPER = "In the paper 1,000 steps of 32 are 17.8 times its 1,800 pairs for DPO, and 0.43 times about 75,000 rows."
WORDS = {"rows": "rows", "unpaired": "rows", "pairs": "pairs"}


def read_often(spec: StudySpec, trained: Mapping[RunInfo, StageResult]) -> dict[str, dict[str, Any]]:
    """{run: ``examples`` that its method selected, ``epochs``: examples that its steps read over those}.

    A pair is one example; a prompt that is sampled several times in a step is read once. Of a method of several phases
    both are its last one's.
    """
    found = {}
    for info, result in trained.items():
        method, examples = spec.method(info.method), int(result.summary["examples"] or 0)
        at_once = method.samples if isinstance(method, OnlineGrpo) else 1
        before = sum(phase.train.steps for phase in method.phases(spec.train)[:-1])
        read = (int(result.summary["steps"] or 0) - before) * spec.train.batch_size / at_once
        found[info.run] = {"examples": examples, "epochs": round(read / examples, 4)}
    return found


def epoch_notes(spec: StudySpec, trained: Mapping[RunInfo, StageResult]) -> list[str]:
    """The methods that read their examples most and least often, where that is `UNEQUAL` times apart.

    Methods that sample are not among them: what they learn from is new each time.
    """
    often = read_often(spec, trained)
    kinds = {info: spec.method(info.method).kind for info in trained}
    runs = sorted((info for info in trained if kinds[info] in WORDS), key=lambda info: -often[info.run]["epochs"])
    if not runs or often[runs[0].run]["epochs"] <= UNEQUAL * often[runs[-1].run]["epochs"]:
        return []
    ends = [
        f"{METHOD_TITLES[info.method]} read its {WORDS[kinds[info]]} {significant(often[info.run]['epochs'])} times"
        for info in (runs[0], runs[-1])
    ]
    paper = f" {PAPER}" if any(info.method == "dpo" for info in runs) else ""
    return [f"The methods did not read their examples equally often: {listed(ends)}.{paper}"]
