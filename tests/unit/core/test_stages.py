"""The table of stages: keys that caches of earlier versions carry, and what the table refuses."""

from __future__ import annotations

import inspect

import pytest

from tasks.core import stages
from tasks.core.sections import TinySpec
from tasks.core.stages import STAGES, Stage
from tasks.models.tiny.model import pretrain_key
from tasks.problems.world import problems_key

RELEASED = {
    "pretrain": {2}, "dequantise": {1}, "published": {1}, "problems": {1, 3}, "prompts": {2}, "completions": {2},
    "journal": {1}, "rollouts": {3}, "grade": {2}, "reference": {1}, "train": {2}, "evaluate": {5}, "accuracy": {5},
    "spectrum": {3}, "geometry": {4}, "compare": {4}, "base measures": {2}, "path end": {2}, "path": {2},
    "functions": {2}, "visible overlap": {1}, "second moments": {1}, "activation geometry": {1}, "gradients": {1},
    "merge losses": {1}, "truncate": {1}, "truncation": {1}, "kept step": {1}, "trajectory": {1}, "kept accuracy": {1},
    "texts": {1}, "retention": {1}, "soup": {1}, "soups": {1},
}  # fmt: skip
"""Names and versions in people's caches: a change here means that all of them compute that stage again."""


def test_no_stage_has_another_name_or_version_than_in_the_caches_that_people_have() -> None:
    found: dict[str, set[int]] = {}
    for stage in STAGES:
        found.setdefault(stage.name, set()).add(stage.version)
    assert found == RELEASED


def test_keys_have_the_digests_that_earlier_versions_wrote() -> None:
    """Digests by the version before the table (November 2026), of settings and inputs written out here."""
    assert stages.TRAIN.key({"rollouts": "r"}, {"lr": 0.001}).digest == (
        "452c8922988ad523915f911945e59120fa06039338b557051cf004fde21bc3b0"
    )
    assert pretrain_key(TinySpec()).digest == ("a0832130963c75bf83ca2743787fabf6538978b57d4a2f04c88641feaa0b3aa0")
    assert problems_key(TinySpec(), {"rollouts": 3, "heldout": 2, "hard": 1}, "p").digest == (
        "1158d1aa6f02f2bdce7a038fb5ea778fd2dff4663023f5eae5715944be10b22a"
    )


def test_an_input_that_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 'train' has no input adapter"):
        stages.TRAIN.key({"adapter": "a"}, {})
    assert stages.FUNCTIONS.key({"problems": "p", "sft": "s"}, {}).inputs == {"problems": "p", "sft": "s"}


def test_every_stage_of_the_module_is_in_the_table() -> None:
    declared = [value for _, value in inspect.getmembers(stages) if isinstance(value, Stage)]
    assert len(declared) == len(STAGES) == len({(stage.name, stage.inputs) for stage in STAGES})
