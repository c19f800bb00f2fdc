"""What of a study is there already: looked up stage by stage in a real store, without making one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.digests import StageKey
from tasks.models.tiny.model import pretrain_key
from tasks.planning.cached import known
from tasks.problems.world import problem_sizes, problems_key
from tasks.settings.presets import preset
from tasks.settings.study import build, override
from tasks.storage.store import open_store

SPEC = build(preset("smoke"))


def put(key: StageKey) -> str:
    """An entry for ``key`` whose output is its name; returns the digest."""
    store = open_store()
    run = store.open_run(key.stage, key=key)

    def compute(out: Path) -> dict[str, int]:
        (out / "output").write_text(key.stage)
        return {}

    return store.produce(key, run, compute).ref.sha256


def test_without_a_store_nothing_is_there_and_none_is_made(state: Path) -> None:
    assert known(SPEC) == {"pretrain": "no"}
    assert not (state / "mlflow.db").exists()


@pytest.mark.slow
def test_the_look_up_goes_as_far_as_there_is_something(state: Path) -> None:
    open_store()
    assert known(SPEC) == {"pretrain": "no"}
    world = put(pretrain_key(SPEC.tiny))
    assert known(SPEC) == {"pretrain": "yes", "problems": "no"}
    put(problems_key(SPEC.tiny, problem_sizes(SPEC.rollouts, SPEC.evaluation), world))
    assert known(SPEC) == {"pretrain": "yes", "problems": "yes", "rollouts": "no"}
    other = build(override(preset("smoke"), ["evaluation.n=64"]))
    assert known(other) == {"pretrain": "yes", "problems": "no"}
