"""Adapters and models that people really have: each kind small, with siblings, and its right value or refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from tasks.core.errors import InputError
from tasks.core.places import core, places
from tasks.core.results import RunInfo
from tasks.geometry.adapters.adapter import AdapterSource
from tasks.geometry.adapters.arguments import label_all, locate, parse
from tasks.geometry.adapters.checkpoint import Checkpoint, changed
from tasks.geometry.adapters.other_formats import as_peft
from tasks.geometry.compare import Comparison, Named, compare, examine
from tasks.geometry.delta import LoraDelta, aligned, shared
from tests.lab.updates import random_factors

PREFIX = "base_model.model."
LAYERS = [f"model.layers.{i}.self_attn.{p}_proj" for i in (0, 1) for p in "qv"]
OUT, IN, R = 12, 9, 3

Tensors = dict[str, torch.Tensor]


def factors(seed: int, modules: list[str] = LAYERS, r: int = R) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> lora_A (r, in), lora_B (out, r)."""
    draw = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(r, IN, generator=draw), torch.randn(OUT, r, generator=draw)) for name in modules}


def peft_names(parts: Mapping[str, tuple[torch.Tensor, torch.Tensor]], infix: str = "") -> Tensors:
    return {
        f"{PREFIX}{name}.lora_{side}{infix}.weight": pair["AB".index(side)]
        for name, pair in parts.items()
        for side in "AB"
    }


