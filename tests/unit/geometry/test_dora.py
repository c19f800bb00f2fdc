"""DoRA from its factors, rsLoRA, patterns and embeddings: each as PEFT saves it, held against dense weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3ForCausalLM

from tasks.core.errors import InputError
from tasks.geometry.adapters.adapter import WEIGHTS, AdapterSource
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.adapters.dora import DoraSource, Weights, rescaled
from tasks.geometry.adapters.merged import merge
from tasks.geometry.adapters.opened import FACTORED, RESCALED
from tasks.geometry.compare import compare
from tasks.geometry.cosine import module_inner
from tasks.geometry.delta import Dense, Factors, NotFinite, Rescaled, Weight
from tests.definitions.geometry import dora
from tests.lab.foreign_adapters import dense_metrics, named, tiny_base
from tests.lab.frames import WHOLE
from tests.lab.models import small_model
from tests.lab.updates import dense
from tests.unit.geometry.test_merged import lora, relative, train

Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj" for i in (0, 1))
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "dora-rs": {"use_dora": True, "use_rslora": True, "r": 2},
    "dora-patterns": {
        "use_dora": True,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 20},
    },
    "dora-embedding": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
}
PLAIN: dict[str, dict[str, Any]] = {
    "lora": {},
    "rs": {"use_rslora": True, "r": 2},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 3, "layers.0.self_attn.q_proj": 7},
        "alpha_pattern": {"q_proj": 5},
    },
    "rs-patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 9},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 2},
    },
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding-rs": {
        "target_modules": ["q_proj", "embed_tokens"],
        "use_rslora": True,
        "rank_pattern": {"embed_tokens": 5},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of every kind, saved by PEFT."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (name, settings) in enumerate({**KINDS, **PLAIN}.items()):
        train(base, folder / name, lora(**settings), seed=seed)
    return folder


@pytest.fixture(scope="module")
def truth(base: Path, adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Run -> module -> dW (out, in): what PEFT merges in float64, less the base."""
    out, original = tmp_path_factory.mktemp("merged"), Checkpoint(base)
    found: dict[str, dict[str, np.ndarray]] = {}
    for folder in adapters.iterdir():
        merge(folder, base, out / folder.name)
        merged = Checkpoint(out / folder.name)
        updates = {name: merged.read(name) - original.read(name) for name in original.shapes}
        found[folder.name] = {
            name.removesuffix(".weight"): update.T if "embed_tokens" in name else update
            for name, update in updates.items()
            if update.any()
        }
    return found


def open_dora(folder: Path, base: Path) -> DoraSource:
    return DoraSource(folder, Weights(Checkpoint(base)))


# --- every kind against the weights that PEFT merges ------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_dora_from_factors_is_what_peft_merges(
    name: str, adapters: Path, base: Path, truth: dict[str, dict[str, np.ndarray]]
) -> None:
    source = open_dora(adapters / name, base)
    assert set(source.shapes) == set(truth[name])
    for module, expected in truth[name].items():
        update = source.read(module)
        assert isinstance(update, Rescaled)
        assert update.shape == expected.shape
        assert relative(dense(update), expected) < 1e-12
        assert relative(update.B @ update.A, expected) > 0.1  # without its rows it would be wrong


@pytest.mark.parametrize("name", PLAIN)
def test_scales_ranks_and_embeddings_are_what_peft_merges(
    name: str, adapters: Path, truth: dict[str, dict[str, np.ndarray]]
) -> None:
    source = AdapterSource(adapters / name)
    assert set(source.shapes) == set(truth[name])
    for module, expected in truth[name].items():
        assert relative(dense(source.read(module)), expected) < 1e-12


