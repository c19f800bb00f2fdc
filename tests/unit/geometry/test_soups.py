"""Sums and means of updates: by hand, against dense sums and PEFT's ``cat``, and evaluated as any adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tasks.core.errors import InputError
from tasks.core.results import LocalBase, RunInfo, Soup
from tasks.core.sections import EvaluationSpec, FunctionSpec
from tasks.evaluation.evaluate import Asked, collect, evaluate_models
from tasks.evaluation.soups import soups_frame
from tasks.geometry.delta import Factors, load_delta
from tasks.geometry.functions.retention import measure_retention
from tasks.geometry.updates.soups import souped, write_soup
from tasks.models.load import load_model
from tests.definitions.soups import slow_soup
from tests.lab.updates import SHAPES, Shape, dense, random_factors
from tests.unit.geometry.test_functions import write_adapter, write_base, write_problems


def test_a_mean_by_hand() -> None:
    """(2 [1 0] + 1 [0 6]) / 2 in the first row: [1 3]; ranks 1 and 2 make 3, and scales go into A."""
    one = Factors(np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]), 2.0)
    two = Factors(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 6.0], [5.0, 5.0]]), 1.0)
    mean = souped([one, two], 0.5)
    np.testing.assert_allclose(dense(mean), [[1, 3], [0, 0]], atol=1e-15)
    assert (mean.B.shape, mean.A.shape, mean.scale) == ((2, 3), (3, 2), 1.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_sum_of_the_dense_updates(shape: Shape) -> None:
    """Of three updates of other ranks and scales, in any order; a mean of copies is the one."""
    out, n_in, r, _ = shape
    rng = np.random.default_rng(1)
    updates = [
        random_factors(rng, out, n_in, rank)._replace(scale=scale) for rank, scale in ((r, 2.0), (1, -0.5), (r, 3.0))
    ]
    whole = sum(dense(update) for update in updates)
    size = np.abs(whole).max()
    np.testing.assert_allclose(dense(souped(updates, 1.0)), whole, atol=1e-12 * size)
    np.testing.assert_allclose(dense(souped(updates[::-1], 1 / 3)), whole / 3, atol=1e-12 * size)
    np.testing.assert_allclose(dense(souped([updates[0]] * 2, 0.5)), dense(updates[0]), atol=1e-12 * size)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base, an adapter of two ranks by rsLoRA, a plain one, and their sum and mean."""
    folder = tmp_path_factory.mktemp("soups")
    base = write_base(folder / "base")
    parts = [
        write_adapter(base, folder / "sft", 3, r=3, use_rslora=True, rank_pattern={"v_proj": 2}),
        write_adapter(base, folder / "dpo", 4, size=0.1),
    ]
    write_soup(parts, 1.0, folder / "sum")
    write_soup(parts, 0.5, folder / "mean")
    return {"base": base, **{name: folder / name for name in ("sft", "dpo", "sum", "mean")}}


