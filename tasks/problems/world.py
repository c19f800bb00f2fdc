"""The problems of the synthetic task, with the proof that held-out ones were seen nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.digests import StageKey
from tasks.core.errors import StageError
from tasks.core.sections import EvaluationSpec, RolloutSpec, TinySpec
from tasks.core.stages import WORLD_PROBLEMS
from tasks.problems.overlap import overlap_report
from tasks.problems.synthetic import build_problems


def problem_sizes(rollouts: RolloutSpec, evaluation: EvaluationSpec) -> dict[str, int]:
    """Problems of each split that a study asks for."""
    return {"rollouts": rollouts.prompts, "heldout": evaluation.n, "hard": evaluation.hard_n}


def problems_key(spec: TinySpec, sizes: Mapping[str, int], pretrained: str) -> StageKey:
    """What decides the synthetic task's problems. ``pretrained``: digest of the pretraining artifact."""
    return WORLD_PROBLEMS.key({"pretrained": pretrained}, {"tiny": spec.model_dump(mode="json"), **sizes})


def world_problems(*, spec: TinySpec, sizes: Mapping[str, int], corpus: Path, out: Path) -> dict[str, Any]:
    """Write ``problems.parquet``; compare its questions with each other and with all that pretraining consumed.

    ``sizes``: rows of splits ``rollouts``, ``heldout`` and ``hard``; ``corpus``: the pretraining artifact. The summary
    has every count of `overlap_report` and their sum as ``overlap``. Raises `StageError` unless that is 0.
    """
    problems = build_problems(spec, **sizes, seed=spec.seed)
    report = overlap_report(problems, np.load(corpus / "corpus_keys.npy", allow_pickle=False).tolist())
    overlap = sum(report.values())
    if overlap:
        raise StageError(f"problems are shared between splits: { {k: v for k, v in report.items() if v} }")
    problems.write_parquet(out / "problems.parquet")
    return {**report, **sizes, "overlap": overlap}
