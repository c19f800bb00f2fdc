from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.geometry.adapters.checkpoint import Checkpoint, changed
from tests.lab.refusals import refusal

Q, K, NORM = (f"model.layers.0.self_attn.{p}.weight" for p in ("q_proj", "k_proj", "q_norm"))
EMBED, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.bias"


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {Q: (6, 4), K: (2, 4), NORM: (3,), BIAS: (6,), EMBED: (9, 4), HEAD: (9, 4)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def save(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1, **config: Any) -> Checkpoint:
    folder.mkdir()
    config = {"model_type": "qwen3", "tie_word_embeddings": False, **config}
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return Checkpoint(folder)
    index = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
    for shard in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return Checkpoint(folder)


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_reads_every_tensor_exactly(tmp_path: Path, shards: int, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in weights().items()}
    model = save(tmp_path / "m", tensors, shards)
    assert model.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        read = model.read(name)
        assert read.dtype == np.float64
        np.testing.assert_array_equal(read, tensor.double().numpy())
    assert "no tensor nothing" in refusal(model.read, "nothing")


def test_what_transformers_saves_is_read(base_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = Checkpoint(base_model)
    assert model.tied
    network = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    module = "model.layers.0.self_attn.k_proj"
    expected = network.get_submodule(module).weight.detach().double().numpy()
    np.testing.assert_array_equal(model.read_weight(module, (8, 16)), expected)
    assert model.weight_of("lm_head") == EMBED
    assert changed(model, model) == ([], [])


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "module"),
    [
        ("model.layers.0.q_proj", "model.layers.0.q_proj"),
        ("layers.0.q_proj", "model.layers.0.q_proj"),
        ("model.layers.0.q_proj", "layers.0.q_proj"),
        ("language_model.model.layers.0.q_proj", "model.language_model.layers.0.q_proj"),
        ("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
    ],
)
def test_leading_prefixes_do_not_matter(tmp_path: Path, stored: str, module: str) -> None:
    model = save(
        tmp_path / "m", {f"{stored}.weight": torch.ones(2, 3), "model.vision.layers.0.q.weight": torch.ones(1)}
    )
    assert model.weight_of(module) == f"{stored}.weight"


def test_an_ambiguous_or_unknown_name_is_refused_and_the_exact_one_wins(tmp_path: Path) -> None:
    names = ("model.layers.0.q.weight", "language_model.layers.0.q.weight")
    model = save(tmp_path / "m", {name: torch.ones(2, 3) for name in names})
    assert all(name in refusal(model.weight_of, "layers.0.q") for name in names)
    assert model.weight_of("model.layers.0.q") == names[0]
    message = refusal(model.weight_of, "model.layers.1.q")
    assert "model.layers.1.q" in message
    assert str(tmp_path / "m") in message
    # A tail of the name is not enough: another layer stack of the same model could have it.
    assert "self.q" in refusal(model.weight_of, "self.q")


def test_shape_decides_on_transposing_and_conv1d_is_known_even_where_it_is_square(tmp_path: Path) -> None:
    tensors = {f"h.0.attn.{n}.weight": torch.randn(s) for n, s in (("c_attn", (4, 12)), ("c_proj", (4, 4)))}
    gpt2, other = save(tmp_path / "gpt2", tensors, model_type="gpt2"), save(tmp_path / "other", tensors)
    for name, shape in (("c_attn", (12, 4)), ("c_proj", (4, 4))):
        module = f"transformer.h.0.attn.{name}"
        expected = tensors[f"h.0.attn.{name}.weight"].double().numpy().T
        assert gpt2.shape_of(module) == shape
        np.testing.assert_array_equal(gpt2.read_weight(module, shape), expected)
    np.testing.assert_array_equal(other.read_weight("h.0.attn.c_attn", (12, 4)), expected_of(tensors, "c_attn").T)
    np.testing.assert_array_equal(other.read_weight("h.0.attn.c_attn", (4, 12)), expected_of(tensors, "c_attn"))
    np.testing.assert_array_equal(other.read_weight("h.0.attn.c_proj", (4, 4)), expected_of(tensors, "c_proj"))
    for model, shape in ((gpt2, (4, 12)), (other, (12, 5))):
        message = refusal(model.read_weight, "h.0.attn.c_attn", shape)
        assert str(shape) in message
        assert "(4, 12)" in message


def expected_of(tensors: dict[str, torch.Tensor], name: str) -> np.ndarray:
    return tensors[f"h.0.attn.{name}.weight"].double().numpy()


def test_entries_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    tensors = weights()
    tensors[Q][0, :2] = torch.tensor([torch.nan, torch.inf])
    assert "2 of 24 entries" in refusal(save(tmp_path / "m", tensors).read_weight, Q.removesuffix(".weight"), (6, 4))


# --- what is refused -----------------------------------------------------------------------------------------------


def test_damaged_directories_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save(folder, weights(), shards=2)
    index, shard = folder / "model.safetensors.index.json", folder / "model-1.safetensors"
    good = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**good["weight_map"], "model.extra.weight": shard.name}}))
    assert "model.extra.weight" in refusal(Checkpoint, folder)
    index.write_text(json.dumps({"weight_map": {**good["weight_map"], Q: "../m/model-0.safetensors"}}))
    assert "not a file beside it" in refusal(Checkpoint, folder)
    index.write_text(json.dumps({"weight_map": []}))
    assert "weight_map" in refusal(Checkpoint, folder)
    index.write_text("{")
    assert "not valid JSON" in refusal(Checkpoint, folder)
    index.write_text(json.dumps(good))
    shard.write_bytes(shard.read_bytes()[:-3])
    assert "model-1.safetensors: not a readable" in refusal(Checkpoint, folder)
    shard.unlink()
    assert "model-1.safetensors is missing" in refusal(Checkpoint, folder)
    index.unlink()
    assert "no model.safetensors" in refusal(Checkpoint, folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert "pickled" in refusal(Checkpoint, folder)
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal(Checkpoint, folder)


# --- changed -------------------------------------------------------------------------------------------------------


def test_changed_tells_matrices_from_the_rest(tmp_path: Path) -> None:
    base = save(tmp_path / "base", weights())
    tensors = weights()
    tensors[Q] = tensors[Q].clone()
    tensors[Q][5, 3] += 1e-3
    tensors[NORM], tensors[BIAS] = tensors[NORM] + 1, tensors[BIAS] + 1
    assert changed(base, save(tmp_path / "other", tensors, shards=2)) == ([Q.removesuffix(".weight")], [NORM, BIAS])


def test_values_count_not_bytes(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in weights().items()}
    base = save(tmp_path / "base", half)
    full = {name: tensor.float() for name, tensor in half.items()}
    assert changed(base, save(tmp_path / "same", full)) == ([], [])
    full[K] = full[K] * (1 + 2**-20)  # below bfloat16's resolution, so a comparison in bfloat16 would miss it
    assert changed(base, save(tmp_path / "other", full)) == ([K.removesuffix(".weight")], [])


def test_names_under_another_prefix_are_matched_and_one_sided_tensors_are_reported(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"h.0.q.weight": torch.ones(2, 3), "h.0.mask": torch.ones(2, 2)})
    tensors = {"transformer.h.0.q.weight": torch.zeros(2, 3), "v_head.weight": torch.ones(1, 2)}
    assert changed(base, save(tmp_path / "other", tensors)) == (["transformer.h.0.q"], ["h.0.mask", "v_head.weight"])


