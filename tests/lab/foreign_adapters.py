"""Adapters trained by others: made here with plain PEFT and a bare torch loop, and what must hold for any of them.

    python -m tests.lab.foreign_adapters OUT

makes a directory of such adapters for trying by hand, from ``stories260K`` under ``$COLINEAR_DATA``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import safe_open

from tasks.core.errors import InputError
from tasks.core.results import RunInfo
from tasks.geometry.adapters.opened import FACTORED, open_adapter
from tasks.geometry.adapters.opened import check as openable
from tasks.geometry.compare import Comparison, Named, compare, examine
from tasks.geometry.delta import Source
from tests.definitions.geometry import Formed, pair_value
from tests.lab.models import small_model
from tests.lab.updates import dense

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Missing(Exception):
    """Data that is not on this machine; the message says what."""


# --- making them ---------------------------------------------------------------------------------------------------


def data() -> Path:
    """The folder of real data; `Missing` where it is not there."""
    folder = Path(os.environ.get("COLINEAR_DATA") or "missing")
    if not ((folder / "stories260K").is_dir() and (folder / "gsm8k" / "train.jsonl").is_file()):
        raise Missing("COLINEAR_DATA names no folder with stories260K and gsm8k/train.jsonl")
    return folder


def make(out: Path, steps: int = 10) -> Path:
    """Four adapters of ``stories260K`` in ``out``; returns their base.

    ``seed0`` and ``seed1`` differ in the initialisation, ``seed0-order1`` has that of seed0 and other data, and
    ``seed0-dora`` that of seed0 and its data as well.
    """
    base = data() / "stories260K"
    batches = [_batches(base, data() / "gsm8k" / "train.jsonl", order, steps) for order in (0, 1)]
    train(base, out / "seed0", batches[0], seed=0)
    train(base, out / "seed1", batches[0], seed=1)
    train(base, out / "seed0-order1", batches[1], seed=0)
    train(base, out / "seed0-dora", batches[0], seed=0, use_dora=True)
    return base


def _batches(base: Path, questions: Path, order: int, steps: int, size: int = 8, length: int = 64) -> list[Any]:
    """``steps`` batches of GSM8K questions, cut to ``length`` tokens, in an order of their own: (B, T) ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with questions.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["question"] for line, _ in zip(lines, range(500), strict=False)]
    ids = [[1, *tokenizer(text)["input_ids"]][:length] for text in texts]  # 1: the beginning of a text
    usable = torch.tensor([one for one in ids if len(one) == length])
    chosen = torch.randperm(len(usable), generator=torch.Generator().manual_seed(order))[: steps * size]
    return list(usable[chosen].split(size))