def test_every_pair_equals_the_dense_definition(
    adapters: Path, base: Path, truth: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    found = compare(named(sorted(adapters.iterdir())), (1, 2), base, tmp_path)
    assert not list(tmp_path.iterdir())  # nothing was merged
    assert dict(found.adapters.select("run", "update").rows()) == {
        **dict.fromkeys(KINDS, RESCALED), **dict.fromkeys(PLAIN, FACTORED),
    }  # fmt: skip
    whole = WHOLE
    cosines = found.pair_metrics.filter(*whole, metric="cosine").select("run_a", "run_b", "value").rows()
    assert len(cosines) == 45
    for a, b, value in cosines:
        shared = sorted(set(truth[a]) & set(truth[b]))
        x, y = (np.concatenate([truth[run][name].ravel() for name in shared]) for run in (a, b))
        assert value == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-12), (a, b)
    compared = 0
    for a, b in combinations(sorted(truth), 2):
        rows = found.pair_metrics.filter(run_a=a, run_b=b)
        for name in set(truth[a]) & set(truth[b]):
            mine = {(m, k): v for m, k, v in rows.filter(module=name).select("metric", "k", "value").rows()}
            for key, value in dense_metrics(truth[a][name], truth[b][name], (1, 2)).items():
                assert mine[key] == pytest.approx(value, rel=1e-9, abs=1e-9), (a, b, name, key)
                compared += 1
    assert compared > 400
    norms = found.spectra.filter(metric="norm", module="*").select("run", "value").rows()
    for run, value in norms:
        assert value == pytest.approx(np.sqrt(sum(np.sum(one**2) for one in truth[run].values())), rel=1e-12), run


def test_conv1d_whose_weights_are_stored_turned(tmp_path: Path) -> None:
    """GPT-2, with c_proj square: only its name says that it is stored (in, out)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    settings = lora(use_dora=True, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    source = open_dora(tmp_path / "adapter", tmp_path / "base")
    assert sorted(source.shapes.values()) == [(16, 16), (48, 16)]
    merged, original = Checkpoint(tmp_path / "merged"), Checkpoint(tmp_path / "base")
    for module, shape in source.shapes.items():
        expected = merged.read_weight(module, shape) - original.read_weight(module, shape)
        assert relative(dense(source.read(module)), expected) < 1e-12


def test_an_embedding_that_the_base_ties_has_its_own_update(tmp_path: Path) -> None:
    """Its output layer is not what was adapted: PEFT cannot merge this, its factors say it. Square, to be turned."""

    shape = {"vocab_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 1, "intermediate_size": 48}
    small_model(**shape, tie_word_embeddings=True, initializer_range=0.02).save_pretrained(tmp_path / "base")
    model = train(tmp_path / "base", tmp_path / "adapter", lora(use_dora=True, target_modules=["embed_tokens"]))
    update = open_dora(tmp_path / "adapter", tmp_path / "base").read("model.embed_tokens")
    ids, weight = torch.arange(32), Checkpoint(tmp_path / "base").read("model.embed_tokens.weight")
    with torch.no_grad():
        answered = model.base_model.model.model.embed_tokens(ids).double().numpy()
    np.testing.assert_allclose(dense(update).T, answered - weight, atol=1e-7)  # PEFT computes in float32
    assert np.linalg.norm(answered - weight) > 0.1


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_two_rows_by_hand() -> None:
    """W = [[3, 4], [0, 2]], B A = [[0, 0], [2 * .75, 0]]: rows of norms 5 and 2.5; m = (10, 5) doubles both."""
    w = np.array([[3.0, 4.0], [0.0, 2.0]])
    factors = Factors(np.array([[0.0], [0.75]]), np.array([[1.0, 0.0]]), 2.0)
    update = rescaled(Weight(w, np.sum(w**2, axis=1)), factors, np.array([10.0, 5.0]), "x")
    np.testing.assert_allclose(dense(update), [[3.0, 4.0], [3.0, 2.0]], atol=1e-15)
    assert module_inner(update, update) == pytest.approx(25 + 13, abs=1e-13)


def test_parts_that_cancel_are_taken_entry_by_entry() -> None:
    """B A doubles every row and m halves it again: what is left is the little that was added."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((6, 1)) @ rng.standard_normal((1, 5))
    left, s, right = np.linalg.svd(w, full_matrices=False)
    little = 1e-9 * rng.standard_normal((6, 1))
    factors = Factors((left[:, :1] * s[0]) + little, right[:1], 1.0)
    magnitude = np.linalg.norm(w, axis=1)
    update = rescaled(Weight(w, np.sum(w**2, axis=1)), factors, magnitude, "x")
    assert isinstance(update, Dense)
    assert np.linalg.norm(update.W) < 1e-14  # a row of rank 1 that is scaled to its old norm is its old self
    turned = Factors(factors.B, right[:1] + 1e-9, 1.0)
    product = turned.B.astype(np.longdouble) @ turned.A
    found = rescaled(Weight(w, np.sum(w**2, axis=1)), turned, magnitude, "x")
    assert relative(dense(found), dora(w, product, magnitude)) < 1e-6