@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("base_tied", [False, True])
@pytest.mark.parametrize("other_tied", [False, True])
def test_a_tied_output_layer_is_the_embedding(tmp_path: Path, base_tied: bool, other_tied: bool, update: bool) -> None:
    """lm_head equals the embedding before; then the untied output layer, or the tied tensor of both, is changed."""
    tensors = weights()
    tensors[HEAD] = tensors[EMBED].clone()
    moved = dict(tensors)
    if update:
        moved[EMBED if other_tied else HEAD] = tensors[EMBED] + 1

    def side(name: str, values: dict[str, torch.Tensor], tied: bool) -> Checkpoint:
        kept = {key: value for key, value in values.items() if not (tied and key == HEAD)}
        return save(tmp_path / name, kept, tie_word_embeddings=tied)

    base, other = side("base", tensors, base_tied), side("other", moved, other_tied)
    expected = [] if not update else ["lm_head"] if not other_tied else ["model.embed_tokens"]
    if update and other_tied and not base_tied:
        expected = ["lm_head", "model.embed_tokens"]  # two tensors in the base, and both moved
    assert changed(base, other) == (expected, [])
    for module in expected:
        difference = other.read_weight(module, (9, 4)) - base.read_weight(module, (9, 4))
        np.testing.assert_allclose(difference, 1, atol=1e-6)


def test_a_stored_copy_of_a_tied_embedding_is_not_counted_twice(tmp_path: Path) -> None:
    tensors = weights()
    tensors[HEAD] = tensors[EMBED].clone()
    base = save(tmp_path / "base", tensors, tie_word_embeddings=True)
    moved = {**tensors, EMBED: tensors[EMBED] + 1, HEAD: tensors[HEAD] + 1}
    other = save(tmp_path / "other", moved, tie_word_embeddings=True)
    assert changed(base, other) == (["model.embed_tokens"], [])


def test_a_stored_output_layer_counts_where_the_configuration_does_not_say_that_it_is_tied(tmp_path: Path) -> None:
    tensors = weights()
    base = save(tmp_path / "base", tensors, tie_word_embeddings=None)
    other = save(tmp_path / "other", {**tensors, HEAD: tensors[HEAD] + 1}, tie_word_embeddings=None)
    assert changed(base, other) == (["lm_head"], [])
    del tensors[HEAD]
    assert save(tmp_path / "tied", tensors, tie_word_embeddings=None).weight_of("lm_head") == EMBED
    assert "lm_head" in refusal(save(tmp_path / "untied", tensors).weight_of, "lm_head")


def test_other_models_are_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", weights())
    message = refusal(changed, base, save(tmp_path / "wide", {**weights(), Q: torch.ones(6, 5)}))
    assert all(part in message for part in (Q, "(6, 5)", "(6, 4)", "base", "wide"))
    assert "share no tensor" in refusal(changed, base, save(tmp_path / "foreign", {"a.b.weight": torch.ones(2)}))