def save(folder: Path, tensors: Tensors, file: str = "adapter_model.safetensors", **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
    fields = {"peft_type": "LORA", "r": R, "lora_alpha": 2 * R, **config}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def named(**folders: Path) -> list[Named]:
    return [Named(RunInfo(run, run, None, None, None), folder, str(folder)) for run, folder in folders.items()]


def cosine(found: Comparison, **where: Any) -> float:
    """Over all modules, or of the one row that ``where`` says."""
    rows = found.pair_metrics.filter(pl.col("metric") == "cosine")
    fields = {"module": "*", "layer": None, "projection": None, **where}
    for name, value in fields.items():
        rows = rows.filter(pl.col(name).is_null() if value is None else pl.col(name) == value)
    return rows["value"].item()


def by_hand(a: Mapping[str, Any], b: Mapping[str, Any], modules: list[str]) -> float:
    """Cosine of the products, multiplied out."""
    x, y = (np.concatenate([(m[n][1].double() @ m[n][0].double()).numpy().ravel() for n in modules]) for m in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def no_download(uri: str, scratch: Path) -> Path:
    raise AssertionError(uri)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, float]:
    a, b = factors(1), factors(2)
    return save(tmp_path / "a", peft_names(a)), save(tmp_path / "b", peft_names(b)), by_hand(a, b, LAYERS)


# --- what was trained beside the LoRA part -------------------------------------------------------------------------

WHOLE = {
    "resized vocabulary": ({"model.embed_tokens.weight": (70, IN), "lm_head.weight": (70, IN)}, {}, "2 whole tensors"),
    "saved head": ({"score.weight": (2, IN)}, {"modules_to_save": ["score"]}, "1 whole tensor (score.weight)"),
    "base layer": ({"model.embed_tokens.base_layer.weight": (64, IN)}, {}, "1 whole tensor (model.embed_tokens.base_l"),
    "new tokens": (
        {"model.embed_tokens.token_adapter.trainable_tokens_delta": (2, IN)},
        {"trainable_token_indices": [1, 2]},
        "1 whole tensor (model.embed_tokens.token_adapter",
    ),
    "biases": ({f"{LAYERS[0]}.base_layer.bias": (OUT,)}, {"bias": "lora_only"}, "1 bias ("),
    "LoRA's own bias": ({f"{LAYERS[0]}.lora_B.bias": (OUT,)}, {"lora_bias": True}, "1 bias ("),
    "convolution": (
        {"model.conv.lora_A.weight": (R, 4, 3, 3), "model.conv.lora_B.weight": (8, R, 1, 1)},
        {},
        "1 module that is no matrix (model.conv)",
    ),
    "stacked experts": (
        dict.fromkeys((f"model.layers.0.mlp.experts.w1.lora_{side}.weight" for side in "AB"), (4, 7, R)),
        {},
        "model.layers.0.mlp.experts.w1",
    ),
    "experts by target_parameters": (
        {"model.layers.0.mlp.experts.lora_A.weight": (4 * R, 9), "model.layers.0.mlp.experts.lora_B.weight": (7, 4 * R),
         "model.layers.0.mlp.experts.base_layer.lora_A.weight": (4 * R, 9),
         "model.layers.0.mlp.experts.base_layer.lora_B.weight": (7, 4 * R)},
        {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
        "2 modules that are no matrices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WHOLE)
def test_the_lora_part_is_compared_and_the_rest_is_listed(kind: str, tmp_path: Path) -> None:
    shapes, config, said = WHOLE[kind]
    a, b = factors(1), factors(2)
    rest = {f"{PREFIX}{name}": torch.ones(shape) for name, shape in shapes.items()}
    folders = {
        run: save(tmp_path / run, {**peft_names(parts), **rest}, **config) for run, parts in (("a", a), ("b", b))
    }
    found = compare(named(**folders), (1,))
    assert cosine(found) == pytest.approx(by_hand(a, b, LAYERS), abs=1e-12)
    for note in found.adapters["note"]:
        assert note.startswith("not compared: ")
        assert said in note
    assert found.adapters["modules"].to_list() == [4, 4]


def test_an_embeddings_factors_are_compared_beside_its_base_layer(tmp_path: Path) -> None:
    parts = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": torch.ones(R, 64),
        f"{PREFIX}model.embed_tokens.lora_embedding_B": torch.ones(IN, R),
        f"{PREFIX}model.embed_tokens.base_layer.weight": torch.ones(64, IN),
    }
    source = AdapterSource(save(tmp_path / "a", {**peft_names(factors(1)), **parts}))
    assert source.shapes["model.embed_tokens"] == (IN, 64)
    assert source.note == "not compared: 1 whole tensor (model.embed_tokens.base_layer.weight)"


def test_a_file_with_no_factor_of_a_matrix_says_what_it_holds(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", {f"{PREFIX}lm_head.weight": torch.ones(3, 3)})
    with pytest.raises(InputError, match=r"no LoRA module in it; not compared: 1 whole tensor \(lm_head.weight\)"):
        AdapterSource(folder)


def test_names_of_a_trainers_own_state_are_read(tmp_path: Path, pair: tuple[Path, Path, float]) -> None:
    other = save(tmp_path / "state", peft_names(factors(2), ".default"))
    assert cosine(compare(named(a=pair[0], b=other), (1,))) == pytest.approx(pair[2], abs=1e-12)


# --- updates that cannot be had ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "lost"),
    [("pissa_niter_16", "a random draw"), ("pissa_niter_4", "a random draw"), ("lora_ga", "gradients of its data"),
     ("corda", "covariances of its data")],
)  # fmt: skip
def test_a_start_that_no_file_holds_gives_no_number_with_or_without_the_base(
    init: str, lost: str, tmp_path: Path, pair: tuple[Path, Path, float], base: Path
) -> None:
    lonely = save(tmp_path / "lost", peft_names(factors(3)), init_lora_weights=init)
    for given in (None, base):
        with pytest.raises(InputError, match=f"init_lora_weights is '{init}': it began from {lost}, which no file"):
            examine(named(a=pair[0], b=lonely), given)


def test_micas_frozen_factor_is_in_the_file_and_read(tmp_path: Path, pair: tuple[Path, Path, float]) -> None:
    other = save(tmp_path / "mica", peft_names(factors(2)), init_lora_weights="mica")
    assert cosine(compare(named(a=pair[0], b=other), (1,))) == pytest.approx(pair[2], abs=1e-12)


# --- towers and spellings ------------------------------------------------------------------------------------------

VISION = [f"model.visual.blocks.{i}.attn.proj" for i in (0, 1)]
LANGUAGE = [f"model.language_model.layers.{i}.self_attn.o_proj" for i in (0, 1)]
AUDIO = [f"audio_tower.layers.{i}.fc1" for i in (0, 1)]
ENCODER = [f"encoder.block.{i}.layer.0.SelfAttention.q" for i in (0, 1)]
DECODER = [f"decoder.block.{i}.layer.1.EncDecAttention.q" for i in (0, 1)]


@pytest.mark.parametrize(
    ("other", "tower"), [(VISION, "visual.blocks"), (AUDIO, "audio_tower.layers"), (ENCODER, "encoder.block")]
)
def test_layers_of_two_towers_are_never_one(other: list[str], tower: str, tmp_path: Path) -> None:
    """The other tower's updates are equal, the language model's are not related: no number mixes them."""
    language = [*DECODER, DECODER[0].replace("block.0", "block.2")] if tower == "encoder.block" else LANGUAGE
    same, a, b = factors(9, other), factors(1, language), factors(2, language)
    folders = {run: save(tmp_path / run, peft_names({**same, **own})) for run, own in (("a", a), ("b", b))}
    found = compare(named(**folders), (1,))
    assert cosine(found, layer=0) == pytest.approx(by_hand(a, b, language[:1]), abs=1e-12)
    assert cosine(found, layer=0, projection=f"{tower}.*") == pytest.approx(1, abs=1e-12)
    last = other[0].rsplit(".", 1)[1]
    assert cosine(found, projection=f"{tower}.*.{last}") == pytest.approx(1, abs=1e-12)
    assert cosine(found, projection=language[0].rsplit(".", 1)[1]) == pytest.approx(by_hand(a, b, language), abs=1e-12)


def test_layers_of_two_towers_are_drawn_apart() -> None:
    found = places(VISION + LANGUAGE)
    assert len({place.cluster for place in found}) == 4
    assert [place.layer for place in found] == [0, 1, 0, 1]
    assert len({place.cluster for place in places(LANGUAGE)}) == 2


SPELLINGS = [
    lambda name: name.replace("model.", "model.language_model.", 1),
    lambda name: f"language_model.{name}",
    lambda name: f"_orig_mod.{name}",
    lambda name: name.replace("layers.", "_orig_mod.layers.", 1),
    lambda name: f"module.{name}",
    lambda name: f"base_model.model.{name}",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_model_in_two_spellings_is_one_model(
    spelling: Callable[[str], str], tmp_path: Path, pair: tuple[Path, Path, float]
) -> None:
    other = save(tmp_path / "new", peft_names({spelling(name): both for name, both in factors(2).items()}))
    found = compare(named(a=pair[0], b=other), (1,))
    assert cosine(found) == pytest.approx(pair[2], abs=1e-12)
    assert found.unshared.is_empty()
    assert set(found.pair_metrics["module"]) == {"*", *LAYERS}  # as the first spells them


def test_spellings_that_could_be_two_modules_are_left_apart() -> None:
    rng = np.random.default_rng(0)
    one = random_factors(rng, OUT, IN, R)
    both = LoraDelta({"model.layers.0.q_proj": one, "language_model.layers.0.q_proj": one, "layers.1.q_proj": one})
    other = LoraDelta({"transformer.layers.0.q_proj": one, "model.layers.1.q_proj": one})
    assert list(aligned([both, other])[1].shapes) == ["layers.1.q_proj", "transformer.layers.0.q_proj"]
    renamed = aligned([other, both])[1]
    assert sorted(renamed.shapes) == [
        "language_model.layers.0.q_proj",
        "model.layers.0.q_proj",
        "model.layers.1.q_proj",
    ]
    vision = LoraDelta({"vision_model.layers.0.q_proj": one})
    apart = aligned([both, vision])
    with pytest.raises(InputError, match="no module in common"):
        shared(*apart)


def test_tinkers_output_layer_is_the_head() -> None:
    assert core("model.unembed_tokens") == core("lm_head") == "lm_head"


# --- other formats -------------------------------------------------------------------------------------------------


def mlx(folder: Path, seed: int, scale: Any = 2.0, kind: str = "lora", dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir()
    tensors = {}
    for name, (a, b) in factors(seed).items():
        tensors |= {f"{name}.lora_a": a.T.contiguous().to(dtype), f"{name}.lora_b": b.T.contiguous().to(dtype)}
    save_file(tensors, folder / "adapters.safetensors")
    config = {"fine_tune_type": kind, "model": "org/base", "lora_parameters": {"rank": R, "scale": scale}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mlx_is_read_turned_and_with_its_scale(
    dtype: torch.dtype, tmp_path: Path, pair: tuple[Path, Path, float]
) -> None:
    folder = locate(parse(str(mlx(tmp_path / "mlx", 2, 0.5, dtype=dtype))), no_download, tmp_path / "scratch")
    source = AdapterSource(folder)
    a, b = factors(2)[LAYERS[0]]
    expected = 0.5 * (b.to(dtype).double() @ a.to(dtype).double()).numpy()
    read = source.read(LAYERS[0])
    np.testing.assert_allclose(read.scale * read.B @ read.A, expected, rtol=1e-12)
    found = compare(named(a=pair[0], b=folder), (1,))
    if dtype == torch.float32:
        assert cosine(found) == pytest.approx(pair[2], abs=1e-12)
    assert found.adapters["note"].to_list() == [None, "scale 0.5 of MLX's configuration"]
    assert found.adapters["base"].to_list() == [None, "org/base"]


def test_the_same_file_elsewhere_is_written_alike(tmp_path: Path) -> None:
    one, two = (as_peft(mlx(tmp_path / name, 2), tmp_path / "scratch") for name in ("here", "there"))
    assert one is not None
    assert two is not None
    assert one != two
    assert all((one / file.name).read_bytes() == file.read_bytes() for file in two.iterdir())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "dora"}, "fine_tune_type is 'dora'; of MLX's adapters LoRA is read"),
        ({"kind": "full"}, "fine_tune_type is 'full'"),
        ({"scale": None}, "lora_parameters.scale is None; it must be a positive number"),
        ({"scale": -1}, "lora_parameters.scale is -1"),
        ({"scale": True}, "lora_parameters.scale is True"),
    ],
)
def test_mlx_that_cannot_be_scaled_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = mlx(tmp_path / "mlx", 2, **settings)
    with pytest.raises(InputError, match=said):
        locate(parse(str(folder)), no_download, tmp_path / "scratch")


def kohya(seed: int, alpha: float | None) -> Tensors:
    found: Tensors = {}
    for i, (a, b) in enumerate(factors(seed).values()):
        name = f"lora_te_text_model_encoder_layers_{i}_self_attn_q_proj"
        found |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        if alpha is not None:
            found[f"{name}.alpha"] = torch.tensor(alpha * (i + 1))
    return found


def diffusers(seed: int, down: str, up: str) -> Tensors:
    return {
        f"unet.blocks.{i}.attn.to_q{name}": part
        for i, both in enumerate(factors(seed).values())
        for name, part in zip((down, up), both, strict=True)
    }


@pytest.mark.parametrize(
    ("tensors", "metadata", "scales", "said"),
    [
        (kohya(2, 1.5), None, [0.5, 1.0, 1.5, 2.0], "alpha of each module"),
        (kohya(2, None), {"ss_network_alpha": "6"}, [2.0] * 4, "alpha 6 of the file's metadata"),
        (kohya(2, None), None, [1.0] * 4, "alpha is not stored: taken as the rank (scale 1)"),
        (diffusers(2, ".lora.down.weight", ".lora.up.weight"), None, [1.0] * 4, "alpha is not stored"),
        (diffusers(2, "_lora.down.weight", "_lora.up.weight"), None, [1.0] * 4, "alpha is not stored"),
        (
            diffusers(2, ".lora_A.weight", ".lora_B.weight"),
            {"lora_adapter_metadata": json.dumps({"unet.r": R, "unet.lora_alpha": 9})},
            [3.0] * 4,
            "alpha 9 of the file's metadata",
        ),
    ],
)
def test_kohya_and_diffusers_are_read_from_their_one_file(
    tensors: Tensors, metadata: dict[str, str] | None, scales: list[float], said: str, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    file = tmp_path / "x" / "style.safetensors"
    save_file(tensors, file, metadata)
    for given in (file, file.parent):
        source = AdapterSource(locate(parse(str(given)), no_download, tmp_path / "scratch"))
        for (a, b), scale, module in zip(factors(2).values(), scales, source.shapes, strict=True):
            read = source.read(module)
            np.testing.assert_allclose(
                read.scale * read.B @ read.A, scale * (b.double() @ a.double()).numpy(), rtol=1e-12
            )
        assert [place.layer for place in places(source.shapes)] == [0, 1, 2, 3]
    examined = locate(parse(str(file)), no_download, tmp_path / "scratch")
    assert said in compare(named(a=examined, b=examined), (1,)).adapters["note"][0]
    assert label_all([parse(str(file))]) == ["style"]


@pytest.mark.parametrize("told", ["[" * 3000, '{"unet.lora_alpha": [1]}', '{"unet.lora_alpha": true}', "NaN", "null"])
def test_metadata_that_says_nothing_is_no_alpha(told: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file(kohya(2, None), file, {"lora_adapter_metadata": told})
    folder = as_peft(file, tmp_path / "scratch")
    assert folder is not None
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == R


def test_a_file_without_factors_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no LoRA factors in it"):
        locate(parse(str(tmp_path / "x.safetensors")), no_download, tmp_path)


# --- files that are something else ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 133\n", r"a Git LFS pointer \(\d+ bytes\)"),
        (b"# xet version 0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page, not weights"),
    ],
)
def test_what_was_saved_in_place_of_weights_is_named(
    content: bytes, said: str, pair: tuple[Path, Path, float], base: Path
) -> None:
    (pair[1] / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=said):
        examine(named(a=pair[0], b=pair[1]))
    (base / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=said):
        Checkpoint(base)


@pytest.mark.parametrize("shape", [(0,), (0, IN)])
def test_weights_that_zero3_left_empty_are_named(
    shape: tuple[int, ...], tmp_path: Path, pair: tuple[Path, Path, float], base: Path
) -> None:
    empty = save(tmp_path / "empty", {name: torch.zeros(shape) for name in peft_names(factors(1))})
    with pytest.raises(InputError, match=r"8 of 8 tensors are empty .* DeepSpeed ZeRO-3"):
        examine(named(a=pair[0], b=empty))
    save_file({f"{name}.weight": torch.zeros(shape) for name in LAYERS}, base / "model.safetensors")
    with pytest.raises(InputError, match=r"4 of 4 tensors are empty .* DeepSpeed ZeRO-3"):
        Checkpoint(base)


# --- whole models and bases ----------------------------------------------------------------------------------------


def model(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False, **config}))
    return folder


