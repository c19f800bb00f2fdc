"""The registry of methods, and that naming them costs nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.methods import METHOD_NAMES, METHOD_TITLES, THE_SIX, Method, Methods, RowMethod


def test_the_six_methods_with_the_papers_defaults() -> None:
    assert METHOD_NAMES[:6] == THE_SIX == ("sft", "rft", "dft", "rift", "offline_grpo", "dpo")
    assert METHOD_NAMES[6:] == ("ipo", "simpo", "kto", "asft", "online_grpo", "sft_dpo", "distillation")
    assert METHOD_TITLES["offline_grpo"] == "Offline GRPO"
    methods = Methods()
    assert (methods.rift.form, methods.rift.correct_weight, methods.rift.wrong_weight) == ("linear", 1.0, -0.2)
    grpo = methods.offline_grpo
    assert (grpo.b, grpo.bias, grpo.scale, grpo.clip) == (0.1, "all", "none", None)
    assert (methods.dpo.beta, methods.dpo.lr_ratio, methods.dpo.loss_type) == (0.1, 0.1, "sigmoid")
    assert not methods.rft.distinct


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_sections_are_frozen_and_refuse_unknown_keys(name: str) -> None:
    method = getattr(Methods(), name)
    assert isinstance(method, Method)
    others = {
        **dict.fromkeys(("dpo", "ipo", "simpo", "sft_dpo"), "pairs"),
        "kto": "unpaired",
        "online_grpo": "prompts",
        "distillation": "prompts",
    }
    assert method.kind == others.get(name, "rows")
    assert isinstance(method, RowMethod) == (name not in others)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(method, "lr_ratio", 2.0)  # noqa: B010 - written out, mypy refuses it before pydantic does
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(method).model_validate({"no_such_setting": 1})
