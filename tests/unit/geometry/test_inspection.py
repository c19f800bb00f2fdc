"""One adapter looked into: every code of the table is found where it belongs and nowhere else; numbers by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.core.errors import InputError
from tasks.geometry.adapters.checkpoint import Checkpoint
from tasks.geometry.inspection import CODES, Inspected, inspect_adapter, inspect_all

Tensors = dict[str, np.ndarray]
NAMES = [f"model.layers.{i}.self_attn.{kind}" for i in range(3) for kind in ("q_proj", "v_proj")]


def tensors(names: list[str] = NAMES, r: int = 4, seed: int = 0) -> Tensors:
    """A trained adapter of (8, 6) modules: lora_B a tenth of lora_A."""
    random = np.random.default_rng(seed)
    found: Tensors = {}
    for name in names:
        found[f"base_model.model.{name}.lora_A.weight"] = random.normal(size=(r, 6)).astype(np.float32)
        found[f"base_model.model.{name}.lora_B.weight"] = (0.1 * random.normal(size=(8, r))).astype(np.float32)
    return found


def write(folder: Path, weights: Mapping[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir(parents=True)
    settings = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "org/base",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    save_file(dict(tensors() if weights is None else weights), folder / "adapter_model.safetensors")
    return folder


def base(folder: Path, size: float = 1.0, names: list[str] = NAMES, shape: tuple[int, int] = (8, 6)) -> Checkpoint:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = {f"{name}.weight": np.full(shape, size, np.float32) for name in names}
    save_file(weights, folder / "model.safetensors")
    return Checkpoint(folder)


def codes(found: Inspected) -> list[str]:
    return [finding.code for finding in found.findings]


def test_a_sound_adapter_has_no_finding_and_its_numbers_are_those_of_the_formed_update(tmp_path: Path) -> None:
    found = inspect_adapter(write(tmp_path / "a"), base(tmp_path / "base"))
    raw = tensors()
    key = "base_model.model.{}.lora_{}.weight"
    formed = [2.0 * raw[key.format(n, "B")].astype(float) @ raw[key.format(n, "A")] for n in NAMES]
    norm = math.sqrt(sum((update**2).sum() for update in formed))
    assert found.findings == ()
    assert found.worst is None
    assert (found.modules, found.layers, found.parameters, found.dtype) == (6, 3, 6 * 4 * 14, "F32")
    assert found.norm == pytest.approx(norm, rel=1e-12)
    assert found.of_base == pytest.approx(norm / math.sqrt(6 * 48), rel=1e-12)
    q = math.sqrt(sum((update**2).sum() for update in formed[::2]))
    assert [(kind.projection, kind.modules, kind.rank) for kind in found.kinds] == [("q_proj", 3, 4), ("v_proj", 3, 4)]
    assert found.kinds[0].norm == pytest.approx(q, rel=1e-12)
    stable = [(s := np.linalg.svd(update, compute_uv=False)) @ s / s[0] ** 2 for update in formed[::2]]
    assert found.kinds[0].stable_rank == pytest.approx(np.median(stable), rel=1e-10)


def zero_b(weights: Tensors, names: list[str]) -> Tensors:
    return {
        key: np.zeros_like(value) if "lora_B" in key and any(name in key for name in names) else value
        for key, value in weights.items()
    }


def one_direction(weights: Tensors, name: str) -> Tensors:
    key = f"base_model.model.{name}.lora_B.weight"
    return weights | {key: np.outer(np.arange(1, 9), [1, 0, 0, 0]).astype(np.float32)}


def broken(weights: Tensors, name: str) -> Tensors:
    key = f"base_model.model.{name}.lora_B.weight"
    return weights | {key: np.full_like(weights[key], np.nan)}


@pytest.mark.parametrize(
    ("change", "config", "expected", "said"),
    [
        (lambda w: zero_b(w, NAMES), {}, ["zero-update"], "every lora_B is zero"),
        (lambda w: zero_b(w, NAMES[:2]), {}, ["dead-modules"], "2 of 6 modules (model.layers.0.self_attn.q_proj,"),
        (lambda w: broken(w, NAMES[3]), {}, ["not-finite"], "1 of 6 modules (model.layers.1.self_attn.v_proj) NaN"),
        (lambda w: one_direction(w, NAMES[4]), {}, ["rank-one"], "1 of 6 modules (model.layers.2.self_attn.q_proj)"),
        (lambda w: {k: v * (1e-3 if "lora_B" in k else 1) for k, v in w.items()}, {}, ["barely-trained"], "of lora_A"),
        (dict, {"target_modules": ["q_proj", "v_proj", "gate"]}, ["unmatched-target"], "names gate, which is"),
        (
            lambda w: {k: v for k, v in w.items() if "layers.1.self_attn.v" not in k}, {}, ["uneven-layers"],
            "1 of 3 layers have other modules than the rest: layer 1",
        ),
        (
            lambda w: w | {"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)}, {}, ["not-compared"],
            "lm_head",
        ),
        (dict, {"base_model_name_or_path": "unsloth/x-bnb-4bit"}, ["quantised-base"], "unsloth/x-bnb-4bit"),
        (dict, {"base_model_name_or_path": None}, ["no-base"], "names no base"),
        (dict, {"lora_alpha": 0}, ["alpha-zero"], "lora_alpha is 0"),
        (dict, {"use_dora": True}, ["dora"], "its magnitudes rescale the base's rows"),
        (dict, {"r": 7}, ["unreadable"], "do not belong together"),
    ],
)  # fmt: skip
def test_each_fault_has_its_code_and_no_other(
    tmp_path: Path, change: Callable[[Tensors], Tensors], config: dict[str, Any], expected: list[str], said: str
) -> None:
    found = inspect_adapter(write(tmp_path / "a", change(tensors()), **config))
    assert codes(found) == expected
    assert said in found.findings[0].said
    assert found.findings[0].severity == CODES[expected[0]][0]


def test_beside_a_large_base_the_same_update_is_tiny(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert codes(inspect_adapter(folder, base(tmp_path / "large", 1e6))) == ["barely-trained"]
    assert codes(inspect_adapter(folder, base(tmp_path / "usual", 1.0))) == []


def test_what_target_modules_names_is_counted_by_layer_in_the_file_and_in_the_base(tmp_path: Path) -> None:
    """Three layers of q and v; the base has two more layers, of which the file has nothing."""
    folder = write(tmp_path / "a")
    found = inspect_adapter(folder)
    assert [(one.entry, one.modules, one.layers) for one in found.targets] == [
        ("q_proj", 3, "0-2"),
        ("v_proj", 3, "0-2"),
    ]
    assert [kind.layers for kind in found.kinds] == ["0-2", "0-2"]
    more = [*NAMES, *(f"model.layers.{i}.self_attn.{kind}" for i in (4, 7) for kind in ("q_proj", "k_proj"))]
    found = inspect_adapter(folder, base(tmp_path / "base", names=more))
    assert codes(found) == ["uncovered"]
    assert "2 of 8 modules of the base" in found.findings[0].said
    assert "layers 4, 7" in found.findings[0].said
    assert (
        codes(inspect_adapter(write(tmp_path / "b", layers_to_transform=[0, 1, 2]), base(tmp_path / "c", 1, more)))
        == []
    )


@pytest.mark.parametrize(
    ("pattern", "expected", "said"),
    [
        (r".*layers\.[0-2]\..*(q|v)_proj", [], ""),
        (r".*mlp.*", ["unmatched-target"], "names .*mlp.*, which is no module"),
        ("all-linear", [], ""),
        ("(a+)+$", ["unmatched-target"], "no module"),
        ("(", ["unmatched-target"], "is not a regular expression"),
    ],
)
def test_target_modules_given_as_a_pattern(tmp_path: Path, pattern: str, expected: list[str], said: str) -> None:
    found = inspect_adapter(write(tmp_path / "a", target_modules=pattern))
    assert codes(found) == expected
    assert said in "".join(finding.said for finding in found.findings)


def test_another_model_given_as_the_base_is_said_and_nothing_is_held_against_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    for other in (base(tmp_path / "shape", shape=(8, 5)), base(tmp_path / "names", names=["h.0.attn"])):
        found = inspect_adapter(folder, other)
        assert codes(found) == ["wrong-base"]
        assert (found.of_base, found.kinds[0].of_base) == (None, None)
    assert found.norm == inspect_adapter(folder).norm


def test_a_model_card_says_that_the_base_was_quantised(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "README.md").write_text("## Training procedure\n- quant_method: bitsandbytes\n- _load_in_4bit: True\n")
    assert codes(inspect_adapter(folder)) == ["quantised-base"]


def test_a_pointer_and_copies_of_one_file(tmp_path: Path) -> None:
    a, b, c = (write(tmp_path / name) for name in "abc")
    save_file(tensors(seed=1), c / "adapter_model.safetensors")
    pointer = write(tmp_path / "d")
    (pointer / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    found = inspect_all([("a", a), ("b", b), ("c", c), ("d", pointer)])
    assert [codes(one) for one in found] == [["duplicate"], ["duplicate"], [], ["not-weights"]]
    assert "those of b, bit for bit" in found[0].findings[0].said
    assert [one.worst for one in found] == ["warning", "warning", None, "error"]


def test_a_vision_towers_layers_are_not_held_against_the_language_models(tmp_path: Path) -> None:
    names = [*NAMES, *(f"visual.blocks.{i}.{kind}" for i in range(3) for kind in ("proj", "qkv"))]
    targets = ["q_proj", "v_proj", "proj", "qkv"]
    assert codes(inspect_adapter(write(tmp_path / "a", tensors(names), target_modules=targets))) == []
    found = inspect_adapter(write(tmp_path / "b", tensors(names[:-1]), target_modules=targets))
    assert codes(found) == ["uneven-layers"]
    assert found.findings[0].said == "1 of 6 layers have other modules than the rest: visual.blocks 2"


def test_layers_left_out_on_purpose_are_no_finding(tmp_path: Path) -> None:
    uneven = {key: value for key, value in tensors().items() if "layers.1.self_attn.v" not in key}
    assert codes(inspect_adapter(write(tmp_path / "a", uneven, layers_to_transform=[0, 1, 2]))) == []


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        inspect_adapter(tmp_path)


def test_its_json_is_plain(tmp_path: Path) -> None:
    found = json.loads(json.dumps(inspect_adapter(write(tmp_path / "a", zero_b(tensors(), NAMES))).as_json()))
    assert found["findings"] == [{"code": "zero-update", "severity": "error", "said": found["findings"][0]["said"]}]
    assert found["adapter"] == "a"


def test_the_page_lists_every_code_with_its_severity() -> None:
    page = (Path(__file__).parents[3] / "docs" / "inspect.md").read_text(encoding="utf-8")
    for code, (severity, meaning) in CODES.items():
        assert f"| `{code}` | {severity} | {meaning} |" in page
