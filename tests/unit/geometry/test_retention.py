"""Forgetting, and the divergence on the base's own answers: against slow definitions, by hand, and their limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.core.errors import InputError
from tasks.core.frames import ITEMS, OWN_ANSWERS, RETENTION
from tasks.core.results import LocalBase, RunInfo
from tasks.core.sections import EvaluationSpec, FunctionSpec
from tasks.evaluation.evaluate import Asked, collect, evaluate_models
from tasks.geometry.functions.divergence import BLOCK_BYTES
from tasks.geometry.functions.retention import LOSSES, measure_retention, retention_frame, solution_losses
from tasks.models.turn import open_turn
from tests.definitions.retention import slow_sums
from tests.unit.geometry.test_functions import WORDS, write_adapter, write_base, write_problems

INFOS = [RunInfo("base", "base", 0, 0, 0.0), RunInfo("sft", "sft", 0, 0, 1e-3), RunInfo("dpo", "dpo", 0, 0, 1e-4)]


class World:
    """A base, two adapters and everybody's answers to nine problems, a drawn one beside each greedy one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = write_base(folder / "base")
        self.problems = write_problems(folder / "problems.parquet")
        sft = write_adapter(self.base, folder / "sft", 3)
        self.adapters = [None, sft, write_adapter(self.base, folder / "dpo", 4, size=0.05, r=3)]
        partials = [folder / "answers" / info.run for info in INFOS]
        for partial in partials:
            partial.mkdir(parents=True)
        asked = [Asked(info, adapter) for info, adapter in zip(INFOS, self.adapters, strict=True)]
        spec = EvaluationSpec(max_new_tokens=6, batch_size=64, samples=1)
        evaluate_models(base=LocalBase(self.base), asked=asked, partials=partials, problems=self.problems, spec=spec,
                        share=(0, 1))  # fmt: skip
        known = pl.read_parquet(self.problems)
        self.items = folder / "items.parquet"
        pl.concat([collect(partial, known) for partial in partials]).write_parquet(self.items)

    def measure(self, out: Path, **changes: Any) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
        out.mkdir()
        settings = {
            "base": LocalBase(self.base), "problems": self.problems, "items": [self.items], "infos": INFOS,
            "adapters": self.adapters, "spec": FunctionSpec(n=100, batch_size=4), "max_new_tokens": 6, "drawn": False,
            "own_style": True, "texts": None, "out": out, **changes,
        }  # fmt: skip
        summary = measure_retention(**settings)
        return pl.read_parquet(out / "retention.parquet"), pl.read_parquet(out / "own_answers.parquet"), summary

    def answers(self, sample: int) -> dict[str, tuple[list[int], list[int]]]:
        """Problem -> prompt and the base's answer; those with a token."""
        turn = open_turn(self.base)
        asked = {row["problem_id"]: row["question"] for row in pl.read_parquet(self.problems).iter_rows(named=True)}
        own = pl.read_parquet(self.items).filter(run="base", benchmark="heldout", sample=sample)
        found = {
            row["problem_id"]: (
                turn.prompt(asked[row["problem_id"]]),
                turn.answer(row["completion"], closed=row["finish_reason"] == "stop"),
            )
            for row in own.iter_rows(named=True)
        }
        return {name: text for name, text in found.items() if text[1]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("retention"))


