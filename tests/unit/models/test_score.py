"""Cross-entropy of given continuations, against its definition one token at a time."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.models.load import load_model
from tasks.models.score import sequence_nll


def rows(n: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    draw = random.Random(seed)
    lengths = [(draw.randint(1, 12), draw.randint(0, 9)) for _ in range(n)]
    prompts = [[draw.randint(3, 90) for _ in range(prompt)] for prompt, _ in lengths]
    return prompts, [[draw.randint(3, 90) for _ in range(target)] for _, target in lengths]


def slow_nll(model: Any, prompt: list[int], target: list[int]) -> float:
    """-sum_t log p(y_t | prompt, y_<t), one forward pass a token, no padding."""
    total = 0.0
    for t, token in enumerate(target):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *target[:t]]])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, dim=-1)[token])
    return total


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_give_the_definition_in_the_given_order(base_model: Path, batch_size: int) -> None:
    model = load_model(base_model, "float32")
    prompts, targets = rows(11, seed=0)
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int, note: str = "") -> None:
        told.append((done, total))

    values = sequence_nll(model, prompts, targets, pad_id=0, batch_size=batch_size, progress=progress)
    expected = [slow_nll(model, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert told[-1] == (11, 11)
    assert len(told) == math.ceil(11 / batch_size)


def test_a_model_that_knows_the_answer_by_hand() -> None:
    """Logits (0, 0, ln 2) everywhere: p = 1/4, 1/4, 1/2, so targets [2], [0, 1], [] cost ln 2, 2 ln 4 and 0."""

    class Constant(torch.nn.Linear):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:  # type: ignore[override]
            return SimpleNamespace(logits=torch.tensor([0.0, 0.0, math.log(2)]).expand(*input_ids.shape, 3))

    values = sequence_nll(Constant(1, 1), [[0, 1], [2], [1]], [[2], [0, 1], []], pad_id=0, batch_size=2)
    assert values == pytest.approx([math.log(2), 2 * math.log(4), 0.0])


def test_nothing_to_score() -> None:
    assert sequence_nll(torch.nn.Linear(1, 1), [], [], pad_id=0, batch_size=4) == []
