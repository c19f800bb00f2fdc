"""Truncated updates: against the dense SVD, as adapters that PEFT loads, and through the evaluation of whole ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from tasks.core.errors import InputError
from tasks.core.frames import LEADING, REST
from tasks.core.results import LocalBase, RunInfo, Truncated
from tasks.core.sections import EvaluationSpec, FunctionSpec
from tasks.evaluation.evaluate import Asked, collect, evaluate_models
from tasks.evaluation.truncation import truncation_frame
from tasks.geometry.delta import Factors, load_delta
from tasks.geometry.functions.measures import measure_functions
from tasks.geometry.updates.truncated import truncated, write_truncated
from tests.lab.updates import SHAPES, Shape, dense, random_factors
from tests.unit.geometry.test_functions import write_adapter, write_base, write_problems


def test_a_rank_two_update_by_hand() -> None:
    """4 [e1 (.6, .8)^T] + 1 [e2 (.8, -.6)^T], at scale 2 and mixed by a turn that the product does not show."""
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    B = np.array([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]]) @ turn
    A = turn.T @ np.array([[0.6, 0.8], [0.8, -0.6]]) / 2.0
    update = Factors(B, A, 2.0)
    one, rest = dense(truncated(update, 1, LEADING)), dense(truncated(update, 1, REST))
    np.testing.assert_allclose(one, [[2.4, 3.2], [0, 0], [0, 0]], atol=1e-14)
    np.testing.assert_allclose(rest, [[0, 0], [0.8, -0.6], [0, 0]], atol=1e-14)
    np.testing.assert_allclose(dense(truncated(update, 2, LEADING)), dense(update), atol=1e-14)
    assert not dense(truncated(update, 2, REST)).any()
    assert not dense(truncated(update, 9, REST)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_truncated_svd_of_the_dense_update(shape: Shape) -> None:
    out, n_in, r, _ = shape
    update = random_factors(np.random.default_rng(1), out, n_in, r)
    U, s, Vt = np.linalg.svd(dense(update), full_matrices=False)
    for k in sorted({1, 2, min(r, out, n_in)}):
        one, rest = (truncated(update, k, part) for part in (LEADING, REST))
        np.testing.assert_allclose(dense(one), U[:, :k] * s[:k] @ Vt[:k], atol=1e-12 * s[0])
        np.testing.assert_allclose(dense(one) + dense(rest), dense(update), atol=1e-12 * s[0])
        assert (one.B.shape, one.A.shape, one.scale) == (update.B.shape, update.A.shape, update.scale)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, an adapter of two ranks by rsLoRA, and its parts at k = 1."""
    folder = tmp_path_factory.mktemp("truncated")
    base = write_base(folder / "base")
    whole = write_adapter(base, folder / "whole", 3, r=3, use_rslora=True, rank_pattern={"v_proj": 2})
    for part in (LEADING, REST):
        write_truncated(whole, 1, part, folder / part)
    return {"base": base, "whole": whole, LEADING: folder / LEADING, REST: folder / REST}


def test_the_written_adapters_are_the_parts_of_every_module(folders: dict[str, Path]) -> None:
    whole, one, rest = (load_delta(folders[name]).modules for name in ("whole", LEADING, REST))
    for name, update in whole.items():
        U, s, Vt = np.linalg.svd(dense(update), full_matrices=False)
        np.testing.assert_allclose(dense(one[name]), s[0] * np.outer(U[:, 0], Vt[0]), atol=1e-6 * s[0])
        np.testing.assert_allclose(dense(one[name]) + dense(rest[name]), dense(update), atol=1e-6 * s[0])
    config, own = (json.loads((folders[name] / "adapter_config.json").read_text()) for name in ("whole", LEADING))
    assert own == config
    shapes, here = (
        {key: (value.shape, value.dtype) for key, value in load_file(folders[n] / "adapter_model.safetensors").items()}
        for n in ("whole", LEADING)
    )
    assert here == shapes


def test_what_is_more_than_factors_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file = folders["whole"] / "adapter_model.safetensors"
    (tmp_path / "adapter_config.json").write_bytes((folders["whole"] / "adapter_config.json").read_bytes())
    head = {"base_model.model.lm_head.weight": np.ones((4, 2), np.float32)}
    save_file({**load_file(file), **head}, tmp_path / file.name)
    with pytest.raises(InputError, match=r"cannot be truncated \(not compared: 1 whole tensor \(lm_head.weight\)\)"):
        write_truncated(tmp_path, 1, LEADING, tmp_path / "out")
    with pytest.raises(InputError, match="truncated to 0 directions"):
        write_truncated(folders["whole"], 0, REST, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_are_evaluated_and_measured_as_whole_updates_are(folders: dict[str, Path], tmp_path: Path) -> None:
    """Truncated at its whole rank an adapter answers, scores and diverges as itself, and its rest as the base."""
    problems, base, sft = write_problems(tmp_path / "problems.parquet"), LocalBase(folders["base"]), info("sft")
    parts = [Truncated(sft, part, k) for part in (LEADING, REST) for k in (1, 3)]
    adapters: dict[str, Path | None] = {"base": None, "sft": folders["whole"]}
    for one in parts:
        write_truncated(folders["whole"], one.k, one.part, tmp_path / one.info.run)
        adapters[one.info.run] = tmp_path / one.info.run
    asked = [
        Asked(known, adapters[known.run])
        for known in (RunInfo("base", "base", 0, 0, 0.0), sft, *(p.info for p in parts))
    ]
    partials = [tmp_path / "answers" / one.info.run for one in asked]
    for partial in partials:
        partial.mkdir(parents=True)
    spec = EvaluationSpec(max_new_tokens=6, batch_size=64)
    evaluate_models(base=base, asked=asked, partials=partials, problems=problems, spec=spec, share=(0, 1))
    items = pl.concat([collect(partial, pl.read_parquet(problems)) for partial in partials])
    measure_functions(
        base=base, problems=problems, adapters=adapters, spec=FunctionSpec(n=9), max_new_tokens=6, out=tmp_path
    )
    frame = truncation_frame(parts, 3, items, pl.read_parquet(tmp_path / "divergence.parquet"))
    heldout = frame.filter(benchmark="heldout")
    loss = {(part, k): value for part, k, value in heldout.select("part", "k", "loss").iter_rows()}
    kl = {(part, k): value for part, k, value in heldout.select("part", "k", "kl").iter_rows()}
    said = {run: tuple(group["completion"]) for (run,), group in items.group_by("run", maintain_order=True)}
    assert said["sft-leading-3"] == said["sft"] != said["base"] == said["sft-rest-3"]
    assert loss[REST, 3] == pytest.approx(loss[LEADING, 0], abs=1e-5)
    assert kl[LEADING, 0] == 0 == pytest.approx(kl[REST, 3], abs=1e-9)
    assert 0 < kl[LEADING, 1] != pytest.approx(kl[LEADING, 3], rel=1e-2)
    assert abs(loss[LEADING, 1] - loss[LEADING, 3]) > 1e-3 < abs(loss[LEADING, 1] - loss[LEADING, 0])


def info(name: str) -> RunInfo:
    return RunInfo(name, name, 0, 0, 1e-3)