@pytest.mark.parametrize(("name", "weight"), [("sum", 1.0), ("mean", 0.5)])
def test_the_written_adapter_is_the_soup_of_every_module(folders: dict[str, Path], name: str, weight: float) -> None:
    sft, dpo, soup = (load_delta(folders[one]).modules for one in ("sft", "dpo", name))
    expected = slow_soup([{m: dense(update) for m, update in one.items()} for one in (sft, dpo)], weight)
    assert soup.keys() == expected.keys()
    for module, update in soup.items():
        np.testing.assert_allclose(dense(update), expected[module], atol=1e-6 * np.abs(expected[module]).max())
        assert update.B.shape[1] == (4 if "v_proj" in module else 5)
    config = json.loads((folders[name] / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (5, 5, False)
    assert {*config["rank_pattern"].values()} == {4} == {*config["alpha_pattern"].values()}


def test_peft_makes_the_same_logits_of_its_own_cat(folders: dict[str, Path]) -> None:
    """The golden from outside: ``add_weighted_adapter(combination_type='cat')`` of two plain adapters."""
    from peft import PeftModel

    parts = [folders["dpo"], write_adapter(folders["base"], folders["base"].parent / "rft", 5, r=3)]
    write_soup(parts, 0.5, folders["base"].parent / "plain")
    model = PeftModel.from_pretrained(load_model(folders["base"], "float32"), str(parts[0]), adapter_name="a")
    model.load_adapter(str(parts[1]), "b")
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "c", combination_type="cat")
    model.set_adapter("c")
    ids = torch.tensor([[1, 5, 9, 11, 3]])
    with torch.no_grad():
        theirs, bare = model(ids).logits, load_model(folders["base"], "float32")(ids).logits
        ours = load_model(folders["base"], "float32", folders["base"].parent / "plain")(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert float((ours - bare).abs().max()) > 0.1


def test_what_cannot_be_summed_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    other = write_adapter(folders["base"], tmp_path / "other", 6, target_modules=["q_proj"])
    with pytest.raises(InputError, match=r"has other modules than .*; sum adapters of one base and of the same target"):
        write_soup([folders["dpo"], other], 1.0, tmp_path / "out")
    more = tmp_path / "more"
    more.mkdir()
    (more / "adapter_config.json").write_bytes((folders["dpo"] / "adapter_config.json").read_bytes())
    file = folders["dpo"] / "adapter_model.safetensors"
    head = {"base_model.model.lm_head.weight": np.ones((4, 2), np.float32)}
    save_file({**load_file(file), **head}, more / file.name)
    with pytest.raises(InputError, match=r"cannot be summed \(not compared: 1 whole tensor \(lm_head.weight\)\)"):
        write_soup([folders["dpo"], more], 1.0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_soup_is_evaluated_and_measured_as_any_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    """The mean of two copies answers, and diverges, as the one does: predicted are its accuracy, and half its KL."""
    problems, base = write_problems(tmp_path / "problems.parquet"), LocalBase(folders["base"])
    sft = RunInfo("sft", "sft", 0, 0, 1e-3)
    copy = RunInfo("copy", "sft", 0, 1, 1e-3)
    soup = Soup("mean(sft+copy)", (sft, copy), 0.5)
    write_soup([folders["sft"]] * 2, 0.5, tmp_path / "soup")
    infos = [RunInfo("base", "base", 0, 0, 0.0), sft, copy, soup.info]
    adapters = [None, folders["sft"], folders["sft"], tmp_path / "soup"]
    partials = [tmp_path / "answers" / str(i) for i in range(4)]
    for partial in partials:
        partial.mkdir(parents=True)
    asked = [Asked(info, adapter) for info, adapter in zip(infos, adapters, strict=True)]
    spec = EvaluationSpec(max_new_tokens=6, batch_size=64)
    evaluate_models(base=base, asked=asked, partials=partials, problems=problems, spec=spec, share=(0, 1))
    items = pl.concat([collect(partial, pl.read_parquet(problems)) for partial in partials])
    items.write_parquet(tmp_path / "items.parquet")
    measure_retention(
        base=base, problems=problems, items=[tmp_path / "items.parquet"], infos=infos, adapters=adapters,
        spec=FunctionSpec(n=9), max_new_tokens=6, drawn=False, own_style=True, texts=None, out=tmp_path,
    )  # fmt: skip
    own, kept = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("own_answers", "retention"))
    said = {run: tuple(group["completion"]) for (run,), group in items.group_by("run", maintain_order=True)}
    assert said["mean(sft+copy)"] == said["sft"] == said["copy"] != said["base"]
    found = {
        row["measure"]: row
        for row in soups_frame([soup], items.filter(benchmark="heldout"), own, kept).iter_rows(named=True)
    }
    assert found["accuracy"]["apart"] == 0
    assert found["own_kl"]["value"] == pytest.approx(kept.filter(run="sft")["own_kl"].item(), rel=1e-4)
    assert found["own_kl"]["predicted"] == pytest.approx(found["own_kl"]["value"] / 2, rel=1e-4)
    assert found["forgetting"]["change"] == pytest.approx(kept.filter(run="sft")["forgetting"].item(), abs=1e-5)
