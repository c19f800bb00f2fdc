from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import InputError
from tasks.core.places import places
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.delta import (
    Dense,
    Factors,
    LoraDelta,
    NotFinite,
    Update,
    check_size,
    checked_factors,
    load_delta,
    shared,
    unshared,
)
from tasks.geometry.factored import factor
from tests.lab.updates import dense

PREFIX = "base_model.model."
FIRST = "model.layers.0.self_attn.q_proj"


class Tiny(torch.nn.Module):
    """A stand-in with the module names of a transformer: two layers of q (6 -> 8) and o (8 -> 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(11))
        for layer in self.model.layers:
            layer.self_attn = torch.nn.Module()
            layer.self_attn.q_proj = torch.nn.Linear(6, 8, bias=False)
            layer.self_attn.o_proj = torch.nn.Linear(8, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.model.layers:
            x = layer.self_attn.o_proj(layer.self_attn.q_proj(x))
        return x


def save_adapter(folder: Path, **settings: Any) -> Any:
    """A PEFT adapter of `Tiny` with random B, saved by PEFT; returns the PEFT model."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    base = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"]}
    model = get_peft_model(Tiny(), LoraConfig(**{**base, **settings}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, **fields: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
        {"rank_pattern": {r"model\.layers\.[01]\..*": 6, "o_proj": 2}, "alpha_pattern": {"^model.layers.1.*q_proj": 5}},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 3}},  # must not match layer 10 or "...layers.11..."
        {"rank_pattern": {"proj": 3}, "alpha_pattern": {"attn.q_proj": 5}},  # not a dotted tail: matches nothing
        {"use_rslora": True, "rank_pattern": {r".*layers\.1\..*": 6, "q_proj": 2}, "alpha_pattern": {"q_proj": 1}},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match")
def test_dense_product_equals_pefts_delta_weight(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = save_adapter(tmp_path, **settings)
    delta = load_delta(tmp_path)
    assert len(delta.modules) == 22
    for name, factors in delta.modules.items():
        expected = model.base_model.model.get_submodule(name).get_delta_weight("default").detach().numpy()
        np.testing.assert_allclose(dense(factors), expected, rtol=1e-5, atol=1e-6)  # PEFT multiplies in float32
        layer = model.base_model.model.get_submodule(name)
        assert factors.scale == layer.scaling["default"]
        np.testing.assert_array_equal(factors.B, layer.lora_B["default"].weight.detach().double().numpy())


def test_overlapping_patterns_follow_pefts_reload_which_sorts_the_keys(tmp_path: Path) -> None:
    # PEFT writes adapter_config.json with sorted keys: ".*" was second in training and is first for every reader.
    from peft import PeftModel

    trained = save_adapter(tmp_path, alpha_pattern={"q_proj": 3, ".*": 5})
    reloaded = PeftModel.from_pretrained(Tiny(), tmp_path)
    scales = [model.base_model.model.get_submodule(FIRST).scaling["default"] for model in (trained, reloaded)]
    assert scales == [3 / 4, 5 / 4]
    assert load_delta(tmp_path).modules[FIRST].scale == 5 / 4
    # The same for ranks leaves a directory that PEFT itself cannot load.
    save_adapter(tmp_path, rank_pattern={"q_proj": 3, ".*": 5})
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(Tiny(), tmp_path)
    with pytest.raises(InputError, match=f"module {FIRST} has rank 3, its adapter_config.json says 5"):
        load_delta(tmp_path)


def test_modules_come_in_the_models_order(adapter: Path) -> None:
    names = list(load_delta(adapter).modules)
    assert [place.layer for place in places(names)] == [layer for layer in range(11) for _ in range(2)]
    assert places(names)[0].projection == "o_proj"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_read_exactly(adapter: Path, dtype: torch.dtype) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = {key: tensor.to(dtype) for key, tensor in load_file(file).items()}
    save_file(tensors, file)
    for name, factors in load_delta(adapter).modules.items():
        expected = tensors[f"{PREFIX}{name}.lora_A.weight"].double().numpy()
        assert factors.A.dtype == np.float64
        np.testing.assert_array_equal(factors.A, expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "DoRA rescales the rows.*--base MODEL"),
        ({"init_lora_weights": "pissa"}, "PiSSA changes the base weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "it began from a random draw, which no file holds"),
        ({"init_lora_weights": "lora_ga"}, "it began from gradients of its data, which no file holds"),
        ({"init_lora_weights": "corda"}, "it began from covariances of its data, which no file holds"),
        ({"init_lora_weights": "olora"}, "OLoRA changes the base weights"),
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"r": 0}, "r is 0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"rank_pattern": {"q_proj": -1}}, r"rank_pattern\['q_proj'\] is -1"),
        ({"alpha_pattern": {"q_proj(": 1}}, "alpha_pattern key 'q_proj\\('"),
        ({"r": 4.5}, "r is 4.5; it must be a whole number"),
        ({"r": True}, "r is True; it must be a whole number"),
        ({"rank_pattern": {"q_proj": 2.5}}, r"rank_pattern\['q_proj'\] is 2.5; it must be a whole number"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is not an object"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"modules_to_save": True}, "modules_to_save is true; it must be a list of names"),
        ({"modules_to_save": "lm_head"}, 'modules_to_save is "lm_head"; it must be a list of names'),
        ({"modules_to_save": [1]}, r"modules_to_save is \[1\]; it must be a list of names"),
        ({"target_parameters": 7}, "target_parameters is 7; it must be a list of names"),
        ({"use_rslora": "false"}, 'use_rslora is "false"; it must be true or false'),
        ({"use_dora": 1}, "use_dora is 1; it must be true or false"),
        ({"init_lora_weights": {"a": 1}}, 'init_lora_weights is {"a": 1}; it must be true, false or the name'),
        ({"base_model_name_or_path": ["x"]}, r'base_model_name_or_path is \["x"\]; it must be a text'),
        ({"lora_alpha": 1e300}, r"adapter_config.json: lora_alpha gives module .* the scale 2.5e\+299; it must be bet"),
        ({"lora_alpha": 1e-300}, "the scale 2.5e-301; it must be between 1e-60 and 1e"),
        ({"r": 5}, f"module {FIRST.replace('q', 'o')} has rank 4, its adapter_config.json says 5"),
    ],
)
def test_configurations_that_are_not_plain_lora_are_refused_by_field(
    adapter: Path, fields: dict[str, Any], message: str
) -> None:
    rewrite(adapter, **fields)
    with pytest.raises(InputError, match=message) as caught:
        load_delta(adapter)
    assert "\n" not in str(caught.value)
    assert str(adapter) in str(caught.value)


