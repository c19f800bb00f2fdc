"""The facts under a study's title."""

from __future__ import annotations

import pytest

from tasks.core.sections import TinySpec
from tasks.models.tiny.network import build_network
from tasks.models.tokenizer import build_tokenizer
from tasks.problems.synthetic import vocabulary
from tasks.reporting.render.facts import tiny_parameters


@pytest.mark.parametrize("spec", [TinySpec(), TinySpec(hidden=32, layers=2, heads=4, kv_heads=1, intermediate=48)])
def test_the_small_models_parameters_are_counted_without_building_it(spec: TinySpec) -> None:
    model = build_network(spec, build_tokenizer(vocabulary(), max_length=64), 64)
    assert tiny_parameters(spec) == sum(parameter.numel() for parameter in model.parameters())