def test_a_zero_row_is_left_out_as_a_module_that_is_not_finite() -> None:
    w = np.array([[1.0, 0.0], [0.0, 0.0]])
    factors = Factors(np.array([[1.0], [0.0]]), np.array([[0.0, 1.0]]), 1.0)
    with pytest.raises(NotFinite, match=r"^q: 1 of 2 rows of W \+ B A are zero, and DoRA divides by their norm$"):
        rescaled(Weight(w, np.sum(w**2, axis=1)), factors, np.ones(2), "q")


def test_a_weight_is_read_once_for_all_that_hold_it(adapters: Path, base: Path) -> None:
    weights = Weights(Checkpoint(base))
    one, two = (DoraSource(adapters / name, weights).read(Q0) for name in ("dora", "dora-rs"))
    assert isinstance(one, Rescaled)
    assert isinstance(two, Rescaled)
    assert one.base is two.base
    del one, two
    assert not weights._held


# --- the first magnitudes, rounded -----------------------------------------------------------------------------------


@pytest.fixture
def in_bfloat16(tmp_path: Path) -> Callable[[str, int, float], Path]:
    """DoRA adapters of a bfloat16 base: how far factors and magnitudes were moved, and from which seed."""
    base = tiny_base(tmp_path / "half", hidden=64, dtype=torch.bfloat16)

    def make(name: str, seed: int, moved: float, dtype: torch.dtype = torch.bfloat16) -> Path:
        torch.manual_seed(seed)
        model = peft.get_peft_model(Qwen3ForCausalLM.from_pretrained(base, dtype=dtype), lora(use_dora=True))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(moved * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def test_what_the_rounding_of_the_first_magnitudes_does_is_said(
    in_bfloat16: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [
        in_bfloat16("a", 1, 1e-5),
        in_bfloat16("b", 2, 1e-5),
        in_bfloat16("c", 3, 1e-5, torch.float32),
        in_bfloat16("far", 4, 0.1),
    ]
    found = compare(named(folders), (1,), tmp_path / "half", tmp_path)
    said = {note.split(": ")[0]: note for note in found.notes}
    assert set(said) == {"a", "b"}  # not c, trained on the base in float32, nor where it is little beside the update
    assert "DoRA on a bfloat16 base: PEFT rounds the first magnitudes to its precision" in said["a"]
    rows = found.pair_metrics.filter(*WHOLE)
    cosines = {(a, b): v for a, b, v in rows.filter(metric="cosine").select("run_a", "run_b", "value").rows()}
    assert cosines["a", "b"] > 0.9  # two trainings that share nothing but that rounding
    assert abs(cosines["a", "c"]) < 0.5


# --- refused --------------------------------------------------------------------------------------------------------


def test_magnitudes_that_are_missing_or_of_other_rows_are_refused(adapters: Path, base: Path, tmp_path: Path) -> None:
    tensors = load_file(adapters / "dora" / WEIGHTS)
    key = next(name for name in tensors if "magnitude" in name)
    config = json.loads((adapters / "dora" / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({name: one for name, one in tensors.items() if name != key}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="has no lora_magnitude_vector, which use_dora promises"):
        open_dora(tmp_path, base)
    save_file({**tensors, key: tensors[key][:-1].contiguous()}, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=r"lora_magnitude_vector \(39,\) is not of 40 rows"):
        open_dora(tmp_path, base)
    tensors[key][0] = torch.nan
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(NotFinite, match="lora_magnitude_vector are NaN or infinite"):
        open_dora(tmp_path, base).read(key.split("base_model.model.")[1].rpartition(".lora_")[0])


def test_without_its_base_dora_is_refused_with_the_way_out(adapters: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"DoRA rescales the rows.*give --base MODEL"):
        compare(named([adapters / "lora", adapters / "dora"]), (1,), None, tmp_path)