def test_dora_saved_by_peft_is_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path, use_dora=True)
    with pytest.raises(InputError, match="DoRA"):
        load_delta(tmp_path)
    rewrite(tmp_path, use_dora=False)
    with pytest.raises(InputError, match=r"lora_magnitude_vector.* is not a LoRA factor"):
        load_delta(tmp_path)


def test_missing_files_are_named_with_the_way_out(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        load_delta(tmp_path / "nowhere")
    (adapter / "adapter_model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is missing"):
        load_delta(adapter)
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle, which is not read; convert it: cd "):
        load_delta(adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_delta(adapter)


def test_a_damaged_file_is_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole[:20], b"", b"\x00" * 64):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"adapter_model\.safetensors: not a readable safetensors file"):
            load_delta(adapter)


def test_damaged_contents_are_named_with_their_module(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    key = f"{PREFIX}{FIRST}.lora_B.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, file)
    with pytest.raises(InputError, match=rf"module {FIRST} has no lora_B\.weight"):
        load_delta(adapter)
    broken = tensors[key].clone()
    broken[0, :2] = torch.tensor([float("nan"), float("inf")])
    save_file({**tensors, key: broken}, file)
    with pytest.raises(NotFinite, match=rf"module {FIRST}: 2 of 32 entries \(6.25 %\) of lora_B are NaN or infinite"):
        load_delta(adapter)
    source = AdapterSource(adapter)  # reads the header only, so damage is found module by module
    with pytest.raises(NotFinite, match=f"module {FIRST}: 2 of 32"):
        source.read(FIRST)
    assert np.isfinite(source.read(FIRST.replace("q", "o")).B).all()
    save_file({**tensors, key: tensors[key].to(torch.int32)}, file)
    with pytest.raises(InputError, match=rf"{FIRST}\.lora_B\.weight is I32"):
        load_delta(adapter)
    save_file({**tensors, key: tensors[key][:, :3].contiguous()}, file)
    with pytest.raises(InputError, match=rf"module {FIRST}: B \(8, 3\) and A \(4, 6\)"):
        load_delta(adapter)
    save_file({**tensors, f"{PREFIX}lm_head.lora_magnitude_vector": torch.zeros(2)}, file)
    with pytest.raises(InputError, match=r"lm_head\.lora_magnitude_vector is not a LoRA factor"):
        load_delta(adapter)


def test_a_file_that_shrinks_after_it_was_opened_is_named(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    source = AdapterSource(adapter)
    file.write_bytes(file.read_bytes()[:-8])
    last = max(source.weights.entries.values(), key=lambda entry: entry.offset)
    (name,) = (name for name, entry in source.weights.entries.items() if entry == last)
    with pytest.raises(InputError, match=r"lora_[AB]\.weight is cut short; copy the file again"):
        source.weights.read(name)


def test_a_source_says_shapes_and_ranks_without_reading(tmp_path: Path) -> None:
    save_adapter(tmp_path, rank_pattern={"q_proj": 2})
    source, delta = AdapterSource(tmp_path), load_delta(tmp_path)
    assert source.shapes == delta.shapes
    assert (source.shapes[FIRST], source.ranks[FIRST], source.rank, delta.rank) == ((8, 6), 2, 2, 2)
    for name, factors in delta.modules.items():
        read = source.read(name)
        np.testing.assert_array_equal(read.B, factors.B)
        np.testing.assert_array_equal(read.A, factors.A)
        assert read.scale == factors.scale


def test_an_embeddings_update_has_its_output_on_the_left(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Embedding(11, 5)), LoraConfig(r=3, target_modules=["0"]))
    torch.nn.init.normal_(model.base_model.model[0].lora_embedding_A["default"])
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    (factors,) = load_delta(tmp_path).modules.values()
    assert factors.shape == (5, 11)  # hidden, vocabulary
    expected = model.base_model.model[0].get_delta_weight("default").detach().numpy().T
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(dense(factors), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_entries_that_are_not_finite_are_counted_and_large_ones_are_not_among_them(bad: float) -> None:
    large = np.full((4, 2), 1e308)  # finite, though their sum is not
    assert checked_factors(Factors(large, np.ones((2, 3)), 1.0), "m").B[0, 0] == 1e308
    broken = np.ones((2, 3))
    broken[:, 0] = bad
    with pytest.raises(NotFinite, match=r"m: 2 of 6 entries \(33.3 %\) of lora_A are NaN or infinite"):
        checked_factors(Factors(np.ones((4, 2)), broken, 1.0), "m")
    both = np.array([[np.inf, -np.inf, 1.0]])  # whose sum is NaN
    with pytest.raises(NotFinite, match="2 of 3"):
        checked_factors(Factors(np.ones((4, 1)), both, 1.0), "m")
    with pytest.raises(InputError, match="scale is"):
        checked_factors(Factors(np.ones((4, 2)), np.ones((2, 3)), bad), "m")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("update", "message"),
    [
        (Factors(np.full((3, 2), -1e61), np.ones((2, 4)), 1.0), "m: lora_B reaches 1e+61; beyond 1e-60 to 1e+60"),
        (Factors(np.ones((3, 2)), np.full((2, 4), 1e308), 1.0), "m: lora_A reaches 1e+308; "),
        (Factors(np.ones((3, 2)), np.ones((2, 4)), -1e299), "m: scale reaches 1e+299; "),
        (Factors(np.full((3, 2), 1e40), np.full((2, 4), 1e30), 1.0), "m: scale * B A reaches 1e+70; "),
        (Factors(np.ones((3, 2)), np.ones((2, 4)), 1e-61), "m: scale * B A is not zero, yet nowhere above 1e-61; "),
        # The product underflows to 0, so that it would pass for a zero update.
        (Factors(np.full((3, 2), 1e-200), np.full((2, 4), 1e-200), 1.0), "is not zero, yet nowhere above 0; "),
        (Dense(np.full((3, 4), 1e300)), "m: the update reaches 1e+300; "),
        (Dense(np.full((3, 4), 1e-300)), "m: the update is not zero, yet nowhere above 1e-300; "),
        (Dense(np.ones((3, 4)), np.full((2, 4), 1e300)), "m: lora_A reaches 1e+300; "),
    ],
)
def test_what_cannot_be_squared_is_refused(update: Update, message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_size(update, "m")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zero_update_passes_whatever_its_other_factor_is() -> None:
    zero, small = np.zeros((3, 2)), np.full((2, 4), 1e-50)
    for nothing in (Factors(zero, small, 1e-50), Factors(np.ones((3, 2)), small, 0.0), Dense(np.zeros((3, 4)))):
        check_size(nothing, "m")
        assert factor(nothing).rank == 0
    # At the bounds themselves.
    check_size(Factors(np.full((3, 2), 1e60), np.ones((2, 4)), 1.0), "m")
    check_size(Factors(np.full((3, 2), 1e60), np.full((2, 4), 1e-60), 1e-59), "m")


def test_shared_and_unshared_modules() -> None:
    factors = Factors(np.ones((3, 1)), np.ones((1, 2)), 1.0)
    a, b = (
        LoraDelta({"x.1.q": factors, "x.10.q": factors, "x.2.q": factors}),
        LoraDelta({"x.2.q": factors, "y": factors}),
    )
    assert shared(a, b) == ["x.2.q"]
    assert unshared(a, b) == (["x.1.q", "x.10.q"], ["y"])
    wide = LoraDelta({"x.2.q": Factors(np.ones((3, 1)), np.ones((1, 5)), 1.0)}, source="other")
    with pytest.raises(InputError, match=r"module x\.2\.q is \(3, 2\) in adapter and \(3, 5\) in other"):
        shared(a, wide)
    with pytest.raises(InputError, match="no LoRA module"):
        LoraDelta({})


def test_a_delta_cannot_be_changed() -> None:
    delta = LoraDelta({"m": Factors(np.ones((3, 1)), np.ones((1, 2)), 1.0)})
    with pytest.raises(TypeError):
        delta.modules["m"] = delta.modules["m"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("module", "layer", "projection"),
    [
        ("model.layers.12.self_attn.q_proj", 12, "q_proj"),
        ("transformer.h.3.attn.c_attn", 3, "c_attn"),
        ("lm_head", None, "lm_head"),
        ("lora_te_text_model_encoder_layers_7_self_attn_q_proj", 7, "self_attn_q_proj"),
    ],
)
def test_layer_and_projection(module: str, layer: int | None, projection: str) -> None:
    assert places([module]) == [("", layer, projection)]