def train(base: Path, folder: Path, batches: Sequence[torch.Tensor], seed: int, **settings: Any) -> None:
    """One adapter by PEFT and a bare loop: next-token loss, AdamW 1e-3. ``seed``: of its initialisation."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM", **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model.train()
    for batch in batches:
        model(input_ids=batch, labels=batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)


def tiny_base(
    folder: Path, hidden: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32, tied: bool = False, **saving: Any
) -> Path:
    """A random Qwen3 of two layers, saved: q (40, hidden), k and v (8, hidden), vocabulary 24."""
    shape = {"vocab_size": 24, "hidden_size": hidden, "num_attention_heads": 5, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        model = small_model(seed, **shape, intermediate_size=48, tie_word_embeddings=tied, initializer_range=0.02)
        model.to(dtype).save_pretrained(folder, **saving)
    return folder


# --- what must hold for any of them --------------------------------------------------------------------------------


def named(folders: Sequence[Path]) -> list[Named]:
    """The adapters of some folders, called as the folders are."""
    return [Named(RunInfo(one.name, one.name, None, None, None), one, str(one)) for one in folders]


def groups(folder: Path, base: Path | None) -> tuple[list[list[Named]], dict[str, str]]:
    """Every subfolder with an adapter: those that can be compared with each other, and why any is left alone.

    An adapter joins the first group that `examine` lets it join. What cannot be opened at all is in the second.
    """
    found: list[list[Named]] = []
    alone: dict[str, str] = {}
    for adapter in named(sorted(file.parent for file in folder.glob("*/adapter_config.json"))):
        try:
            openable(adapter, base)
        except InputError as error:
            alone[adapter.info.run] = str(error)
            continue
        for group in found:
            try:
                examine([*group, adapter], base)
            except InputError as error:
                alone[adapter.info.run] = str(error)
            else:
                group.append(adapter)
                alone.pop(adapter.info.run, None)
                break
        else:
            found.append([adapter])
    return [group for group in found if len(group) > 1], alone


def check(adapters: Sequence[Named], base: Path | None, scratch: Path, sampled: int = 3) -> Comparison:
    """Compare them, assert all that must hold whatever they are, and return the comparison."""
    folders = [scratch / name for name in ("a", "b", "c")]
    for one in folders:
        one.mkdir(parents=True)
    found = compare(adapters, (1, 5, 10), base, folders[0])
    turned = compare(list(reversed(adapters)), (1, 5, 10), base, folders[1])
    opened = {one.info.run: open_adapter(one, base, folders[2]).source for one in adapters}
    check_ranges(found.pair_metrics)
    check_symmetry(found.pair_metrics, turned.pair_metrics)
    check_unshared(found.unshared, {one.info.run: one.folder for one in adapters}, found.adapters)
    check_dense(found, opened, sampled)
    if base is not None:
        for one in adapters:
            check_norms(found, one, base)
    return found


def check_ranges(pairs: pl.DataFrame) -> None:
    """Bounds of the measures, and what ties them to each other in every module."""
    bounds = {"cosine": (-1, 1), "lora_a_cosine": (-1, 1), "norm_ratio": (0, np.inf)}
    for name in pairs["metric"].unique():
        low, high = bounds.get(name, (0, 90 if name.startswith("angle") else 1 + 1e-12))
        values = pairs.filter(metric=name)["value"].drop_nulls()
        assert values.is_between(low, high).all(), name
    assert pairs["percentile"].drop_nulls().is_between(0, 100).all()
    assert (pairs["low"] <= pairs["high"]).all()
    assert pairs["percentile"].is_not_null().any()
    modules = pairs.filter(pl.col("module") != "*")
    for side, first in (("left", "u1_overlap"), ("right", "v1_overlap")):
        angle, phi = (_wide(modules, f"{name}_{side}") for name in ("angle", "phi"))
        worst = np.cos(np.deg2rad(angle["value"].to_numpy()))
        assert (phi["value"].to_numpy() >= worst**2 - 1e-9).all()  # the mean of squares is not below the smallest
        top = _wide(modules, first).rename({"value": "top"}).drop("k")
        both = angle.filter(k=1).join(top, on=["run_a", "run_b", "module"])
        assert both.height == angle.filter(k=1).height > 0
        np.testing.assert_allclose(np.cos(np.deg2rad(both["value"])), both["top"], atol=1e-7)


def check_symmetry(pairs: pl.DataFrame, turned: pl.DataFrame) -> None:
    """The same table with the adapters in the opposite order: a pair's two sides are exchanged, no more."""
    exchanged = {
        "orthogonal_fraction": "orthogonal_fraction_reverse",
        "orthogonal_fraction_reverse": "orthogonal_fraction",
    }
    back = turned.rename({"run_a": "run_b", "run_b": "run_a"}).with_columns(pl.col("metric").replace(exchanged))
    keys = ["run_a", "run_b", "module", "layer", "projection", "metric", "k"]
    both = pairs.join(back, on=keys, how="full", nulls_equal=True)
    assert both.height == pairs.height == turned.height
    here, there = both["value"].to_numpy(), both["value_right"].to_numpy()
    there = np.where(both["metric"].to_numpy() == "norm_ratio", 1 / there, there)
    np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-9)


def check_unshared(unshared: pl.DataFrame, folders: Mapping[str, Path], adapters: pl.DataFrame) -> None:
    """Every module in one file and not in the other is a row; read from the files' own keys, for plain adapters."""
    plain = adapters.filter(update=FACTORED)["run"].to_list()
    names = {run: _modules(folders[run]) for run in plain}
    expected = {(a, b, name) for a in plain for b in plain for name in names[a] - names[b]}
    found = unshared.filter(pl.col("run").is_in(plain) & pl.col("other").is_in(plain))
    damaged = {row for row in found.rows() if row[2] in names[row[0]] & names[row[1]]}  # NaN in the other's
    assert set(found.rows()) - damaged == expected
    assert found.is_unique().all()


