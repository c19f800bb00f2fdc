from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM

from tasks.geometry.adapters.checkpoint import Checkpoint, changed
from tasks.geometry.adapters.merged import merge
from tasks.geometry.adapters.peft_config import NOT_PLAIN, explain
from tests.lab.foreign_adapters import tiny_base
from tests.lab.refusals import refusal as refused

Q = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
DOWN = [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]
NORMS = [f"model.layers.{i}.input_layernorm.weight" for i in (0, 1)]
SHAPES = {"q_proj": (40, 32), "down_proj": (32, 48), "lm_head": (24, 32), "embed_tokens": (24, 32)}
IDS = torch.arange(12).view(1, 12)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A random Qwen3 of two layers, hidden 32, saved in a dtype, tied or not; each made once."""
    made: dict[tuple[bool, torch.dtype], Path] = {}

    def base(tied: bool = False, dtype: torch.dtype = torch.float32) -> Path:
        if (tied, dtype) not in made:
            made[tied, dtype] = tiny_base(tmp_path_factory.mktemp("base"), dtype=dtype, tied=tied)
        return made[tied, dtype]

    return base


def train(base: Path, folder: Path, config: Any, seed: int = 1) -> Any:
    """An adapter made by PEFT, with noise added to everything that it trains, saved by PEFT; the model in float32."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(Qwen3ForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], **settings})


def update(base: Path, out: Path, module: str) -> np.ndarray:
    """(out, in) merged weight less the ORIGINAL one."""
    shape = SHAPES[module.rsplit(".", 1)[-1]]
    return Checkpoint(out).read_weight(module, shape) - Checkpoint(base).read_weight(module, shape)


def parts(folder: Path, module: str) -> dict[str, np.ndarray]:
    """The adapter's own tensors of a module, float64."""
    prefix = f"base_model.model.{module}."
    tensors = load_file(folder / "adapter_model.safetensors")
    return {key.removeprefix(prefix): t.double().numpy() for key, t in tensors.items() if key.startswith(prefix)}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


CASES: dict[str, tuple[Any, tuple[list[str], list[str]]]] = {
    "dora": (lora(use_dora=True), (Q, [])),
    "pissa": (lora(init_lora_weights="pissa"), (Q, [])),
    "olora": (lora(init_lora_weights="olora"), (Q, [])),
    "modules_to_save": (lora(modules_to_save=["lm_head"]), (["lm_head", *Q], [])),
    "norms_saved": (lora(modules_to_save=["input_layernorm"]), (Q, NORMS)),
    "tokens": (lora(trainable_token_indices=[1, 2]), (["model.embed_tokens", *Q], [])),
    "loha": (peft.LoHaConfig(r=4, target_modules=["q_proj"]), (Q, [])),
    "lokr": (peft.LoKrConfig(r=4, target_modules=["q_proj"]), (Q, [])),
    "vera": (peft.VeraConfig(r=4, target_modules=["q_proj"]), (Q, [])),
    "oft": (peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"]), (Q, [])),
    "ia3": (
        peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
        (sorted(DOWN + Q), []),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_merged_model_answers_as_the_adapter_and_changes_nothing_else(
    base_of: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    config, expected = CASES[name]
    base, adapter, out = base_of(), tmp_path / "adapter", tmp_path / "out"
    model = train(base, adapter, config)
    assert explain(json.loads((adapter / "adapter_config.json").read_text()))
    before = torch.random.get_rng_state()
    merge(adapter, base, out)
    assert torch.equal(before, torch.random.get_rng_state())
    assert changed(Checkpoint(base), Checkpoint(out)) == expected
    with torch.no_grad():
        merged = Qwen3ForCausalLM.from_pretrained(out, dtype=torch.float32).eval()(IDS).logits
        original = Qwen3ForCausalLM.from_pretrained(base).eval()(IDS).logits
        adapted = model(IDS).logits
    assert float((merged - adapted).abs().max()) < 2e-6
    assert float((original - adapted).abs().max()) > 1e-4  # otherwise the line above says nothing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rslora_as_a_control_gives_its_factors_product(
    base_of: Callable[..., Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    base, adapter, out = base_of(dtype=dtype), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, lora(use_rslora=True))
    merge(adapter, base, out)
    for module in Q:
        p = parts(adapter, module)
        expected = 6 / np.sqrt(4) * p["lora_B.weight"] @ p["lora_A.weight"]
        found = update(base, out, module)
        assert relative(found, expected) < 1e-13
        s = np.linalg.svd(found, compute_uv=False)
        assert s[4] < 1e-12 * s[0]  # rank 4 and no tail of rounding, which a merge in float32 would have


def test_dora_is_its_formula_in_float64(base_of: Callable[..., Path], tmp_path: Path) -> None:
    """DoRA (arXiv 2402.09353, eq. 5): W' = m (W + s B A) / |W + s B A|, norms row by row of the (out, in) weight."""
    base, adapter, out = base_of(), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, lora(use_dora=True))
    merge(adapter, base, out)
    for module in Q:
        p, w = parts(adapter, module), Checkpoint(base).read_weight(module, (40, 32))
        direction = w + 6 / 4 * p["lora_B.weight"] @ p["lora_A.weight"]
        magnitude = p["lora_magnitude_vector"]
        expected = magnitude[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True) - w
        assert relative(update(base, out, module), expected) < 1e-12
        assert relative(direction - w, expected) > 0.1  # scale * B A alone would be wrong


def test_pissa_is_measured_from_the_original_base(base_of: Callable[..., Path], tmp_path: Path) -> None:
    """PiSSA (arXiv 2404.02948): B0 A0 is the base's own rank-r part, so dW = s (B A - B0 A0), of rank at most 2 r."""
    base, adapter, out = base_of(), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, lora(init_lora_weights="pissa"))
    merge(adapter, base, out)
    for module in Q:
        p, w = parts(adapter, module), Checkpoint(base).read_weight(module, (40, 32))
        u, s, vt = np.linalg.svd(w, full_matrices=False)
        product = 6 / 4 * p["lora_B.weight"] @ p["lora_A.weight"]
        expected = product - (u[:, :4] * s[:4]) @ vt[:4]
        assert relative(update(base, out, module), expected) < 1e-5  # PEFT subtracts in float32
        assert relative(product, expected) > 0.5


def test_loha_is_its_formula(base_of: Callable[..., Path], tmp_path: Path) -> None:
    """LoHa (arXiv 2108.06098): dW = alpha / r (w1a w1b) * (w2a w2b), entry by entry."""
    base, adapter, out = base_of(), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, peft.LoHaConfig(r=4, alpha=8, target_modules=["q_proj"]))
    merge(adapter, base, out)
    for module in Q:
        p = parts(adapter, module)
        product = (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])
        assert relative(update(base, out, module), 8 / 4 * product) < 1e-12


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("tied", [False, True])
def test_saved_output_layer_is_compared_also_where_the_base_ties_it(
    base_of: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    base, adapter, out = base_of(tied), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, lora(modules_to_save=["lm_head"]))
    merge(adapter, base, out)
    assert changed(Checkpoint(base), Checkpoint(out)) == (["lm_head", *Q], [])
    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"].double().numpy()
    expected = saved - Checkpoint(base).read_weight("lm_head", (24, 32))
    np.testing.assert_array_equal(update(base, out, "lm_head"), expected)


