"""Losses of merges on a person's own texts, against a model whose matrices were formed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoTokenizer

from tasks.core.errors import InputError
from tasks.core.results import LocalBase
from tasks.geometry.connectivity import barrier
from tasks.geometry.delta import load_delta
from tasks.geometry.merge_losses import ALPHAS, measure_merges
from tasks.models.turn import turn_at
from tests.unit.geometry.test_paths import combined, formed, write_adapter

ROWS = [{"text": "the sum of 3 and 4 is 7"}, {"prompt": "3 + 4?", "completion": "7"}, {"text": "and so it is 5"}]


def write(rows: list[dict[str, str]], file: Path) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def nats(base: Path, model: torch.nn.Module, row: dict[str, str]) -> tuple[float, int]:
    """-log p of the tokens that are scored, each given all before it: of a text all but the first, of a row with a
    prompt the answer and the token that ends it."""
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    turn = turn_at(LocalBase(base))
    prompt = turn.prompt(row["prompt"]) if "prompt" in row else tokenizer(row["text"])["input_ids"][:1]
    ids = [*prompt, *turn.answer(row["completion"])] if "prompt" in row else tokenizer(row["text"])["input_ids"]
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logprobs[place - 1, ids[place]]) for place in range(len(prompt), len(ids))), len(ids) - len(
        prompt
    )


def loss(base: Path, adapters: tuple[Path, Path], a: float, b: float) -> float:
    """Nats a token of ``base + a dW_a + b dW_b``."""
    one, other = map(load_delta, adapters)
    parts = [{name: share * update for name, update in combined(*pair, 0.0).items()}
             for pair, share in (((one, other), a), ((other, one), b))]  # fmt: skip
    sums = {name: sum(part.get(name, 0) for part in parts) for name in {*parts[0], *parts[1]}}
    model = formed(base, {name: np.asarray(update) for name, update in sums.items()})
    found = [nats(base, model, row) for row in ROWS]
    return sum(value for value, _ in found) / sum(tokens for _, tokens in found)


def test_the_losses_are_those_of_formed_matrices(base_model: Path, tmp_path: Path) -> None:
    adapters = write_adapter(base_model, tmp_path / "a", 1), write_adapter(base_model, tmp_path / "b", 2)
    told = measure_merges(
        base=LocalBase(base_model),
        texts=write([*ROWS, {"text": "a"}], tmp_path / "dev.jsonl"),
        adapters=[("a", adapters[0]), ("b", adapters[1])],
        out=tmp_path,
    )
    assert told == {"texts": 3, "cut": 0}  # a text of one token has none to score
    (row,) = pl.read_parquet(tmp_path / "merge_losses.parquet").iter_rows(named=True)
    expected = {"loss_base": (0, 0), "loss_a": (1, 0), "loss_b": (0, 1), "loss_mean": (0.5, 0.5), "loss_sum": (1, 1)}
    for name, coefficients in expected.items():
        assert row[name] == pytest.approx(loss(base_model, adapters, *coefficients), rel=1e-5), name
    losses = [loss(base_model, adapters, 1 - alpha, alpha) for alpha in ALPHAS]
    assert row["barrier"] == pytest.approx(barrier(ALPHAS, losses), abs=1e-5)
    assert row["low"] <= row["barrier"] <= row["high"]
    assert (row["run_a"], row["run_b"], row["n"]) == ("a", "b", 3)


def test_of_several_adapters_each_is_on_a_path_with_the_first_alone(base_model: Path, tmp_path: Path) -> None:
    adapters = [(name, write_adapter(base_model, tmp_path / name, seed)) for seed, name in enumerate("abc")]
    texts = write(ROWS, tmp_path / "dev.jsonl")
    measure_merges(base=LocalBase(base_model), texts=texts, adapters=adapters, out=tmp_path)
    rows = pl.read_parquet(tmp_path / "merge_losses.parquet").to_dicts()
    assert [(row["run_a"], row["run_b"]) for row in rows] == [("a", "b"), ("a", "c")]
    for row, (_, other) in zip(rows, adapters[1:], strict=True):
        expected = loss(base_model, (adapters[0][1], other), 0.5, 0.5)
        assert row["loss_mean"] == pytest.approx(expected, rel=1e-5)


def test_long_texts_are_cut_and_what_has_nothing_to_score_is_refused(base_model: Path, tmp_path: Path) -> None:
    adapters = [(name, write_adapter(base_model, tmp_path / name, seed)) for seed, name in enumerate("ab")]
    work = {"base": LocalBase(base_model), "adapters": adapters, "out": tmp_path}
    long = write([{"text": "sum " * 500}] * 2, tmp_path / "long.jsonl")
    assert measure_merges(texts=long, **work) == {"texts": 2, "cut": 2}
    with pytest.raises(InputError, match=r"--texts .*short.jsonl: none of the 1 texts has a token to score"):
        measure_merges(texts=write([{"text": "a"}], tmp_path / "short.jsonl"), **work)