def weights(rows: int = 20, seed: int = 0) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    ends = {f"{name}.weight": torch.randn(rows, IN, generator=draw) for name in ("model.embed_tokens", "lm_head")}
    return {f"{name}.weight": torch.randn(OUT, IN, generator=draw) for name in LAYERS} | ends


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return model(tmp_path / "base", weights())


@pytest.mark.parametrize("rows", [21, 64, 19])
def test_a_full_fine_tune_with_another_vocabulary_is_compared_but_for_it(rows: int, base: Path, tmp_path: Path) -> None:
    other = weights()
    other[f"{LAYERS[0]}.weight"] += 1
    other |= {name: torch.ones(rows, IN) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    found = changed(Checkpoint(base), Checkpoint(model(tmp_path / "full", other)))
    assert found == ([LAYERS[0]], ["lm_head.weight", "model.embed_tokens.weight"])
    wide = {**other, f"{LAYERS[1]}.weight": torch.ones(OUT + 1, IN)}
    with pytest.raises(InputError, match="give the model that it was trained from"):
        changed(Checkpoint(base), Checkpoint(model(tmp_path / "wide", wide)))


PACKED = {
    "bitsandbytes, 4 bit": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {f"{LAYERS[0]}.weight": torch.zeros(54, 1, dtype=torch.uint8), f"{LAYERS[0]}.weight.absmax": torch.ones(2)},
    ),
    "fp8": (
        {"quant_method": "fp8"},
        {f"{LAYERS[0]}.weight": torch.zeros(OUT, IN, dtype=torch.float8_e4m3fn)},
    ),
    "GPTQ": (None, {f"{LAYERS[0]}.qweight": torch.zeros(2, OUT, dtype=torch.int32)}),
    "mxfp4": (None, {"model.layers.0.mlp.experts.down_proj_blocks": torch.zeros(2, 3, dtype=torch.uint8)}),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_quantised_base_is_refused_by_name(kind: str, tmp_path: Path, pair: tuple[Path, Path, float]) -> None:
    said, packed = PACKED[kind]
    folder = model(tmp_path / "q", {**weights(), **packed}, **({"quantization_config": said} if said else {}))
    with pytest.raises(InputError, match=r"its weights are quantised \(.*give the model as it was before quantising"):
        examine(named(a=pair[0], b=pair[1]), folder)


def test_masks_and_positions_are_not_quantised_weights(tmp_path: Path) -> None:
    buffers = {"h.0.attn.bias": torch.ones(1, 4, 4, dtype=torch.uint8), "ids": torch.arange(4)}
    assert Checkpoint(model(tmp_path / "gpt2", {**weights(), **buffers})).shapes["ids"] == (4,)


# --- where it lies -------------------------------------------------------------------------------------------------


def test_a_trainers_folder_names_its_checkpoints(tmp_path: Path) -> None:
    for step in (50, 100, 1000):
        save(tmp_path / "run" / f"checkpoint-{step}", peft_names(factors(step)))
    with pytest.raises(InputError, match=r"give one of the adapters below it: \S+-50, \S+-100, \S+-1000$"):
        locate(parse(str(tmp_path / "run")), no_download, tmp_path)
    with pytest.raises(InputError, match=r"give one of the adapters below it: \S+-50, "):
        locate(parse(str(tmp_path)), no_download, tmp_path)


def test_a_folder_of_the_hubs_cache_has_its_repositorys_name(tmp_path: Path) -> None:
    folders = []
    for name, commit in (("models--lab--qwen3-a-lora", "8f" * 20), ("models--lab--qwen3-b-lora", "0a" * 20)):
        folders.append(save(tmp_path / "hub" / name / "snapshots" / commit, peft_names(factors(1))))
    assert label_all([parse(str(folder)) for folder in folders]) == ["qwen3-a-lora", "qwen3-b-lora"]
    replicates = [tmp_path / "hub" / f"models--{owner}--x" / "snapshots" / ("c" * 40) for owner in ("ann", "bob")]
    for folder in replicates:
        save(folder, peft_names(factors(1)))
    assert label_all([parse(str(folder)) for folder in replicates]) == ["ann", "bob"]