def check_dense(found: Comparison, sources: Mapping[str, Source], sampled: int) -> None:
    """Cosine, norm ratio, angles and overlaps of some modules of every pair from the FORMED matrices' own SVD."""
    for (a, one), (b, two) in combinations(sources.items(), 2):
        rows = found.pair_metrics.filter(run_a=a, run_b=b)
        defined = rows.filter(pl.col("metric") == "cosine", pl.col("value").is_not_null(), pl.col("module") != "*")
        for name in defined["module"].to_list()[:: max(1, defined.height // sampled)][:sampled]:
            mine = {(m, k): v for m, k, v in rows.filter(module=name).select("metric", "k", "value").rows()}
            for key, value in dense_metrics(dense(one.read(name)), dense(two.read(name))).items():
                if mine.get(key) is not None:
                    np.testing.assert_allclose(mine[key], value, rtol=1e-7, atol=1e-6, err_msg=f"{a} {b} {name} {key}")


def dense_metrics(x: np.ndarray, y: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> dict[tuple[str, int | None], float]:
    """The definitions, on formed matrices; an angle only where the top-k subspace is well separated from the rest."""
    a, b = ({"": Formed(matrix, min(matrix.shape), None, 0.0)} for matrix in (x, y))
    keys: list[tuple[str, int | None]] = [(name, None) for name in ("cosine", "norm_ratio", "orthogonal_fraction")]
    for k in ks:
        if all(_separated(side[""].s, k) for side in (a, b)):
            keys += [(f"{name}_{side}", k) for name in ("angle", "phi") for side in ("left", "right")]
    return {(name, k): pair_value(name, k, a, b) for name, k in keys}


def _separated(s: np.ndarray, k: int) -> bool:
    return k <= len(s) and bool(s[k - 1] - (s[k] if k < len(s) else 0) >= 1e-4 * s[0])


def check_norms(found: Comparison, adapter: Named, base: Path) -> None:
    """Every module's norm is what PEFT itself would add to the weight, or what its merged weight differs by.

    PEFT works in float32: a product is good to 1e-5 of itself, a merged weight to 1e-6 of the base's norm.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model = PeftModel.from_pretrained(model, adapter.folder, torch_device="cpu")
    norms = found.spectra.filter(pl.col("run") == adapter.info.run, pl.col("metric") == "norm", pl.col("module") != "*")
    mine = dict(norms.select("module", "value").rows())
    assert mine
    if found.adapters.filter(run=adapter.info.run)["update"].item() == FACTORED:
        layers = model.base_model.model
        for name, value in mine.items():
            expected = float(layers.get_submodule(name).get_delta_weight("default").norm())
            np.testing.assert_allclose(value, expected, rtol=1e-5, err_msg=name)
        return
    merged = model.merge_and_unload().state_dict()
    for name, value in mine.items():
        weight = f"{name}.weight"
        expected = float((merged[weight].double() - original[weight].double()).norm())
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6 * float(original[weight].norm()), err_msg=name)


def _modules(folder: Path) -> set[str]:
    with safe_open(folder / "adapter_model.safetensors", framework="np") as file:
        return {key.removeprefix("base_model.model.").split(".lora_")[0] for key in file.keys()}  # noqa: SIM118


def _wide(modules: pl.DataFrame, metric: str) -> pl.DataFrame:
    chosen = modules.filter(pl.col("metric") == metric, pl.col("value").is_not_null())
    return chosen.select("run_a", "run_b", "module", "k", "value").sort("run_a", "run_b", "module", "k")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.lab.foreign_adapters OUT")
    try:
        trained_from = make(Path(sys.argv[1]))
    except Missing as error:
        sys.exit(str(error))
    print(f"{sys.argv[1]}: {', '.join(sorted(one.name for one in Path(sys.argv[1]).iterdir()))}; base {trained_from}")