@pytest.mark.parametrize("drawn", [False, True])
def test_the_divergence_on_own_answers_is_its_slow_definition(world: World, tmp_path: Path, drawn: bool) -> None:
    frame, own, summary = world.measure(tmp_path / "out", drawn=drawn)
    texts = world.answers(int(drawn))
    assert (dict(own.schema), dict(frame.schema)) == (OWN_ANSWERS, RETENTION)
    assert (summary["answers"], frame["answers"].to_list()) == (len(texts), [len(texts)] * 3)
    assert frame["drawn"].to_list() == [drawn] * 3
    for info, adapter in zip(INFOS, world.adapters, strict=True):
        rows = own.filter(run=info.run)
        slow = slow_sums(world.base, adapter, [texts[name] for name in rows["problem_id"]])
        np.testing.assert_allclose(rows["kl"], slow.kl, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(rows["first"], slow.first, rtol=1e-4, atol=1e-9)
        assert rows["tokens"].to_list() == [len(texts[name][1]) for name in rows["problem_id"]]
        row = frame.row(by_predicate=pl.col("run") == info.run, named=True)
        assert row["own_kl"] == pytest.approx(slow.kl.sum() / rows["tokens"].sum(), rel=1e-4, abs=1e-9)
        assert row["own_kl_first"] == pytest.approx(slow.first.sum() / rows["tokens"].sum(), rel=1e-4, abs=1e-9)
        assert row["own_kl_low"] <= row["own_kl"] <= row["own_kl_high"]
    base, sft, dpo = frame["own_kl"]
    assert base == 0 < dpo < sft


def test_forgetting_is_the_rise_of_the_loss_that_the_evaluation_has(world: World, tmp_path: Path) -> None:
    frame, _, _ = world.measure(tmp_path / "out")
    losses = solution_losses(pl.read_parquet(world.items))
    turn, known = open_turn(world.base), pl.read_parquet(world.problems).filter(split="heldout")
    texts = {
        row["problem_id"]: (
            turn.prompt(row["question"]),
            turn.boxed(row["answer"]) if row["solution"] is None else turn.answer(row["solution"]),
        )
        for row in known.iter_rows(named=True)
    }
    for info, adapter in zip(INFOS, world.adapters, strict=True):
        slow, bare = (slow_sums(world.base, one, list(texts.values())) for one in (adapter, None))
        tokens = sum(len(answer) for _, answer in texts.values())
        row = frame.row(by_predicate=pl.col("run") == info.run, named=True)
        assert (row["n"], row["tokens"]) == (9, tokens)
        assert row["loss"] == pytest.approx(slow.nll.sum() / tokens, rel=1e-5)
        assert row["forgetting"] == pytest.approx((slow.nll - bare.nll).sum() / tokens, abs=1e-5)
    assert losses.filter(run="sft").height == 9
    assert frame.select("forgetting", "forgetting_low", "forgetting_high").row(0) == (0, 0, 0)


def test_texts_of_a_file_stand_in_their_place(world: World, tmp_path: Path) -> None:
    """A bare text, one with a prompt, and one that is a single token, with nothing to score."""
    rows = [{"text": "".join(WORDS[:5])}, {"prompt": " the sum", "completion": " is 3"}, {"text": WORDS[0]}]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    frame, _, summary = world.measure(tmp_path / "out", texts=file)
    turn = open_turn(world.base)
    bare = turn.tokenizer(rows[0]["text"])["input_ids"]
    texts = [(bare[:1], bare[1:]), (turn.prompt(" the sum"), turn.answer(" is 3"))]
    tokens = sum(len(answer) for _, answer in texts)
    before = slow_sums(world.base, None, texts)
    for info, adapter in zip(INFOS, world.adapters, strict=True):
        row = frame.row(by_predicate=pl.col("run") == info.run, named=True)
        slow = slow_sums(world.base, adapter, texts)
        assert (row["n"], row["tokens"]) == (2, tokens)
        assert row["forgetting"] == pytest.approx((slow.nll - before.nll).sum() / tokens, abs=1e-5)
    assert summary["texts"] == 2


def test_where_there_is_no_text_nothing_is_forgotten_or_kept(world: World, tmp_path: Path) -> None:
    frame, own, _ = world.measure(tmp_path / "out", own_style=False)
    assert frame["forgetting"].null_count() == frame["n"].null_count() == 3
    assert frame["own_kl"].null_count() == 0 < own.height


def test_small_blocks_and_batches_change_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, *_ = world.measure(tmp_path / "before")
    monkeypatch.setitem(BLOCK_BYTES, "cpu", 1)
    frame, *_ = world.measure(tmp_path / "out", spec=FunctionSpec(n=100, batch_size=1))
    for name in ("own_kl", "own_kl_low", "own_kl_high", "own_kl_first"):
        np.testing.assert_allclose(frame[name], before[name], rtol=1e-4, atol=1e-9)


def test_the_first_problems_alone(world: World, tmp_path: Path) -> None:
    """A smaller n is the beginning of a larger one's problems; the solutions' losses are the evaluation's, of all."""
    _, every, _ = world.measure(tmp_path / "every")
    frame, own, _ = world.measure(tmp_path / "out", spec=FunctionSpec(n=3, batch_size=4))
    assert set(own["problem_id"]) <= set(every["problem_id"])
    assert own.filter(run="sft").height <= 3
    assert frame["n"].to_list() == [9, 9, 9]


def frame_of(kind: dict[str, pl.DataType], *rows: tuple[Any, ...]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=kind, orient="row")


def test_ratios_by_hand() -> None:
    """Rises of 2 and 1 nats on 4 and 2 tokens: (2 + 1) / 6 = .5 nats a token, .5 on each, so it is sure. KL: 3 and 0 on
    1 and 5 tokens: 3 / 6 = .5; with either text alone 3 or 0. Of it 1 + 0 from first tokens: 1 / 6."""
    losses = frame_of(LOSSES, ("base", "a", 4, 5.0), ("base", "b", 2, 1.0), ("sft", "b", 2, 2.0), ("sft", "a", 4, 7.0))
    own = frame_of(OWN_ANSWERS, ("base", "a", 1, 0.0, 0.0), ("base", "b", 5, 0.0, 0.0), ("sft", "a", 1, 3.0, 1.0),
                   ("sft", "b", 5, 0.0, 0.0))  # fmt: skip
    sft = retention_frame(INFOS[:2], losses, own, False).row(1, named=True)
    assert (sft["forgetting"], sft["forgetting_low"], sft["forgetting_high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert (sft["n"], sft["tokens"], sft["loss"]) == (2, 6, 1.5)
    assert (sft["own_kl"], sft["own_kl_low"], sft["own_kl_high"]) == pytest.approx((0.5, 0.0, 3.0))
    assert (sft["answers"], sft["answer_tokens"], sft["own_kl_first"]) == (2, 6, pytest.approx(1 / 6))


def test_one_text_has_no_interval_and_none_no_value() -> None:
    losses = frame_of(LOSSES, ("base", "a", 4, 5.0), ("sft", "a", 4, 7.0))
    frame = retention_frame(INFOS[:2], losses, pl.DataFrame(schema=OWN_ANSWERS), False)
    assert frame.select("forgetting", "forgetting_low").rows() == [(0.0, None), (0.5, None)]
    assert frame["own_kl"].null_count() == frame["drawn"].null_count() == 2


def test_a_text_that_the_base_lacks_is_left_out() -> None:
    losses = frame_of(LOSSES, ("base", "a", 4, 5.0), ("sft", "a", 4, 7.0), ("sft", "b", 4, 70.0))
    assert retention_frame(INFOS[:2], losses, pl.DataFrame(schema=OWN_ANSWERS), False)["n"].to_list() == [1, 1]


def test_damaged_weights_are_named(world: World, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "broken"
    folder.mkdir()
    assert world.adapters[1] is not None
    (folder / "adapter_config.json").write_bytes((world.adapters[1] / "adapter_config.json").read_bytes())
    broken = {k: v * np.nan for k, v in load_file(world.adapters[1] / "adapter_model.safetensors").items()}
    save_file(broken, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="run sft: its hidden states are NaN or infinite"):
        world.measure(tmp_path / "out", adapters=[None, folder, None])


def test_items_of_other_runs_do_not_count(world: World, tmp_path: Path) -> None:
    """A teacher's answers among the items, and no item at all of the base."""
    items = pl.read_parquet(world.items)
    more = tmp_path / "more.parquet"
    items.filter(run="sft").with_columns(run=pl.lit("teacher"), answer_nll=pl.lit(99.0)).write_parquet(more)
    frame, *_ = world.measure(tmp_path / "out", items=[world.items, more])
    assert frame["run"].to_list() == ["base", "sft", "dpo"]
    nobody = tmp_path / "nobody.parquet"
    pl.DataFrame(schema=ITEMS).write_parquet(nobody)
    frame, own, _ = world.measure(tmp_path / "none", items=[nobody])
    assert (own.height, frame["own_kl"].null_count()) == (0, 3)