def test_random_initial_factors_cannot_be_had_back(base_of: Callable[..., Path], tmp_path: Path) -> None:
    """pissa_niter: the draw of training is lost. The same seed gives one result, another seed another one."""
    base, adapter = base_of(), tmp_path / "adapter"
    train(base, adapter, lora(init_lora_weights="pissa_niter_1"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        merge(adapter, base, tmp_path / name, seed=seed)
    a, b, c = (update(base, tmp_path / name, Q[0]) for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert relative(c, a) > 1e-2


# --- what is refused -----------------------------------------------------------------------------------------------


def refusal(adapter: Path, base: Path, out: Path) -> str:
    said = refused(merge, adapter, base, out)
    assert said.startswith(str(adapter))
    return said


@pytest.mark.parametrize(
    ("config", "tied", "said"),
    [
        (lora(lora_bias=True), False, "Impossible to merge LoRA with `lora_bias=True`"),
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), False, "learns a prompt"),
        (lora(target_modules=["lm_head"], use_dora=True), True, "adapts lm_head, which the base ties"),
        (lora(target_modules=["embed_tokens"], use_dora=True), True, "adapts model.embed_tokens, which the base ties"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_peft_cannot_merge_is_refused_in_one_line(
    base_of: Callable[..., Path], tmp_path: Path, config: Any, tied: bool, said: str
) -> None:
    train(base_of(tied), tmp_path / "adapter", config)
    assert said in refusal(tmp_path / "adapter", base_of(tied), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_missing_unknown_of_another_base_or_nan_are_refused(
    base_of: Callable[..., Path], base_model: Path, tmp_path: Path
) -> None:
    """PEFT only warns of the first, and says nothing of the second: its merged model would be silently wrong."""
    base, adapter, out = base_of(), tmp_path / "adapter", tmp_path / "out"
    train(base, adapter, lora(use_dora=True))
    file = adapter / "adapter_model.safetensors"
    good = load_file(file)
    key = f"base_model.model.{Q[0]}.lora_B.weight"
    save_file({name: t for name, t in good.items() if name != key}, file)
    assert "lacks weights" in refusal(adapter, base, out)
    save_file({**good, key.replace("layers.0", "layers.7"): good[key].clone()}, file)
    assert "weights without a place" in refusal(adapter, base, out)
    save_file({**good, key: torch.full_like(good[key], torch.nan)}, file)
    assert "NaN" in refusal(adapter, base, out)
    save_file(good, file)
    assert str(base_model) in refusal(adapter, base_model, out)
    assert "no model directory" in refusal(adapter, tmp_path / "nowhere", out)
    file.rename(adapter / "adapter_model.bin")
    assert "adapter_model.safetensors is missing" in refusal(adapter, base, out)


# --- why -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"use_rslora": True, "rank_pattern": {"q": 2}, "alpha_pattern": {"q": 1}, "bias": "none"}, None),
        ({"init_lora_weights": "gaussian", "modules_to_save": None, "use_dora": False}, None),
        ({"use_dora": True}, "DoRA rescales the rows"),
        ({"init_lora_weights": "pissa"}, "PiSSA changes the base weights"),
        ({"init_lora_weights": "olora"}, "OLoRA changes the base weights"),
        ({"init_lora_weights": "novel"}, "init_lora_weights is 'novel'"),
        ({"modules_to_save": ["lm_head", "score"]}, "modules_to_save holds whole weights: lm_head, score"),
        ({"bias": "lora_only"}, "biases are trained (bias 'lora_only')"),
        ({"use_dora": True, "bias": "all"}, "DoRA rescales the rows; biases are trained (bias 'all')"),
        ({"peft_type": "LOHA"}, "peft_type is LOHA"),
    ],
)
def test_explain(fields: dict[str, Any], reason: str | None) -> None:
    assert explain({"peft_type": "LORA", "r": 4, **fields}) == reason


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_explain_knows_every_field_that_is_not_plain(name: str) -> None:
    assert explain({"peft_type": "LORA", name: ["x"]})
    assert explain({"peft_type": "LORA", name: None}) is None
