"""On-policy distillation: which prompts, which divergence, what it refuses."""

from __future__ import annotations

from math import log
from pathlib import Path

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from flows.notes.rollouts import taught
from tasks.core.errors import InputError
from tasks.methods.common import PROMPT_EXAMPLES
from tasks.methods.distillation import Distillation
from tasks.models.external import check_vocabulary
from tasks.planning.preflight import distilled
from tasks.settings.study import StudySpec
from tests.definitions.losses import mixed_divergence
from tests.lab.groups import graded
from tests.lab.world import write_base


def test_each_problem_once_with_or_without_a_gold_answer() -> None:
    rows = graded(("p1", 1.0), ("p2", 0.0), ("p1", 0.0)).with_columns(
        answer=pl.Series([None, "7", None], dtype=pl.String), completion_ids=pl.Series([[5, 2], [5, 5, 5, 2], [5, 2]])
    )
    selected = Distillation().select(rows)
    assert selected.schema == PROMPT_EXAMPLES
    assert selected.rows() == [(0, [1, 1], None, 4), (1, [1, 2], "7", 4)]
    assert Distillation(max_new_tokens=9).select(rows)["room"].to_list() == [9, 9]


def test_divergences_by_hand() -> None:
    # student (1/2, 1/2), teacher (4/5, 1/5).
    # reverse: .5 log(.5/.8) + .5 log(.5/.2) = .223144; forward: .8 log(.8/.5) + .2 log(.2/.5) = .192745
    # beta 1/2: m = (.65, .35); .5 [.8 log(.8/.65) + .2 log(.2/.35)] + .5 [.5 log(.5/.65) + .5 log(.5/.35)] = .050672
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[log(4.0), 0.0]], dtype=torch.float64)
    found = [float(mixed_divergence(student, teacher, beta)) for beta in (1.0, 0.0, 0.5)]
    assert found == pytest.approx([0.223144, 0.192745, 0.050672], abs=1e-6)


def test_a_teacher_of_ones_own_for_a_base_of_ones_own() -> None:
    own = {"methods": ["distillation"], "model": {"base": "x"}, "rollouts": {"file": "y"}}
    with pytest.raises(ValidationError, match=r"distillation\.teacher: whose distribution .* the base's own tokenizer"):
        StudySpec.model_validate(own)
    assert StudySpec.model_validate({**own, "distillation": {"teacher": "z"}}).distillation.teacher == "z"
    assert StudySpec.model_validate({**own, "methods": ["sft"]}).distillation.teacher is None
    with pytest.raises(ValidationError, match=r"distillation\.teacher: the synthetic task has its own teacher"):
        StudySpec.model_validate({"methods": ["distillation"], "distillation": {"teacher": "z"}})


def test_the_report_says_that_it_sees_no_rollout() -> None:
    (said,) = taught(StudySpec.model_validate({"methods": ["sft", "distillation"]}))
    assert said.startswith("On-policy distillation follows the teacher's distribution")
    assert taught(StudySpec()) == []


def test_ones_own_teacher_is_found_only_where_it_is_asked(tmp_path: Path) -> None:
    own = {"model": {"base": "x"}, "rollouts": {"file": "y"}, "distillation": {"teacher": str(write_base(tmp_path))}}
    found = distilled(StudySpec.model_validate(own | {"methods": ["sft", "distillation"]}))
    assert found is not None
    assert (found.ref.uri, found.ref.kind) == (str(tmp_path), "external-model")
    assert distilled(StudySpec.model_validate(own | {"methods": ["sft"]})) is None


def test_a_teacher_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    base, same, other, wide = (write_base(tmp_path / name) for name in ("base", "same", "other", "wide"))
    assert check_vocabulary(teacher=same, base=base, pad_token=None) == {}
    tokenizer = AutoTokenizer.from_pretrained(str(other))
    tokenizer.add_tokens([" more"])
    tokenizer.save_pretrained(other)
    with pytest.raises(InputError, match=r"^distillation\.teacher: .*other has another tokenizer than the base; give"):
        check_vocabulary(teacher=other, base=base, pad_token=None)
    config = AutoConfig.from_pretrained(str(wide))
    config.vocab_size += 64  # padded to another multiple, as in one family of models
    config.save_pretrained(wide)
    with pytest.raises(
        InputError, match=r"^distillation\.teacher: .*wide has 87 logits at a token and the base 23; give"
    ):
        check_vocabulary(teacher=wide, base=base, pad_token=None)
