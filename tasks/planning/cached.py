"""What of a study is in the store already, as far as it can be known before anything runs.

A stage's key needs the digests of its inputs, so the look-up goes from stage to stage until the first one that is not
there. It starts nothing, downloads nothing, and makes no database where there is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.digests import StageKey
from tasks.core.small_files import expanded
from tasks.problems.benchmarks import BENCHMARKS
from tasks.settings.study import StudySpec
from tasks.storage.state import mlflow_database, tracking_uri

if TYPE_CHECKING:
    from tasks.storage.store import Entry, Store


def known(spec: StudySpec) -> dict[str, str]:
    """Stage -> ``yes`` or ``no``; of stages that are not in it nothing is known before the last of these has run."""
    if (own := mlflow_database(tracking_uri())) is not None and not own.is_file():
        return dict.fromkeys(("prompts", "completions", "rollouts") if spec.own else ("pretrain",), "no")
    from tasks.storage.store import open_store

    found: dict[str, str] = {}
    for stage, entry in _looked_up(spec, open_store()):
        found[stage] = "yes" if entry else "no"
    return found


def _looked_up(spec: StudySpec, store: Store) -> Iterator[tuple[str, Entry | None]]:
    if spec.own:
        yield from _taught(spec, store)
        return
    from tasks.grading.rollouts import grade_key
    from tasks.models.tiny.model import pretrain_key
    from tasks.problems.world import problem_sizes, problems_key
    from tasks.rollouts.sample import untruncated_key, world_rollouts_key

    yield "pretrain", (world := store.find(pretrain_key(spec.tiny)))
    if world is None:
        return
    sizes = problem_sizes(spec.rollouts, spec.evaluation)
    yield "problems", (problems := store.find(problems_key(spec.tiny, sizes, world.ref.sha256)))
    if problems is None:
        return
    key: StageKey = world_rollouts_key(spec.rollouts, world.ref.sha256, problems.ref.sha256)
    rollouts = store.find(key)
    if rollouts is not None and spec.rollouts.truncated == "drop":
        rollouts = store.find(untruncated_key(rollouts.ref.sha256))
    yield "rollouts", rollouts
    if rollouts is not None:
        yield "grade", store.find(grade_key(rollouts.ref.sha256))


def _taught(spec: StudySpec, store: Store) -> Iterator[tuple[str, Entry | None]]:
    """The user's own teacher. Problems that are on the Hub only, and a teacher's folder of gigabytes, are not read."""
    rollouts = spec.rollouts
    if rollouts.problems is None or not _on_disk(rollouts.problems):
        return
    from tasks.rollouts.prompts import chosen_prompts, prompts_key
    from tasks.rollouts.teacher import completions_key

    _, chosen = chosen_prompts(rollouts)
    yield "prompts", (prompts := store.find(prompts_key(chosen, 0.0 if spec.evaluation.problems else rollouts.holdout)))
    if prompts is not None and rollouts.engine == "openai":
        yield "completions", store.find(completions_key(rollouts, prompts.ref.sha256, None, spec.model.instruction))


def _on_disk(problems: str) -> bool:
    file = next((one.file for one in BENCHMARKS if one.name == problems), None)
    if file is None:
        return expanded(problems).is_file()
    return bool(os.environ.get("COLINEAR_DATA")) and (Path(os.environ["COLINEAR_DATA"]).expanduser() / file).is_file()
